"""The experiments of the book: named, costed, and run once each into a record.

``run`` reads a record, or trains it; nothing else writes into the results.
"""

import dataclasses
import difflib
import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn, optim

from e2vit.data import Splits, all_training, embedded, in_shape_of, load, subset
from e2vit.data.sources import first_line
from e2vit.experiments import records
from e2vit.experiments.catalog import EXPERIMENTS, Experiment, build
from e2vit.experiments.records import RecordError, results_folder
from e2vit.models import Symmetrized
from e2vit.training import fine_tuning
from e2vit.training.fine_tuning import FineTuneConfig
from e2vit.training.loop import discard_state, make_accelerator, sweep, train

MODES = ("quick", "report", "train")

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "MODES",
    "RecordError",
    "Run",
    "default_mode",
    "find",
    "record_of",
    "run",
    "status",
]


@dataclass(frozen=True)
class Run:
    """A finished run: what was measured, and the model with the weights that were measured."""

    record: dict[str, Any]
    model: nn.Module


class Claimed(RuntimeError):
    """Another worker is at this run."""


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
    deadline: float = float("inf"),
    progress: bool = True,
) -> Run:
    """One seed of one experiment.

    mode: "report" reads the record; "train" trains when there is none, and continues what was begun;
          "quick" trains a tiny model for a moment on the embedded digits and keeps nothing.
    results: the folder of the records; data/results of the checkout when left out.
    Error: RecordError when a record is missing, stale or altered; Claimed when another worker has the run.
    """
    experiment = name if isinstance(name, Experiment) else find(name)
    _checked_mode(mode)
    if type(seed) is not int or seed < 0:
        raise ValueError(f"a seed is a whole number from 0 on, not {seed!r}")
    if mode == "quick":
        return _quick(experiment, seed)
    folder = (results or results_folder()) / experiment.name
    if mode == "report" or (folder / f"seed{seed}.json").exists():
        if mode == "train":
            tidy(experiment, seed, results)
        return _read(experiment, seed, folder)
    return _train(experiment, seed, folder, deadline, progress)


def seeds_present(name: str, results: Path | None = None) -> list[int]:
    """The seeds of an experiment that have a record."""
    return records.seeds_present(find(name), results)


def read_record(name: str, seed: int = 0, results: Path | None = None) -> dict[str, Any]:
    """A record without its model. Error: RecordError when it is missing, stale or altered."""
    return records.read(find(name), seed, results)


def record_of(name: str, mode: str = "report", seed: int = 0) -> dict[str, Any]:
    """A record without its model: read where it is, else made as ``run`` makes it. For what needs no weights."""
    there = mode != "quick" and seed in seeds_present(name)
    return read_record(name, seed) if mode == "report" or there else run(name, mode, seed).record


def tidy(experiment: Experiment, seed: int, results: Path | None = None) -> None:
    """Removes what a run still had beside its record when it was killed. Nothing, while anybody is at the run."""
    folder = (results or results_folder()) / experiment.name
    if (folder / f"seed{seed}.json").exists() and records.leftovers(experiment, seed, folder):
        with suppress(OSError, Timeout), FileLock(folder / f"seed{seed}.claim", timeout=0):
            _discard(experiment, seed, folder)


def status(results: Path | None = None) -> list[dict[str, Any]]:
    """For every experiment: seeds wanted, present, missing and stale, what the present ones ran on, what a seed costs.

    present counts every seed with a good record, also above those wanted. stale: refused, whatever the reason.
    """
    rows = []
    for name, experiment in EXPERIMENTS.items():
        good, stale = {}, []
        for seed in seeds_present(name, results):
            try:
                good[seed] = read_record(name, seed, results)
            except RecordError:
                stale.append(seed)
        missing = [seed for seed in range(experiment.seeds) if seed not in good]
        rows.append(
            {
                "experiment": name,
                "wanted": experiment.seeds,
                "present": len(good),
                "missing": missing,
                "stale": stale,
                "devices": sorted({record["device"] for record in good.values()}),
                "gpu_minutes": experiment.gpu_minutes,
                "cpu_minutes": experiment.cpu_minutes,
            }
        )
    return rows


def _train(experiment: Experiment, seed: int, folder: Path, deadline: float, progress: bool) -> Run:
    accelerator = make_accelerator()
    splits = load(experiment.data)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"seed{seed}.claim", timeout=0)
    try:
        _claim(lock, accelerator, f"{experiment.name}, seed {seed}")
        if any(gather_object([(folder / f"seed{seed}.json").exists()])):  # done by who had the claim until now
            return _read(experiment, seed, folder)
        if accelerator.is_main_process:
            sweep(folder, f"seed{seed}.")
        state = records.state_path(experiment, seed, folder)
        base = _base(experiment, seed, folder)
        model = build_on(base, experiment, seed)
        training = _training_splits(experiment, splits, base.record["seed"] if base else seed)
        method = fine_tuning.fine_tune if isinstance(experiment.training, FineTuneConfig) else train
        trained = method(
            model,
            training.train,
            training.validation,
            experiment.training,
            seed=seed,
            state_path=state,
            deadline=deadline,
            accelerator=accelerator,
            progress=progress,
            watch=training.test if experiment.watch_test else None,
        )
        if accelerator.is_main_process:
            record = records.measure(experiment, seed, splits, training, model, trained, accelerator, base)
            records.write(folder, seed, record, model, base and base.model)
            _discard(experiment, seed, folder)
        accelerator.wait_for_everyone()
        return _read(experiment, seed, folder)
    finally:
        lock.release()


