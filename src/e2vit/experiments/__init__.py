"""The experiments of the book: named, and run once each into a record.

``run`` reads a record, or trains it; nothing else writes into the results.
"""

import dataclasses
import difflib
import hashlib
import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn, optim

from e2vit.data import Splits, all_training, embedded, in_shape_of, load, subset
from e2vit.data.sources import first_line
from e2vit.experiments import records
from e2vit.experiments.catalog import EXPERIMENTS, Experiment, build
from e2vit.experiments.records import RecordError, results_folder
from e2vit.models import Symmetrized
from e2vit.training import FineTuneConfig, Trained, fine_tune, make_accelerator, train

MODES = ("quick", "report", "train")

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "MODES",
    "RecordError",
    "Run",
    "build",
    "default_mode",
    "find",
    "read_record",
    "record_of",
    "records",
    "results_folder",
    "run",
    "seeds_present",
    "status",
]


@dataclass(frozen=True)
class Run:
    """A finished run: its record, and the model with the weights that were measured."""

    record: dict[str, Any]
    model: nn.Module


def default_mode() -> str:
    """The mode of a notebook: E2VIT_MODE, else "report"."""
    return _checked_mode(os.environ.get("E2VIT_MODE") or "report")


def find(name: str) -> Experiment:
    """The experiment of that name. Error: KeyError with the nearest names."""
    if str(name) not in EXPERIMENTS:  # whatever a notebook's parameter may be
        near = difflib.get_close_matches(str(name), EXPERIMENTS, n=3, cutoff=0.4) or list(EXPERIMENTS)[:3]
        raise KeyError(f"no experiment is called {name!r}; did you mean {' or '.join(near)}?")
    return EXPERIMENTS[str(name)]


def run(
    name: str | Experiment,
    mode: str = "report",
    seed: int = 0,
    *,
    results: Path | None = None,
    deadline: float = math.inf,
    progress: bool = True,
) -> Run:
    """One seed of one experiment.

    mode: "report" reads the record; "train" trains when there is none, and continues what was begun;
          "quick" trains a tiny model for a moment on the embedded digits and keeps nothing.
    results: the folder of the records; data/results of the checkout when left out.
    Error: RecordError when a record is missing, damaged or stale; OutOfTime at the deadline (``time.monotonic()``).
    """
    experiment = name if isinstance(name, Experiment) else find(name)
    _checked_mode(mode)
    if type(seed) is not int or seed < 0:
        raise ValueError(f"a seed is a whole number from 0 on, not {seed!r}")
    if mode == "quick":
        return _quick(experiment, seed)
    results = Path(results or results_folder())
    if mode == "train":
        if not (results / experiment.name / f"seed{seed}.json").exists():
            _train(experiment, seed, results, deadline, progress)
        records.remove_states(experiment, seed, results)  # here: a run may have been killed with its record written
    return _read(experiment, seed, results)


def seeds_present(name: str, results: Path | None = None) -> list[int]:
    """The seeds of an experiment that have a record."""
    return records.seeds_present(find(name), results)


def read_record(name: str, seed: int = 0, results: Path | None = None) -> dict[str, Any]:
    """A record without its model. Error: RecordError when it is missing, damaged or stale."""
    return records.read(find(name), seed, results)


def record_of(name: str, mode: str = "report", seed: int = 0) -> dict[str, Any]:
    """A record without its model: read if it exists, else made as ``run`` makes it. For what needs no weights."""
    there = mode != "quick" and seed in seeds_present(name)
    return read_record(name, seed) if mode == "report" or there else run(name, mode, seed).record


def status(results: Path | None = None) -> list[dict[str, Any]]:
    """For every experiment: seeds wanted, present, missing and stale; what the present ones ran on and reached.

    present: number of valid records, also above those wanted. stale: refused, for whatever reason.
    accuracy: mean on the test images (a fraction), and minutes: mean of a seed, on the devices named; None without any.
    """
    rows = []
    for name, experiment in EXPERIMENTS.items():
        seeds = records.seeds_present(experiment, results)
        found = records.find(name, results=results, name=name)
        good = {record["seed"] for record in found}
        rows.append(
            {
                "experiment": name,
                "about": experiment.about,
                "wanted": experiment.seeds,
                "present": len(good),
                "missing": [seed for seed in range(experiment.seeds) if seed not in good],
                "stale": [seed for seed in seeds if seed not in good],
                "devices": sorted({record["device"] for record in found}),
                "accuracy": records.summarize(found).mean if found else None,
                "minutes": sum(record["seconds"] for record in found) / len(found) / 60 if found else None,
            }
        )
    return rows


def build_on(base: Run | None, experiment: Experiment, seed: int) -> nn.Module:
    """The model of an experiment before its training, with the weights of its base if it has one."""
    model = build(experiment, seed)
    if base is not None:
        (model.model if isinstance(model, Symmetrized) else model).load_state_dict(base.model.state_dict())
    return model


