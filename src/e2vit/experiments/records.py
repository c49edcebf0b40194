"""Records of finished runs: what they say, how they are written, and what is refused when they are read.

A record is data/results/<experiment>/seed<k>.json with seed<k>.safetensors beside it.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from e2vit import metrics
from e2vit.experiments.catalog import EXPERIMENTS
from e2vit.experiments.experiment import Experiment
from e2vit.groups import FiniteGroup
from e2vit.models import Symmetrized
from e2vit.training import fine_tuning
from e2vit.training.fine_tuning import FineTuneConfig
from e2vit.training.loop import write_atomically

SCHEMA = 1
DECISIVE = ("model", "training", "data", "fraction", "all_training", "base", "watch_test")  # the rest is commentary

REQUIRED = {
    "configuration": dict,
    "seed": int,
    "data": dict,
    "device": str,
    "seconds": float | int,
    "parameters": int,
    "curve": list,
    "validation": dict,
    "test": dict,
    "checkpoint_sha256": str,
}


class RecordError(Exception):
    """A record that is missing or can't be trusted, with the reason in one sentence."""


def results_folder() -> Path:
    """Where records live: E2VIT_RESULTS, else data/results of the checkout."""
    return Path(os.environ.get("E2VIT_RESULTS") or Path(__file__).resolve().parents[3] / "data" / "results")


def read(experiment: Experiment, seed: int, results: Path | None = None) -> dict[str, Any]:
    """A record without its model. Error: RecordError when it is missing, stale or altered."""
    path = (results or results_folder()) / experiment.name / f"seed{seed}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("it is not an object")
    except FileNotFoundError:
        raise RecordError(
            f"there is no record of {experiment.name}, seed {seed}; python -m e2vit run {experiment.name} makes it"
        ) from None
    except (OSError, ValueError, RecursionError) as reason:
        raise RecordError(f"{path} is no record: {reason}") from None
    if record.get("schema") != SCHEMA:
        raise RecordError(f"{path} has schema {record.get('schema')!r}, expected {SCHEMA}")
    if missing := [key for key, kind in REQUIRED.items() if not isinstance(record.get(key), kind)]:
        raise RecordError(f"{path} is no record: {', '.join(missing)} missing or of another type")
    if record.get("digest") != _digest(record):
        raise RecordError(f"{path} was altered after it was written: its digest does not match")
    if (record["seed"], record.get("experiment")) != (seed, experiment.name):
        raise RecordError(f"{path} is the record of {record.get('experiment')}, seed {record['seed']}")
    if names := changed(record["configuration"], experiment, DECISIVE):
        raise RecordError(
            f"{path} is stale: {', '.join(names)} differ from {experiment.name} as it is now; delete it to run anew"
        )
    return record


@dataclass(frozen=True)
class Summary:
    """Mean of a metric and its 95 % interval, as fractions; seeds and images (of one run) that it rests on.

    kind: "seeds" for Student's interval over three or more seeds, "images" for Wilson's over the images of the mean,
          "none" where the metric is not a rate and there are fewer seeds: low and high are NaN.
    """

    mean: float
    low: float
    high: float
    seeds: int
    images: int
    kind: str

    def __str__(self) -> str:
        mean = f"{100 * self.mean:.2f} %"
        return mean if self.kind == "none" else f"{mean} [{100 * self.low:.2f}, {100 * self.high:.2f}]"


def find(
    prefix: str = "", seeds: Iterable[int] | None = None, results: Path | None = None, **fields: Any
) -> list[dict[str, Any]]:
    """The valid records of the experiments whose name starts with prefix and that have these fields.

    In the order of the catalog, then by seed. seeds: only these. fields: of ``Experiment``, such as setting="rotated".
    """
    if unknown := fields.keys() - {field.name for field in dataclasses.fields(Experiment)}:
        raise TypeError(f"an experiment has no field {sorted(unknown)[0]!r}")
    found, wanted = [], None if seeds is None else set(seeds)
    for name, experiment in EXPERIMENTS.items():
        if name.startswith(prefix) and all(getattr(experiment, key) == value for key, value in fields.items()):
            for seed in seeds_present(experiment, results):
                if wanted is None or seed in wanted:
                    with suppress(RecordError):
                        found.append(read(experiment, seed, results))
    return found


def by_experiment(found: Iterable[dict[str, Any]]) -> dict[Experiment, list[dict[str, Any]]]:
    """The records grouped by their experiment, in the order in which they come."""
    groups: dict[Experiment, list[dict[str, Any]]] = {}
    for record in found:
        groups.setdefault(EXPERIMENTS[record["experiment"]], []).append(record)
    return groups


def summarize(found: Sequence[dict[str, Any]], metric: str = "accuracy", split: str = "test") -> Summary:
    """Mean and 95 % interval of a metric over records that differ in their seed alone."""
    if not found:
        raise ValueError("there are no records to summarize")
    values, images = [record[split][metric] for record in found], found[0][split]["count"]
    if len(values) >= 3:
        return Summary(*metrics.student(values), len(values), images, "seeds")
    mean = sum(values) / len(values)
    interval = metrics.wilson(mean, images) if metric == "accuracy" else (math.nan, math.nan)
    return Summary(mean, *interval, len(values), images, "images" if metric == "accuracy" else "none")


