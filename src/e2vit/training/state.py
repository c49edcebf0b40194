"""What a training run must keep from one epoch to the next, and how it survives being killed.

The state is one safetensors file, written beside its place and renamed into it. The one before stays until the run has
ended, so that a damaged file costs one epoch. Its checksum stands in its header: one turned bit is damage, too.
"""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from e2vit import metrics
from e2vit.data import Split
from e2vit.data.sources import first_line
from e2vit.training.augmentation import AUGMENTATIONS
from e2vit.training.optimizer import OPTIMIZERS, make_optimizer


@dataclass(frozen=True)
class TrainConfig:
    epochs: int = 100
    updates_per_epoch: int | None = None  # steps after which the model is evaluated; a pass over the data when None
    batch_size: int = 128  # over all processes
    learning_rate: float = 1e-3
    schedule: str = "cosine"  # to zero; or "constant", as the released networks have it
    warmup_epochs: float = 3  # the rate rises linearly
    weight_decay: float = 0.05
    optimizer: str = "adamw"  # see ``optimizer.py``: "adamw", "adam" as the released networks have it, or "muon"
    augment: str = (
        "rotation"  # by any angle; "dihedral": half of them mirrored, too; "d4": quarter turns, mirrored; or "none"
    )
    label_smoothing: float = 0.0
    clip: float | None = 1.0  # largest norm of the gradient
    average: float | None = None  # decay of the moving average of the weights that is evaluated and kept
    keep: str = "best"  # the epoch with the best validation accuracy; or "last"
    trainable: str = ""  # only parameters whose name starts so are trained; all when empty
    validation_images: int | None = None  # how many are looked at, the first ones; all when left out
    test_images: int | None = None

    def __post_init__(self):
        for field, allowed in (
            ("schedule", ("cosine", "constant")),
            ("optimizer", OPTIMIZERS),
            ("augment", AUGMENTATIONS),
            ("keep", ("best", "last")),
        ):
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
        self.losses: list[float] = []  # of the updates done in an epoch that was interrupted

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

    def save(self, path: Path, losses: list[float] = (), seconds: float = 0.0) -> None:
        """One file, written beside its place and renamed into it: there whole, or not at all.

        losses, seconds: of the updates done since the last whole epoch.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        run = json.dumps(
            {
                "epoch": self.epoch,
                "chosen": self.chosen,
                "seconds": self.seconds + seconds,
                "curve": self.curve,
                "losses": list(losses),
            }
        )
        tensors = self._tensors()
        fresh = path.with_suffix(".fresh")
        write_atomically(fresh, lambda file: save_file(tensors, file, {"run": run, "sha256": _checksum(run, tensors)}))
        if path.exists():
            os.replace(path, path.with_suffix(".previous"))  # what to continue from should the newest be damaged
        os.replace(fresh, path)

    def restore(self, path: Path) -> None:
        """Continues from a saved state.

        Error: DamagedState, when the file holds no state of this run; it is set aside under another name then.
        OSError, when the file can't be read now: that may pass, so the file stays where it is.
        """
        try:
            data = path.read_bytes()
        except OSError as reason:
            raise OSError(
                reason.errno, f"{reason.strerror or reason}; it is kept, and the same command tries again", str(path)
            ) from None
        try:
            meta, parts = self._understood(data)
        except (SafetensorError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as reason:
            aside = path.with_suffix(".damaged")
            self.accelerator.wait_for_everyone()  # every process has seen it before it is moved
            if self.accelerator.is_main_process:
                os.replace(path, aside)
            raise DamagedState(
                f"{path} is no state of this run ({first_line(reason)}); it was set aside as {aside.name}"
            ) from None
        # Whatever fails from here on, such as a device without room, is no fault of the file.
        self.accelerator.unwrap_model(self.model).load_state_dict(parts["model"])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": _by_parameter(parts["optimizer"]), "param_groups": groups})
        self.best = {k: v.to(self.accelerator.device) for k, v in parts["best"].items()}
        self.epoch, self.chosen = meta["epoch"], meta["chosen"]
        self.seconds, self.curve, self.losses = (
            float(meta["seconds"]),
            list(meta["curve"]),
            list(meta.get("losses", [])),
        )

    def _understood(self, data: bytes) -> tuple[dict, dict[str, dict[str, Tensor]]]:
        """The parts of a saved state, each known to fit this run. Error: ValueError and its like, when one doesn't."""
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        if "sha256" in header and header["sha256"] != _checksum(header["run"], tensors):  # older states have none
            raise ValueError("its checksum does not match")
        meta = json.loads(header["run"])
        begun = meta["epoch"] >= 1
        if not (
            begun <= meta["chosen"] <= meta["epoch"] == len(meta["curve"])
            and meta["seconds"] >= 0
            and (begun or meta["losses"])
        ):
            raise ValueError("its epochs do not agree")
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "average": {}, "optimizer": {}}
        for key, value in tensors.items():
            part, name = key.split("/", 1)
            parts[part][name] = value
        _check_shapes("model", parts["model"], self.accelerator.unwrap_model(self.model).state_dict())
        if begun:
            _check_shapes("best", parts["best"], self.evaluated().state_dict())
        if self.average is not None:
            _check_shapes("average", parts["average"], self.average.state_dict())
        order = dict(enumerate(p for group in self.optimizer.param_groups for p in group["params"]))
        for index, state in _by_parameter(parts["optimizer"]).items():
            shape = order[index].shape
            for key, value in state.items():
                if value.ndim and value.shape != shape:
                    raise ValueError(f"optimizer/{index}/{key} has shape {tuple(value.shape)}")
        return meta, parts


def _by_parameter(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = value
    return state


def _check_shapes(part: str, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    if wrong := sorted(
        k
        for k in found.keys() | expected.keys()
        if k not in found or k not in expected or found[k].shape != expected[k].shape
    ):
        raise ValueError(f"{part}/{wrong[0]} is missing, unknown or of another shape")


def _checksum(run: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(run.encode())
    for key in sorted(tensors):
        digest.update(f"\0{key}\0{tensors[key].dtype}\0{list(tensors[key].shape)}\0".encode())
        digest.update(tensors[key].reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class DamagedState(RuntimeError):
    """A saved state that can't be continued from."""


def restored(run: RunState, path: Path) -> RunState:
    """The run continued from its newest state, else from the one before, else begun afresh; damage is warned of."""
    for candidate in (path, path.with_suffix(".previous")):
        if candidate.exists():
            try:
                run.restore(candidate)
                break
            except DamagedState as reason:
                warnings.warn(str(reason), stacklevel=3)
    return run


def discard_state(path: Path) -> None:
    """Removes the state of a finished run, the one before it, and what a kill or damage left beside them."""
    for ending in (path.suffix, ".previous", ".fresh", ".damaged"):
        path.with_suffix(ending).unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[str], None]) -> None:
    """Calls ``write`` with the name of a temporary file in the same folder, then renames it to the path.

    Error: OSError that names the file, also where safetensors has an error of its own for a full disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(str(temporary))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except SafetensorError as reason:
        raise OSError(f"{path} can't be written: {reason}") from None
    except OSError as reason:
        if reason.errno and reason.filename is None:  # older torch does not say which file it was
            raise OSError(reason.errno, reason.strerror, str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path, prefix: str) -> None:
    """Removes the temporary files that killed processes left of the files whose name begins so.

    Only for who holds the claim on these files: somebody at work has such files, too.
    """
    for file in folder.glob(f".{prefix}*.tmp"):
        file.unlink(missing_ok=True)
