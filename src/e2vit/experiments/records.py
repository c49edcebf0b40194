"""Records of finished runs: measured, written, read, found and summarized.

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
import statistics
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
from e2vit.experiments.catalog import EXPERIMENTS, Experiment
from e2vit.experiments.configuration import DECISIVE, changed, configuration, configuration_hash
from e2vit.models import Symmetrized
from e2vit.training import fine_tuning
from e2vit.training.fine_tuning import FineTuneConfig
from e2vit.training.loop import write_atomically


class RecordError(Exception):
    """A record that is missing or doesn't belong to its experiment, with the reason in one sentence."""


@dataclass(frozen=True)
class Summary:
    """Mean of a metric and its 95 % interval, as fractions; seeds and images (of one run) that it rests on.

    kind: "seeds" for Student's interval over three or more independent seeds, "images" for Wilson's over the images of
          the mean, "none" where the metric is not a rate and there are fewer seeds: low and high are NaN.
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


def results_folder() -> Path:
    """Where records live: E2VIT_RESULTS, else data/results of the checkout."""
    return Path(os.environ.get("E2VIT_RESULTS") or Path(__file__).resolve().parents[3] / "data" / "results")


def seeds_present(experiment: Experiment, results: Path | None = None) -> list[int]:
    """The seeds of an experiment that have a record."""
    folder = (results or results_folder()) / experiment.name
    return sorted(int(path.stem[4:]) for path in folder.glob("seed*.json") if path.stem[4:].isdecimal())


def read(experiment: Experiment, seed: int, results: Path | None = None) -> dict[str, Any]:
    """A record without its model. Error: RecordError when it is missing, damaged or stale."""
    path = (results or results_folder()) / experiment.name / f"seed{seed}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        stale = changed(record["configuration"], experiment, DECISIVE)
        where = (record["experiment"], record["seed"])
        complete = all(key in record for key in ("data", "device", "seconds", "curve", "validation", "test"))
    except FileNotFoundError:
        raise RecordError(
            f"there is no record of {experiment.name}, seed {seed}; python -m e2vit run {experiment.name} makes it"
        ) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as reason:
        raise RecordError(f"{path} is not a valid record: {type(reason).__name__} {reason}") from None
    if not complete or where != (experiment.name, seed):
        raise RecordError(f"{path} is not a complete record of {experiment.name}, seed {seed}")
    if stale:
        raise RecordError(
            f"{path} is stale: {', '.join(stale)} differ from {experiment.name} as it is now; delete it to run anew"
        )
    return record


def find(
    prefix: str = "", seeds: Iterable[int] | None = None, results: Path | None = None, **fields: Any
) -> list[dict[str, Any]]:
    """The valid records of the experiments whose name starts with prefix and that have these fields.

    In the order of the catalog, then by seed. seeds: only these. fields: of ``Experiment``, such as setting="rotated".
    """
    found, wanted = [], None if seeds is None else set(seeds)
    for experiment in matching(prefix, **fields):
        for seed in seeds_present(experiment, results):
            if wanted is None or seed in wanted:
                with suppress(RecordError):
                    found.append(read(experiment, seed, results))
    return found


def matching(prefix: str = "", **fields: Any) -> list[Experiment]:
    """The experiments whose name starts with prefix and that have these fields, in the order of the catalog."""
    if unknown := fields.keys() - {field.name for field in dataclasses.fields(Experiment)}:
        raise TypeError(f"an experiment has no field {sorted(unknown)[0]!r}")
    named = [experiment for name, experiment in EXPERIMENTS.items() if name.startswith(prefix)]
    return [each for each in named if all(getattr(each, key) == value for key, value in fields.items())]


def by_experiment(found: Iterable[dict[str, Any]]) -> dict[Experiment, list[dict[str, Any]]]:
    """The records grouped by their experiment, in the order in which they come."""
    groups: dict[Experiment, list[dict[str, Any]]] = {}
    for record in found:
        groups.setdefault(EXPERIMENTS[record["experiment"]], []).append(record)
    return groups


def summarize(found: Sequence[dict[str, Any]], metric: str = "accuracy", split: str = "test") -> Summary:
    """Mean and 95 % interval of a metric over records that differ in their seed alone; the interval ends at 0 and 1.

    Runs that start from one trained network share its errors: their spread says nothing about other networks, so they
    count as one seed.
    """
    if not found:
        raise ValueError("there are no records to summarize")
    values, images = [record[split][metric] for record in found], found[0][split]["count"]
    if len({(record.get("base") or record)["seed"] for record in found}) >= 3:
        mean, low, high = metrics.student(values)
        largest = math.inf if metric == "negative_log_likelihood" else 1.0
        return Summary(mean, max(low, 0.0), min(high, largest), len(values), images, "seeds")
    mean = sum(values) / len(values)
    interval = metrics.wilson(mean, images) if metric == "accuracy" else (math.nan, math.nan)
    return Summary(mean, *interval, len(values), images, "images" if metric == "accuracy" else "none")


def difference(
    first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]], spread: tuple[float, int] = (0.0, 1)
) -> metrics.Difference:
    """Test accuracy of the second network minus that of the first, from their records; see ``metrics.difference``."""
    sides = [[record["test"]["accuracy"] for record in side] for side in (first, second)]
    return metrics.difference(sides[0], sides[1], first[0]["test"]["count"], spread)


def seed_spread(groups: Iterable[Sequence[dict[str, Any]]]) -> tuple[float, int]:
    """Standard deviation of the test accuracy between the seeds of an experiment, pooled over experiments, and its
    degrees of freedom; 0 and 1 where no experiment has two seeds."""
    values = [[record["test"]["accuracy"] for record in group] for group in groups if len(group) > 1]
    if not (freedom := sum(len(of_one) - 1 for of_one in values)):
        return 0.0, 1
    squares = sum((len(of_one) - 1) * statistics.variance(of_one) for of_one in values)
    return math.sqrt(squares / freedom), freedom


def state_path(experiment: Experiment, seed: int, folder: Path) -> Path:
    """Where an unfinished run keeps its state; a changed configuration doesn't find the state of an older one."""
    return folder / f"seed{seed}.{configuration_hash(experiment)[:12]}.partial.pt"


