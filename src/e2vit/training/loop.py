"""Training a classifier: one function, resumable to the bit, the same on one device or many.

Hugging Face accelerate places the model, so ``accelerate launch`` spreads a run over several GPUs or machines. All
randomness of an update comes from (seed, epoch, step), so a run that was killed continues to the same weights.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from e2vit import metrics
from e2vit.data import Splits
from e2vit.training.batches import Batches, Data, check, logits_and_labels
from e2vit.training.config import TrainConfig
from e2vit.training.optimizer import make_optimizers

SAVE_EVERY = 120.0  # seconds between states within an epoch


@dataclass(frozen=True)
class Trained:
    """The result of a finished run besides the model's weights, which are those of ``chosen_epoch``."""

    curve: list[dict[str, float | int]]
    chosen_epoch: int
    seconds: float


class Diverged(RuntimeError):
    """The loss became NaN or infinite."""


class OutOfTime(RuntimeError):
    """The deadline passed before the run ended: a saved state is continued by the next call; without one the model
    keeps the best weights so far."""


def train(
    model: nn.Module,
    data: Splits | Data,
    validation: Data | None = None,
    config: TrainConfig | None = None,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    augmentation: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    state_path: Path | None = None,
    deadline: float = math.inf,
    accelerator: Accelerator | None = None,
    watch: Data | None = None,
    progress: bool = False,
) -> Trained:
    """Trains the model in place and leaves it with the chosen weights, in evaluation mode.

    data:         ``Splits``, whose training and validation images are used; or a ``Split`` or DataLoader, with another
                  one for validation. Bytes are divided by 255, floats taken as they are.
    loss:         (logits, labels) → number; cross entropy, or binary cross entropy where an image has several labels.
    augmentation: float images → images of one batch, in place of ``config.augment``; torch's global stream is seeded.
    state_path:   where the state is kept after every epoch and every two minutes within one, and continued from.
    deadline:     ``time.monotonic()`` at which the run stops. Error: OutOfTime.
    watch:        images whose accuracy enters the curve as ``watched`` and decides nothing: for the study of test-set
                  selection alone.
    """
    config, accelerator = config or TrainConfig(), accelerator or make_accelerator()
    if isinstance(data, Splits):
        data, validation = data.train, data.validation if validation is None else validation
    if validation is None:
        raise ValueError("training needs validation images: give Splits, or validation=")
    model.to(accelerator.device)
    check(model, data, "training")
    check(model, validation, "validation")
    batches = Batches(data, config, accelerator, augmentation)
    run = _Run(model, config, accelerator)
    if state_path is not None:
        run.restore(state_path)
    loss, timed = loss or _cross_entropy, math.isfinite(deadline)
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    bar = tqdm(
        range(run.epoch, config.epochs),
        initial=run.epoch,
        total=config.epochs,
        unit="epoch",
        disable=not (progress and accelerator.is_main_process),
    )
    saved = time.monotonic()
    for epoch in bar:
        started, number = time.monotonic(), seed * 1_000_003 + epoch
        losses = torch.zeros(batches.steps, device=accelerator.device)
        losses[: len(run.losses)] = torch.tensor(run.losses)
        run.model.train()
        with torch.random.fork_rng(devices):  # dropout draws from the global stream; give it back as it was
            torch.manual_seed(number)
            steps = batches.epoch(number)
            for step in range(batches.steps):
                torch.manual_seed((number * 100_003 + step) * 1_009 + accelerator.process_index)
                if timed and _agreed(time.monotonic() > deadline, accelerator):
                    run.stop(state_path, losses[:step].tolist(), time.monotonic() - started)
                images, labels = next(steps)
                if step < len(run.losses):  # done before the run was interrupted
                    continue
                run.set_learning_rate(epoch + step / batches.steps)
                with accelerator.autocast():
                    value = loss(run.model(images), labels)
                run.update(value)
                losses[step] = value.detach()
                if state_path is not None and accelerator.is_main_process and time.monotonic() - saved > SAVE_EVERY:
                    saved = time.monotonic()
                    run.save(state_path, losses[: step + 1].tolist(), saved - started)
        losses = accelerator.reduce(losses, "mean")
        assert isinstance(losses, Tensor)
        if not losses.isfinite().all():
            step = int(losses.isfinite().logical_not().nonzero()[0])
            raise Diverged(
                f"the loss became NaN or infinite in epoch {epoch + 1}, step {step + 1} of {batches.steps}; "
                f"try a learning rate below {config.learning_rate}"
            )
        run.end_epoch(losses.mean().item(), validation, watch, started)
        bar.set_postfix(loss=f"{run.curve[-1]['loss']:.3f}", validation=f"{run.curve[-1]['accuracy']:.4f}")
        if state_path is not None and accelerator.is_main_process:
            run.save(state_path)
    run.load_chosen()
    return Trained(run.curve, run.chosen, run.seconds)


def make_accelerator() -> Accelerator:
    """bf16 where the device has it, float32 elsewhere."""
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return Accelerator(mixed_precision="bf16" if bf16 else "no")


