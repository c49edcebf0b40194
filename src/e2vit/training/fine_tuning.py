"""Fine-tuning a symmetrized model in three regimes, the same for every aggregate.

none: the model as it was trained; head: its last layer and the aggregate; all: every weight. In the first two the
features of all views are constants. They are computed once for each split and kept, so that a run takes seconds, and
every method sees the same numbers. Each learning rate is tried from the same start; validation chooses rate and epoch.
"""

import copy
import hashlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from e2vit import metrics
from e2vit.data import Split, as_float
from e2vit.groups import FiniteGroup
from e2vit.models import Symmetrized
from e2vit.models.symmetrized.aggregates import mean_logits
from e2vit.training.loop import Diverged, OutOfTime, TrainConfig, Trained, discard_state, train, write_atomically
from e2vit.training.state import check_counts

REGIMES = ("none", "head", "all")


@dataclass(frozen=True)
class FineTuneConfig:
    regime: str = "head"
    epochs: int = 10
    batch_size: int = 128
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)  # learning rates to choose from
    warmup_epochs: float = 0.5
    weight_decay: float = 0.05
    augment: str = "none"  # of the images before their views are made, in the regime "all"
    keep: str = "best"
    validation_images: int | None = None  # how many are looked at, the first ones; all when left out
    test_images: int | None = None

    def __post_init__(self):
        if self.regime not in REGIMES:
            raise ValueError(f"regime is one of {', '.join(REGIMES)}, not {self.regime!r}")
        if self.epochs < 1 or self.batch_size < 1 or not self.rates:
            raise ValueError("epochs and batch_size start at 1, and at least one learning rate is tried")
        check_counts(self)

    def with_rate(self, rate: float) -> TrainConfig:
        """What ``train`` is told when every weight may move."""
        return TrainConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=rate,
            augment=self.augment,
            warmup_epochs=self.warmup_epochs,
            weight_decay=self.weight_decay,
            keep=self.keep,
        )


def fine_tune(
    model: Symmetrized,
    train_split: Split,
    validation: Split,
    config: FineTuneConfig,
    *,
    seed: int = 0,
    state_path: Path | None = None,
    deadline: float = math.inf,
    accelerator: Accelerator,
    watch: Split | None = None,
    progress: bool = False,
) -> Trained:
    """Fine-tunes in place, like ``train``; the curve also names the learning rate of each epoch.

    state_path: where each learning rate's run of the regime "all" keeps its state; the others are too short to need it.
    """
    model.to(accelerator.device)
    if config.regime == "none":
        model.eval()
        return Trained([], 0, 0.0)
    start = copy.deepcopy(model.state_dict())
    curve: list[dict] = []
    best, seconds = None, 0.0
    for number, rate in enumerate(config.rates):
        model.load_state_dict(start)
        if config.regime == "all":
            path = state_path and state_path.with_suffix(f".rate{number}.safetensors")
            trained = train(
                model,
                train_split,
                validation,
                config.with_rate(rate),
                seed=seed,
                state_path=path,
                deadline=deadline,
                accelerator=accelerator,
                watch=watch,
                progress=progress,
            )
            entries = [entry | {"rate": rate} for entry in trained.curve]
            epochs = iter([(entries[trained.chosen_epoch - 1], trained.seconds)])
        else:
            entries = []
            epochs = _train_head(model, train_split, validation, config, rate, seed, deadline)
        for entry, spent in epochs:  # the model has the weights of that entry while it is looked at
            seconds += spent
            if config.regime == "head":
                entries.append(entry)
            if best is None or _merit(entry) > _merit(best[0]):
                best = entry, copy.deepcopy(model.state_dict()), len(curve) + entry["epoch"]
        curve += entries
    model.load_state_dict(best[1])
    model.eval()
    return Trained(curve, best[2], seconds)


def discard_states(state_path: Path, config: FineTuneConfig) -> None:
    """Removes what ``fine_tune`` kept for the regime "all"."""
    for number in range(len(config.rates)):
        discard_state(state_path.with_suffix(f".rate{number}.safetensors"))


def against_averaging(model: Symmetrized, base: nn.Module, split: Split) -> dict[str, float | int]:
    """The model against plain test-time augmentation of the base with the same views, image by image (McNemar).

    only_this, only_averaging: the images that only one of the two gets right; p_value: exact, two-sided.
    one_view_accuracy: that of the base on the same images, each seen once, as it is.
    """
    averaged, single = (
        Symmetrized(base, model.group, rule, interpolation=model.interpolation, fill=model.fill)
        for rule in (mean_logits, first_view)
    )
    this, other, one = (predict(m, split.images).argmax(-1) == split.labels for m in (model, averaged, single))
    return {
        "only_this": int((this & ~other).sum()),
        "only_averaging": int((other & ~this).sum()),
        "p_value": metrics.mcnemar(this, other),
        "one_view_accuracy": one.double().mean().item(),
    }


