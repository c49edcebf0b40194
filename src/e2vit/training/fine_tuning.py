"""Fine-tuning a symmetrized model in three regimes, the same for every aggregate.

none: the model as it was trained; head: its last layer and the aggregate; all: every weight. In the first two the
features of all views are constants: they are computed once for each set of images and kept, so that a run takes seconds
and every method sees the same numbers. Each learning rate starts from the same weights; validation chooses.
"""

import copy
import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

from e2vit import metrics
from e2vit.data import Split, Splits, as_float
from e2vit.models import Symmetrized
from e2vit.models.symmetrized.aggregates import mean_logits
from e2vit.training.batches import Data, logits_and_labels
from e2vit.training.config import TrainConfig, check_counts
from e2vit.training.loop import OutOfTime, Trained, make_accelerator, train

REGIMES = ("none", "head", "all")
KEPT = 4  # sets of features in memory


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
    validation_images: int | None = None  # how many are used, the first ones; all when left out
    test_images: int | None = None

    def __post_init__(self):
        if self.regime not in REGIMES:
            raise ValueError(f"regime is one of {', '.join(REGIMES)}, not {self.regime!r}")
        check_counts(self, "epochs", "batch_size", "validation_images", "test_images")
        if not self.rates:
            raise ValueError("at least one learning rate is tried, rates is empty")

    def with_rate(self, rate: float) -> TrainConfig:
        """The configuration that ``train`` is given."""
        shared = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("regime", "rates")}
        return TrainConfig(**shared, learning_rate=rate)


def fine_tune(
    model: Symmetrized,
    data: Splits | Data,
    validation: Data | None = None,
    config: FineTuneConfig | None = None,
    *,
    state_path: Path | None = None,
    accelerator: Accelerator | None = None,
    progress: bool = False,
    **options: Any,
) -> Trained:
    """Fine-tunes in place, like ``train``, whose further options it takes; the curve names the rate of each epoch.

    state_path: where each learning rate's run of the regime "all" keeps its state; the others are too short to need it.
    Error: OutOfTime; without a state the model keeps the best weights so far.
    """
    config, accelerator = config or FineTuneConfig(), accelerator or make_accelerator()
    if isinstance(data, Splits):
        data, validation = data.train, data.validation if validation is None else validation
    model.to(accelerator.device)
    if config.regime == "none":
        model.eval()
        return Trained([], 0, 0.0)
    if validation is None:
        raise ValueError("fine-tuning needs validation images: give Splits, or validation=")
    trained_model: nn.Module = model
    if config.regime == "head":
        if options.get("augmentation"):
            raise ValueError("the regime head keeps the features of views, so images can't be augmented: take all")
        trained_model, data, validation = _head(model, data, validation, config.batch_size)
    start, curve, seconds = copy.deepcopy(model.state_dict()), [], 0.0
    best: tuple[tuple[float, float], dict[str, Tensor], int] | None = None
    try:
        for number, rate in enumerate(config.rates):
            model.load_state_dict(start)
            path = state_path if config.regime == "all" else None
            trained = train(
                trained_model,
                data,
                validation,
                config.with_rate(rate),
                state_path=path and path.with_suffix(f".rate{number}{path.suffix}"),
                accelerator=accelerator,
                progress=progress,
                **options,
            )
            seconds += trained.seconds
            entry = trained.curve[trained.chosen_epoch - 1]
            merit = entry["accuracy"], -entry["negative_log_likelihood"]
            if best is None or merit > best[0]:
                best = merit, copy.deepcopy(model.state_dict()), len(curve) + trained.chosen_epoch
            curve += [each | {"rate": rate} for each in trained.curve]
    except OutOfTime:
        if best is not None:
            model.load_state_dict(best[1])
        raise
    assert best is not None
    model.load_state_dict(best[1])
    model.eval()
    return Trained(curve, best[2], seconds)


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
def predict(model: Symmetrized, images: Tensor) -> Float[Tensor, "n class_"]:
    """The logits of the model, on the CPU; the features of the views are computed once and kept."""
    loader = DataLoader(TensorDataset(torch.arange(len(images)), torch.zeros(len(images))), batch_size=2000)
    return logits_and_labels(_Head(model, [images]), loader)[0]


class _Head(nn.Module):
    """A symmetrized model as a function of row numbers into kept features, so that ``train`` moves its head alone."""

    def __init__(self, model: Symmetrized, parts: list[Tensor]):
        super().__init__()
        head = model.parts.head
        self.aggregate, self.moved = model.aggregate, head if isinstance(head, nn.Module) else _parameters(head)
        self.unmoved = [model, head]  # in a list: the body is no part of what is trained
        self.images = torch.cat(parts)
        self.features = torch.cat([view_features(model, images) for images in parts])
        self.train(model.training)

    def forward(self, rows: Tensor) -> Tensor:
        (model, head), seen = self.unmoved, self.features[rows.to(self.features.device)]
        if model.combines == "features":
            return model.combine(seen)
        logits = head(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
        views = model.views(as_float(self.images[rows.cpu()].to(seen.device))) if model.combines == "images" else None
        return model.combine(logits, views)


def _parameters(head: Any) -> nn.ParameterList:
    """The trainable parameters of a head that is not a module."""
    return nn.ParameterList(head.parameters() if hasattr(head, "parameters") else [])


def _head(model: Symmetrized, data: Data, validation: Data, batch_size: int) -> tuple[_Head, DataLoader, DataLoader]:
    """The head as a model of its own, and loaders of the row numbers of training and validation images."""
    parts = [part if isinstance(part, Split) else gathered(part) for part in (data, validation)]
    head = _Head(model, [part.images for part in parts])
    count = len(parts[0])
    rows, labels = torch.arange(len(head.images)), torch.cat([part.labels for part in parts])
    training = TensorDataset(rows[:count], labels[:count])
    size = min(batch_size, count)
    loaders = DataLoader(training, size, shuffle=True, drop_last=True)
    return head, loaders, DataLoader(TensorDataset(rows[count:], labels[count:]), 2000)


def gathered(loader: Data) -> Split:
    """All images of a DataLoader in memory."""
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    return Split(images, labels)


_kept: list[tuple[tuple, Tensor]] = []  # key and features of the last sets of images


@torch.no_grad()
def view_features(model: Symmetrized, images: Tensor) -> Float[Tensor, "n element d"]:
    """The features of every view of every image, float32 on the model's device.

    Kept for models of equal weights below the head and equal features of the first images.
    """
    head = {id(p) for p in _parameters(model.parts.head)}
    weights = [p for p in [*model.model.parameters(), *model.model.buffers()] if id(p) not in head]
    key = _sha256(weights), _sha256([images]), model.group, model.interpolation, model.fill
    was_training, device = model.training, next(model.parameters()).device
    model.eval()

    def features(some: Tensor) -> Tensor:
        return model.view_features(as_float(some.to(device))).float()

    first = features(images[:2])
    for known, kept in _kept:
        if (
            known == key
            and kept.shape[1:] == first.shape[1:]
            and torch.allclose(kept[:2].to(device), first, 1e-4, 1e-5)
        ):
            model.train(was_training)
            return kept.to(device)
    per_pass = max(1, 400 // model.group.order)  # small enough for the processor's cache, which doubles the speed
    batches = tqdm(
        images.split(per_pass), unit="batch", desc="features of all views", leave=False, disable=len(images) < 5000
    )
    computed = torch.cat([features(batch) for batch in batches])
    model.train(was_training)
    _kept.append((key, computed))
    del _kept[:-KEPT]
    return computed


def _sha256(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