def _train(experiment: Experiment, seed: int, results: Path, deadline: float, progress: bool) -> None:
    accelerator, splits, folder = make_accelerator(), load(experiment.data.format(seed=seed)), results / experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    base = _base(experiment, seed, results)
    model = build_on(base, experiment, seed)
    training = _training_splits(experiment, splits, base.record["seed"] if base else seed)
    state = records.state_path(experiment, seed, folder)
    options = {"state_path": state, "deadline": deadline, "progress": progress}
    trained = _trained(model, experiment, training, seed, accelerator, **options)
    if accelerator.is_main_process:
        record = records.measure(experiment, seed, splits, training, model, trained, accelerator, base)
        records.write(folder, seed, record, model, base and base.model)
    accelerator.wait_for_everyone()


def _trained(
    model: nn.Module, experiment: Experiment, training: Splits, seed: int, accelerator: Accelerator, **options: Any
) -> Trained:
    options |= {"seed": seed, "accelerator": accelerator, "watch": training.test if experiment.watch_test else None}
    if isinstance(experiment.training, FineTuneConfig):
        assert isinstance(model, Symmetrized)
        return fine_tune(model, training.train, training.validation, experiment.training, **options)
    return train(model, training.train, training.validation, experiment.training, **options)


def _training_splits(experiment: Experiment, splits: Splits, seed: int) -> Splits:
    """The images for training, choice and measurement: the splits, shortened as the configuration says."""
    if experiment.all_training:
        splits = all_training(splits)
    return dataclasses.replace(
        splits,
        train=subset(splits.train, experiment.fraction, seed),
        validation=splits.validation[: experiment.training.validation_images],
        test=splits.test[: experiment.training.test_images],
    )


def _base(experiment: Experiment, seed: int, results: Path) -> Run | None:
    """The finished run that an experiment starts from: the base's run of the same seed, or of its highest one."""
    if experiment.base is None:
        return None
    present = seeds_present(experiment.base, results)
    return run(experiment.base, seed=seed if seed in present or not present else max(present), results=results)


def _read(experiment: Experiment, seed: int, results: Path) -> Run:
    record = records.read(experiment, seed, results)
    checkpoint = results / experiment.name / f"seed{seed}.safetensors"
    if not checkpoint.exists():
        raise RecordError(
            f"{checkpoint} is missing: of runs that appear in tables only, the repository keeps the record, not the "
            f"checkpoint; python -m e2vit run {experiment.name} --seed {seed} --results FOLDER makes both anew"
        )
    if hashlib.sha256(checkpoint.read_bytes()).hexdigest() != record["checkpoint_sha256"]:
        raise RecordError(f"{checkpoint} is not the checkpoint that its record names")
    base = run(experiment.base, seed=record["base"]["seed"], results=results) if experiment.base else None
    if base is not None and base.record["checkpoint_sha256"] != record["base"]["checkpoint_sha256"]:
        raise RecordError(
            f"{checkpoint} was made from another checkpoint of {experiment.base} than the present one; "
            "delete it to run anew"
        )
    model = build_on(base, experiment, seed)
    try:
        model.load_state_dict({**(model.state_dict() if base else {}), **load_file(checkpoint)})
    except (OSError, SafetensorError, RuntimeError) as reason:
        raise RecordError(f"{checkpoint} is not a checkpoint of {experiment.name}: {first_line(reason)}") from None
    return Run(record, model.eval())


@lru_cache(maxsize=64)
def _quick(experiment: Experiment, seed: int) -> Run:
    """A smoke-test run: a tiny model on 300 embedded digits, in memory only."""
    changes: dict[str, Any] = {"epochs": 2, "batch_size": 50, "warmup_epochs": 0.5}
    if not isinstance(experiment.training, FineTuneConfig):
        changes["updates_per_epoch"] = None
        if experiment.training.optimizer == "muon" and not hasattr(optim, "Muon"):
            changes["optimizer"] = "adamw"  # torch is too old; nothing is kept that could be taken for the other
    small = dataclasses.replace(
        experiment,
        fraction=0.3,
        model=getattr(experiment.model, "tiny", lambda: experiment.model)(),
        training=dataclasses.replace(experiment.training, **changes),
    )
    splits = embedded(experiment.data)
    splits = dataclasses.replace(splits, test=splits.test[:200])
    splits = in_shape_of(splits, getattr(small.model, "model", small.model))
    training, accelerator = _training_splits(small, splits, seed), make_accelerator()
    base = _quick(find(experiment.base), seed) if experiment.base else None
    model = build_on(base, small, seed)
    trained = _trained(model, small, training, seed, accelerator)
    return Run(records.measure(small, seed, splits, training, model, trained, accelerator, base), model.cpu())


def _checked_mode(mode: str) -> str:
    if mode not in MODES:
        raise ValueError(f"mode is one of {', '.join(MODES)}, not {mode!r}")
    return mode