def seeds_present(experiment: Experiment, results: Path | None = None) -> list[int]:
    """The seeds of an experiment that have a record."""
    folder = (results or results_folder()) / experiment.name
    return sorted(int(path.stem[4:]) for path in folder.glob("seed*.json") if path.stem[4:].isdecimal())


def configuration(experiment: Experiment) -> dict[str, Any]:
    """What decides the outcome of an experiment, as plain JSON."""
    decisive = {key: plain(getattr(experiment, key)) for key in DECISIVE}
    return {"model_type": type(experiment.model).__name__, **decisive}


def configuration_hash(experiment: Experiment) -> str:
    return hashlib.sha256(json.dumps(configuration(experiment), sort_keys=True).encode()).hexdigest()


def state_path(experiment: Experiment, seed: int, folder: Path) -> Path:
    """Where an unfinished run keeps its state; a changed configuration doesn't find the state of an older one."""
    return folder / f"seed{seed}.{configuration_hash(experiment)[:12]}.partial.safetensors"


def leftovers(experiment: Experiment, seed: int, folder: Path) -> list[Path]:
    """The states of a run, and what killed processes left of its files."""
    return [*folder.glob(f"{state_path(experiment, seed, folder).stem}.*"), *folder.glob(f".seed{seed}.*.tmp")]


def changed(old: dict[str, Any], now: Any, keys: tuple[str, ...] | None = None, prefix: str = "") -> list[str]:
    """The settings in which a recorded configuration differs from the present one.

    A setting that the record does not know came later; its default is what the record was made with.
    """
    fields = {f.name: f for f in dataclasses.fields(now) if keys is None or f.name in keys}
    names = [prefix + key for key in old if key not in fields and key != "model_type"]
    for key, each in fields.items():
        value = getattr(now, key)
        if key not in old:
            names += [prefix + key] if plain(value) != plain(each.default) else []
        elif dataclasses.is_dataclass(value) and not isinstance(value, FiniteGroup) and isinstance(old[key], dict):
            names += changed(old[key], value, prefix=f"{prefix}{key}.")
        elif old[key] != json.loads(json.dumps(plain(value))):
            names.append(prefix + key)
    return names


def plain(value: Any) -> Any:
    if isinstance(value, FiniteGroup):
        return value.name
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if callable(value):
        return value.__name__
    return value


def measure(experiment, seed, splits, training, model, trained, accelerator, base=None) -> dict[str, Any]:
    """What is to be known of a finished run; the test split is looked at here, once.

    splits: the data as loaded; training: what of it the run trained on and is measured on.
    """
    fine_tuned = isinstance(experiment.training, FineTuneConfig)
    predict = fine_tuning.predict if fine_tuned else metrics.predict
    validation_logits = predict(model, training.validation.images)
    test_logits = predict(model, training.test.images)
    cuda = accelerator.device.type == "cuda"
    record = {
        "schema": SCHEMA,
        "experiment": experiment.name,
        "configuration": configuration(experiment),
        "hash": configuration_hash(experiment),
        "seed": seed,
        "data": splits.fingerprint,
        "training_images": len(training.train),
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in ("torch", "torchvision", "accelerate", "numpy")},
        },
        "device": torch.cuda.get_device_name() if cuda else f"{processor()}, {torch.get_num_threads()} threads",
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision if accelerator.mixed_precision != "no" else "float32",
        "seconds": round(trained.seconds, 1),
        "peak_memory_bytes": torch.cuda.max_memory_allocated()
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "parameters": sum(p.numel() for p in model.parameters()),
        "curve": trained.curve,
        "chosen_epoch": trained.chosen_epoch,
        "validation": metrics.summary(validation_logits, training.validation.labels),
        "test": metrics.summary(test_logits, training.test.labels),
    }
    if base is not None:
        record["base"] = {
            "experiment": experiment.base,
            "seed": base.record["seed"],
            "checkpoint_sha256": base.record.get("checkpoint_sha256"),
        }
    if fine_tuned:
        record["against_averaging"] = fine_tuning.against_averaging(
            model, base.model.to(accelerator.device), training.test
        )
    return record | {"date": date.today().isoformat()}


def write(folder: Path, seed: int, record: dict[str, Any], model: nn.Module, base: nn.Module | None = None) -> None:
    """The checkpoint first, then the record that vouches for it: a record never stands without its checkpoint.

    What a model shares with its base is not written twice.
    """
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if base is not None:
        prefix = "model." if isinstance(model, Symmetrized) else ""
        shared = {prefix + k: v.cpu() for k, v in base.state_dict().items()}
        weights = {k: v for k, v in weights.items() if k not in shared or not torch.equal(v, shared[k])}
    checkpoint = folder / f"seed{seed}.safetensors"
    write_atomically(checkpoint, lambda file: save_file(weights, file))
    record["checkpoint_sha256"] = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    record["digest"] = _digest(record)
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    write_atomically(folder / f"seed{seed}.json", lambda file: Path(file).write_text(text, encoding="utf-8"))


def _digest(record: dict[str, Any]) -> str:
    rest = {key: value for key, value in record.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _commit() -> str:
    """The git commit of the code, marked when files differ from it; "unknown" outside a checkout."""
    try:
        folder = Path(__file__).parent
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
        )
        return done.stdout.strip() or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def processor() -> str:
    """The name of the processor, for records."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        return f"{name} (CPU)"
    except (OSError, StopIteration):
        return f"{platform.processor() or platform.machine()} (CPU)"