def write_atomically(path: Path, write: Callable[[str], Any]) -> None:
    """Calls ``write`` with the name of a temporary file in the same folder, then renames it to the path.

    Error: OSError that names the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(str(temporary))
        os.replace(temporary, path)
    except (OSError, RuntimeError) as reason:  # torch and safetensors raise their own errors on a full disk
        raise OSError(f"{path} can't be written: {reason}") from None
    finally:
        temporary.unlink(missing_ok=True)


class _Run:
    """Model, optimizers, moving average and curve: everything that must survive from one update to the next."""

    def __init__(self, model: nn.Module, config: TrainConfig, accelerator: Accelerator):
        self.config, self.accelerator, self.plain = config, accelerator, model
        self.trained = [p for p in model.parameters() if p.requires_grad]
        optimizers = make_optimizers(config.optimizer, model, config.learning_rate, config.weight_decay)
        self.model, *self.optimizers = accelerator.prepare(model, *optimizers)
        average = get_ema_multi_avg_fn(config.average) if config.average else None
        self.average = AveragedModel(model, multi_avg_fn=average, use_buffers=True) if average else None
        self.epoch, self.chosen, self.seconds = 0, 0, 0.0
        self.curve: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.losses: list[float] = []  # of the updates done in an epoch that was interrupted

    def evaluated(self) -> nn.Module:
        return self.average.module if self.average is not None else self.plain

    def set_learning_rate(self, epoch: float) -> None:
        config, rate = self.config, self.config.learning_rate
        if epoch < config.warmup_epochs:
            rate *= (epoch + 0.01) / (config.warmup_epochs + 0.01)
        elif config.schedule == "cosine":
            done = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
            rate *= 0.5 * (1 + math.cos(math.pi * min(done, 1)))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def update(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)
        if self.config.clip is not None:
            self.accelerator.clip_grad_norm_(self.trained, self.config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self.plain.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.plain)

    def end_epoch(self, loss: float, validation: Data, watch: Data | None, started: float) -> None:
        seconds = time.monotonic() - started
        logits, labels = logits_and_labels(self.evaluated(), validation)
        self.epoch, self.seconds, self.losses = self.epoch + 1, self.seconds + seconds, []
        entry = {"epoch": self.epoch, "loss": loss, "accuracy": _accuracy(logits, labels)}
        entry["negative_log_likelihood"] = _cross_entropy(logits, labels).item()
        if watch is not None:
            entry["watched"] = _accuracy(*logits_and_labels(self.evaluated(), watch))
        if self.config.keep == "last" or all(entry["accuracy"] > earlier["accuracy"] for earlier in self.curve):
            self.chosen = self.epoch
            self.best = {k: v.detach().clone() for k, v in self.evaluated().state_dict().items()}
        self.curve.append(entry)

    def load_chosen(self) -> None:
        self.plain.load_state_dict(self.best or self.evaluated().state_dict())
        self.plain.eval()

    def stop(self, path: Path | None, losses: list[float], seconds: float) -> None:
        """Ends a run whose deadline passed. Error: always OutOfTime."""
        done = f"time is up after epoch {self.epoch} of {self.config.epochs}"
        if path is None:
            self.load_chosen()
            raise OutOfTime(f"{done}; the model has the best weights so far")
        if self.accelerator.is_main_process and len(losses) >= len(self.losses):
            self.save(path, losses, seconds)
        raise OutOfTime(done)

    def save(self, path: Path, losses: list[float] | None = None, seconds: float = 0.0) -> None:
        """Writes the state. losses, seconds: of the updates since the last whole epoch."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.plain.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "best": self.best,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "epoch": self.epoch,
            "chosen": self.chosen,
            "seconds": self.seconds + seconds,
            "curve": self.curve,
            "losses": losses or [],
        }
        write_atomically(path, lambda file: torch.save(state, file))

    def restore(self, path: Path) -> None:
        """Continues from a saved state, if there is one. Error: DamagedState."""
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
            self.plain.load_state_dict(state["model"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.best, self.epoch, self.chosen = state["best"], state["epoch"], state["chosen"]
            self.seconds, self.curve, self.losses = state["seconds"], state["curve"], state["losses"]
        except OSError:
            raise
        except Exception as reason:  # torch raises errors of many kinds for a damaged file
            first = str(reason).splitlines()[0] if str(reason) else type(reason).__name__
            raise DamagedState(f"{path} is not a state of this run ({first}); delete it to begin anew") from None


class DamagedState(RuntimeError):
    """A saved state that can't be continued from."""


def _agreed(flag: bool, accelerator: Accelerator) -> bool:
    """Whether any process says so; every process gets the same answer."""
    if accelerator.num_processes == 1:
        return flag
    count = accelerator.reduce(torch.tensor(int(flag), device=accelerator.device), "sum")
    return bool(count)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over images and, where an image has several labels, over classes."""
    if labels.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits))
    return F.cross_entropy(logits, labels)


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    """Fraction of correct predictions: of classes, or of single labels where an image has several."""
    if labels.ndim == 2:
        return ((logits > 0) == (labels > 0.5)).double().mean().item()
    return metrics.accuracy(logits, labels)[0]