def _discard(experiment: Experiment, seed: int, folder: Path) -> None:
    """Removes what belongs to a run that has its record, for who holds the claim on it."""
    discard_state(state := records.state_path(experiment, seed, folder))
    if isinstance(experiment.training, FineTuneConfig):
        fine_tuning.discard_states(state, experiment.training)
    sweep(folder, f"seed{seed}.")


def _claim(lock: FileLock, accelerator: Accelerator, what: str) -> None:
    """Takes the run for this worker, all its processes together; the system frees the lock when the worker dies."""
    taken = True
    if accelerator.is_main_process:
        try:
            lock.acquire()
        except Timeout:
            taken = False
    if not all(gather_object([taken])):
        raise Claimed(f"another worker is at {what}")


def _training_splits(experiment: Experiment, splits: Splits, seed: int) -> Splits:
    """What a run trains on, chooses with and is measured on: the splits, shortened as its configuration says."""
    if experiment.all_training:
        splits = all_training(splits)
    return dataclasses.replace(
        splits,
        train=subset(splits.train, experiment.fraction, seed),
        validation=splits.validation[: experiment.training.validation_images],
        test=splits.test[: experiment.training.test_images],
    )


def _base(experiment: Experiment, seed: int, folder: Path) -> Run | None:
    """The finished run that an experiment starts from: the base's run of the same seed, or of its highest one."""
    if experiment.base is None:
        return None
    results = folder.parents[experiment.name.count("/")]
    present = seeds_present(experiment.base, results)
    number = seed if seed in present or not present else max(present)
    return run(experiment.base, "report", number, results=results)


def build_on(base: Run | None, experiment: Experiment, seed: int) -> nn.Module:
    """The model of an experiment before its training; what comes from a base has the base's weights."""
    model = build(experiment, seed)
    if base is not None:
        (model.model if isinstance(model, Symmetrized) else model).load_state_dict(base.model.state_dict())
    return model


def _read(experiment: Experiment, seed: int, folder: Path) -> Run:
    record = records.read(experiment, seed, folder.parents[experiment.name.count("/")])
    checkpoint = folder / f"seed{seed}.safetensors"
    if not checkpoint.exists():
        raise RecordError(
            f"{checkpoint} is missing: of runs that only stand in a table the repository keeps the "
            f"record, not the checkpoint; python -m e2vit run {experiment.name} --seed {seed} --results FOLDER "
            "makes both anew"
        )
    try:
        if hashlib.sha256(checkpoint.read_bytes()).hexdigest() != record["checkpoint_sha256"]:
            raise RecordError(f"{checkpoint} is not the checkpoint that its record names")
        base = (
            run(experiment.base, "report", record["base"]["seed"], results=folder.parents[experiment.name.count("/")])
            if experiment.base
            else None
        )
        if base is not None and base.record["checkpoint_sha256"] != record["base"]["checkpoint_sha256"]:
            raise RecordError(
                f"{checkpoint} was made from another checkpoint of {experiment.base} than the present "
                "one; delete it to run anew"
            )
        model = build_on(base, experiment, seed)
        model.load_state_dict({**(model.state_dict() if base else {}), **load_file(checkpoint)})
    except (OSError, SafetensorError, RuntimeError) as reason:
        raise RecordError(f"{checkpoint} is no checkpoint of {experiment.name}: {first_line(reason)}") from None
    return Run(record, model.eval())


@lru_cache(maxsize=64)
def _quick(experiment: Experiment, seed: int) -> Run:
    """A moment of training of a tiny model on 300 embedded digits, in memory only."""
    once = {} if isinstance(experiment.training, FineTuneConfig) else {"updates_per_epoch": None}
    if getattr(experiment.training, "optimizer", None) == "muon" and not hasattr(optim, "Muon"):
        once["optimizer"] = "adamw"  # torch is too old; nothing is kept that could be taken for the other
    small = dataclasses.replace(
        experiment,
        fraction=0.3,
        model=getattr(experiment.model, "tiny", lambda: experiment.model)(),
        training=dataclasses.replace(experiment.training, epochs=2, batch_size=50, warmup_epochs=0.5, **once),
    )
    splits = embedded(experiment.data)
    splits = dataclasses.replace(splits, test=splits.test[:200])
    splits = in_shape_of(splits, getattr(small.model, "model", small.model))
    training = _training_splits(small, splits, seed)
    accelerator = make_accelerator()
    base = _quick(find(experiment.base), seed) if experiment.base else None
    model = build_on(base, small, seed)
    method = fine_tuning.fine_tune if isinstance(small.training, FineTuneConfig) else train
    trained = method(
        model,
        training.train,
        training.validation,
        small.training,
        seed=seed,
        accelerator=accelerator,
        watch=training.test if experiment.watch_test else None,
    )
    return Run(records.measure(small, seed, splits, training, model, trained, accelerator, base), model.cpu())


def _checked_mode(mode: str) -> str:
    if mode not in MODES:
        raise ValueError(f"mode is one of {', '.join(MODES)}, not {mode!r}")
    return mode