def first_view(logits: Float[Tensor, "batch element class_"]) -> Float[Tensor, "batch class_"]:
    """The logits of the image as it is: no symmetrization at all."""
    return logits[:, 0]


@torch.no_grad()
def predict(model: Symmetrized, images: UInt8[Tensor, "n channel height width"]) -> Float[Tensor, "n class_"]:
    """The logits that the model gives, on the CPU; the features of the views are computed once and kept."""
    was_training = model.training
    model.eval()
    features = view_features(model, images)
    logits = [_combine(model, features, images, rows).float().cpu() for rows in torch.arange(len(images)).split(2000)]
    model.train(was_training)
    return torch.cat(logits)


def view_features(model: Symmetrized, images: UInt8[Tensor, "n channel height width"]) -> Float[Tensor, "n element d"]:
    """The features of every view of every image, float32 on the model's device; kept while weights and images last."""
    head = {id(p) for p in model.parts.head.parameters()} if isinstance(model.parts.head, nn.Module) else set()
    weights = [p for p in [*model.model.parameters(), *model.model.buffers()] if id(p) not in head]
    return _view_features(
        _Views(_sha256(weights), _sha256([images]), model.group, model.interpolation, model.fill, model, images)
    )


@dataclass(frozen=True)
class _Views:
    """What decides the features of views; compared by content, so that equal questions are asked once."""

    weights: str
    pixels: str
    group: FiniteGroup
    interpolation: str | None
    fill: float | tuple[float, ...]
    model: Symmetrized = field(compare=False, repr=False)
    images: Tensor = field(compare=False, repr=False)


@lru_cache(maxsize=4)
@torch.no_grad()
def _view_features(views: _Views) -> Tensor:
    """Computed, or found in the folder that E2VIT_VIEWS names, where several processes and days may share them."""
    model, device = views.model, next(views.model.parameters()).device
    path = None
    if folder := os.environ.get("E2VIT_VIEWS"):
        name = hashlib.sha256(repr(views).encode()).hexdigest()[:24]
        path = Path(folder) / f"{name}.safetensors"
        if path.exists():
            return load_file(path)["features"].to(device)
    was_training = model.training
    model.eval()
    per_pass = max(1, 400 // model.group.order)  # small enough for the processor's cache, which doubles the speed
    batches = tqdm(
        views.images.split(per_pass),
        unit="batch",
        desc="features of all views",
        leave=False,
        disable=len(views.images) < 5000,
    )
    features = torch.cat([model.view_features(as_float(batch.to(device))).float() for batch in batches])
    model.train(was_training)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: save_file({"features": features.cpu()}, file))
    return features


def _combine(model: Symmetrized, features: Tensor, images: Tensor, rows: Tensor) -> Tensor:
    """Logits of some images from the kept features of their views."""
    seen = features[rows.to(features.device)]
    if model.combines == "features":
        return model.combine(seen)
    logits = model.parts.head(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
    views = model.views(as_float(images[rows].to(features.device))) if model.combines == "images" else None
    return model.combine(logits, views)


def _train_head(model, train_split, validation, config, rate, seed, deadline) -> Iterator[tuple[dict, float]]:
    """Epochs of training with frozen features; after each, its entry for the curve and the seconds it took."""
    features = view_features(model, train_split.images)
    labels = train_split.labels.to(features.device)
    aggregate = list(model.aggregate.parameters()) if isinstance(model.aggregate, nn.Module) else []
    parameters = [*model.parts.head.parameters(), *aggregate]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=config.weight_decay)
    batch_size = min(config.batch_size, len(labels))
    steps = len(labels) // batch_size
    total, warmup = config.epochs * steps, max(1, round(config.warmup_epochs * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / total)))
    )
    for epoch in range(config.epochs):
        if time.monotonic() > deadline:
            raise OutOfTime(f"the budget ended after epoch {epoch} of {config.epochs}, learning rate {rate}")
        started, total_loss = time.monotonic(), 0.0
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        model.train()
        for rows in order[: steps * batch_size].split(batch_size):
            loss = F.cross_entropy(_combine(model, features, train_split.images, rows), labels[rows.to(labels.device)])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total_loss += loss.item()
        if not math.isfinite(total_loss):
            raise Diverged(f"the loss stopped being a number in epoch {epoch + 1} at learning rate {rate}")
        logits = predict(model, validation.images)
        yield (
            {
                "epoch": epoch + 1,
                "rate": rate,
                "loss": total_loss / steps,
                "accuracy": metrics.accuracy(logits, validation.labels)[0],
                "negative_log_likelihood": metrics.negative_log_likelihood(logits, validation.labels),
            },
            time.monotonic() - started,
        )


def _merit(entry: dict) -> tuple[float, float]:
    """Validation accuracy first; its ties, which are many on 2,000 images, by the likelihood."""
    return entry["accuracy"], -entry["negative_log_likelihood"]


def _sha256(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