def remove_states(experiment: Experiment, seed: int, results: Path) -> None:
    """Removes what a finished run no longer needs: its saved state, and files that a killed run left half-written."""
    folder = results / experiment.name
    state = state_path(experiment, seed, folder)
    for path in (*folder.glob(f"{state.stem}*"), *folder.glob(f".seed{seed}.*.tmp")):
        path.unlink(missing_ok=True)


def measure(experiment, seed, splits, training, model, trained, accelerator, base=None) -> dict[str, Any]:
    """The record of a finished run; the test split is used here, once.

    splits: the data as loaded; training: the part of it that the run trained on and is measured on.
    """
    fine_tuned = isinstance(experiment.training, FineTuneConfig)
    predict = fine_tuning.predict if fine_tuned else metrics.predict
    cuda = accelerator.device.type == "cuda"
    kibibyte = 1 if sys.platform == "darwin" else 1024
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibibyte
    packages = ("torch", "torchvision", "accelerate", "numpy")
    record = {
        "schema": 1,
        "experiment": experiment.name,
        "configuration": configuration(experiment),
        "hash": configuration_hash(experiment),
        "seed": seed,
        "data": splits.fingerprint,
        "training_images": len(training.train),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
        "device": torch.cuda.get_device_name() if cuda else f"{processor()}, {torch.get_num_threads()} threads",
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision if accelerator.mixed_precision != "no" else "float32",
        "seconds": round(trained.seconds, 1),
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if cuda else memory,
        "parameters": sum(p.numel() for p in model.parameters()),
        "curve": trained.curve,
        "chosen_epoch": trained.chosen_epoch,
        "validation": metrics.summary(predict(model, training.validation.images), training.validation.labels),
        "test": metrics.summary(predict(model, training.test.images), training.test.labels),
    }
    if base is not None:
        sha256 = base.record.get("checkpoint_sha256")
        record["base"] = {"experiment": experiment.base, "seed": base.record["seed"], "checkpoint_sha256": sha256}
    if fine_tuned and base is not None:
        base_model = base.model.to(accelerator.device)
        record["against_averaging"] = fine_tuning.against_averaging(model, base_model, training.test)
    return record | {"date": date.today().isoformat()}


def write(folder: Path, seed: int, record: dict[str, Any], model: nn.Module, base: nn.Module | None = None) -> None:
    """The checkpoint first, then the record: a record never stands without its checkpoint.

    Weights that a model shares with its base are not written twice.
    """
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if base is not None:
        prefix = "model." if isinstance(model, Symmetrized) else ""
        shared = {prefix + k: v.cpu() for k, v in base.state_dict().items()}
        weights = {k: v for k, v in weights.items() if k not in shared or not torch.equal(v, shared[k])}
    checkpoint = folder / f"seed{seed}.safetensors"
    write_atomically(checkpoint, lambda file: save_file(weights, file))
    record["checkpoint_sha256"] = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    write_atomically(folder / f"seed{seed}.json", lambda file: Path(file).write_text(text, encoding="utf-8"))


def _commit() -> str:
    """The git commit of the code, marked when files differ from it; "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
        return done.stdout.strip() or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def processor() -> str:
    """The name of the processor, for records."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} (CPU)"
