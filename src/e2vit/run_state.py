"""What a training run must keep from one epoch to the next, and how it survives being killed.

The state is one safetensors file, written beside its place and renamed into it. The one before stays until the run has
ended, so that a damaged file costs one epoch.
"""

import json
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from e2vit import metrics
from e2vit.data import Split
from e2vit.optimizer import OPTIMIZERS, make_optimizer


@dataclass(frozen=True)
class TrainConfig:
    epochs: int = 100
    updates_per_epoch: int | None = None    # steps after which the model is evaluated; a pass over the data when None
    batch_size: int = 128           # over all processes
    learning_rate: float = 1e-3
    schedule: str = "cosine"        # to zero; or "constant", as the released networks have it
    warmup_epochs: float = 3        # the rate rises linearly
    weight_decay: float = 0.05
    optimizer: str = "adamw"        # see ``optimizer.py``: "adamw", "adam" as the released networks have it, or "muon"
    augment: str = "rotation"       # by any angle, bilinear; "dihedral": the 8 exact ones and a rotation; or "none"
    label_smoothing: float = 0.0
    clip: float | None = 1.0        # largest norm of the gradient
    average: float | None = None    # decay of the moving average of the weights that is evaluated and kept
    keep: str = "best"              # the epoch with the best validation accuracy; or "last"
    trainable: str = ""             # only parameters whose name starts so are trained; all when empty
    validation_images: int | None = None    # how many are looked at, the first ones; all when left out
    test_images: int | None = None

    def __post_init__(self):
        for field, allowed in (("schedule", ("cosine", "constant")), ("optimizer", OPTIMIZERS),
                               ("augment", ("rotation", "dihedral", "none")), ("keep", ("best", "last"))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} is one of {', '.join(allowed)}, not {getattr(self, field)!r}")
        if self.updates_per_epoch is not None and self.updates_per_epoch < 1:
            raise ValueError("updates_per_epoch starts at 1")
        check_counts(self)
        if self.epochs < 1 or self.batch_size < 1 or not 0 < self.learning_rate < math.inf:
            raise ValueError("epochs and batch_size start at 1, and learning_rate lies above 0")


def check_counts(config) -> None:
    """That a configuration looks at one validation and one test image at least, where it says how many."""
    for field in ("validation_images", "test_images"):
        if getattr(config, field) is not None and getattr(config, field) < 1:
            raise ValueError(f"{field} starts at 1, got {getattr(config, field)}")


class RunState:
    """The state of a run: what must survive from one epoch to the next."""

    def __init__(self, model: nn.Module, config: TrainConfig, accelerator: Accelerator):
        self.config, self.accelerator, self.plain = config, accelerator, model
        model.to(accelerator.device)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = make_optimizer(config.optimizer, model, config.learning_rate, config.weight_decay)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        average_fn = get_ema_multi_avg_fn(config.average) if config.average else None
        self.average = AveragedModel(model, multi_avg_fn=average_fn, use_buffers=True) if config.average else None
        self.epoch, self.chosen, self.seconds, self.curve = 0, 0, 0.0, []
        self.best: dict[str, Tensor] = {}

    def evaluated(self) -> nn.Module:
        return self.average.module if self.average is not None else self.accelerator.unwrap_model(self.model)

    def end_epoch(self, loss: float, validation: Split, watch: Split | None, seconds: float) -> None:
        logits = metrics.predict(self.evaluated(), validation.images)
        entry = {
            "epoch": self.epoch + 1,
            "loss": loss,
            "accuracy": metrics.accuracy(logits, validation.labels)[0],
            "negative_log_likelihood": metrics.negative_log_likelihood(logits, validation.labels),
        }
        if watch is not None:
            entry["watched"] = metrics.accuracy(metrics.predict(self.evaluated(), watch.images), watch.labels)[0]
        self.epoch, self.seconds = self.epoch + 1, self.seconds + seconds
        if self.config.keep == "last" or all(entry["accuracy"] > earlier["accuracy"] for earlier in self.curve):
            self.chosen = self.epoch
            self.best = {k: v.detach().clone() for k, v in self.evaluated().state_dict().items()}
        self.curve.append(entry)

    def load_chosen(self) -> None:
        self.plain.load_state_dict(self.best)
        self.plain.eval()

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model/{k}": v for k, v in self.accelerator.unwrap_model(self.model).state_dict().items()}
        tensors |= {f"best/{k}": v for k, v in self.best.items()}
        if self.average is not None:
            tensors |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{k}": torch.as_tensor(v) for k, v in state.items()}
        return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}

    def save(self, path: Path) -> None:
        """One file, written beside its place and renamed into it: there whole, or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = {"epoch": self.epoch, "chosen": self.chosen, "seconds": self.seconds, "curve": self.curve}
        fresh = path.with_suffix(".fresh")
        write_atomically(fresh, lambda file: save_file(self._tensors(), file, {"run": json.dumps(meta)}))
        if path.exists():
            os.replace(path, path.with_suffix(".previous"))    # what to continue from should the newest be damaged
        os.replace(fresh, path)

    def restore(self, path: Path) -> None:
        """Continues from a saved state. Error: DamagedState; the file is set aside under another name then."""
        try:
            with safe_open(path, "pt") as file:
                meta = json.loads(file.metadata()["run"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}
            parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "average": {}, "optimizer": {}}
            for key, value in tensors.items():
                part, name = key.split("/", 1)
                parts[part][name] = value
            self.accelerator.unwrap_model(self.model).load_state_dict(parts["model"])
            if self.average is not None:
                self.average.load_state_dict(parts["average"])
            optimizer = self.optimizer.state_dict()
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in parts["optimizer"].items():
                index, key = name.split("/")
                state.setdefault(int(index), {})[key] = value
            self.optimizer.load_state_dict({"state": state, "param_groups": optimizer["param_groups"]})
            self.best = {k: v.to(self.accelerator.device) for k, v in parts["best"].items()}
            self.epoch, self.chosen = int(meta["epoch"]), int(meta["chosen"])
            self.seconds, self.curve = float(meta["seconds"]), list(meta["curve"])
        except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError, OSError) as reason:
            aside = path.with_suffix(".damaged")
            os.replace(path, aside)
            raise DamagedState(f"{path} is no state of this run ({str(reason).splitlines()[0]}); it was set aside as "
                               f"{aside.name}") from None


class DamagedState(RuntimeError):
    """A saved state that can't be continued from."""


def restored(run: RunState, path: Path, afresh: Callable[[], RunState]) -> RunState:
    """The run continued from its newest state, else from the one before, else begun afresh; damage is warned of."""
    initial = {k: v.clone() for k, v in run.plain.state_dict().items()}
    for candidate in (path, path.with_suffix(".previous")):
        if candidate.exists():
            try:
                run.restore(candidate)
                break
            except DamagedState as reason:
                warnings.warn(str(reason), stacklevel=3)
                run.plain.load_state_dict(initial)    # nothing of a half-read state stays
                run = afresh()
    return run


def discard_state(path: Path) -> None:
    """Removes the state of a finished run, and the one before it."""
    for file in (path, path.with_suffix(".previous")):
        file.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[str], None]) -> None:
    """Calls ``write`` with the name of a temporary file in the same folder, then renames it to the path."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(str(temporary))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
