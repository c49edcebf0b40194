"""Compare the speed of functions on a busy machine: they take turns, and the best round of each counts.

    from rounds import alternate
    seconds = alternate({"before": before, "after": after}, rounds=8, path=Path("record.json"))

A slow moment of the machine falls on all of them alike, and the smallest time is the one that it disturbed least. The
timing of a round is torch's: ``torch.utils.benchmark.Timer`` warms up, waits for a GPU, and uses one thread.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.benchmark import Timer

from e2vit.experiments.records import processor, results_folder
from e2vit.training.loop import write_atomically


def turns(functions: dict[Any, Callable[[], object]], rounds: int = 5, threads: int = 1) -> dict[Any, list[float]]:
    """Name → seconds of one call in each round.

    With one thread and no GPU the clock is the processor time of this process, which other work doesn't touch; else it
    is the wall clock.
    """
    clock = {"timer": time.process_time} if threads == 1 and not torch.cuda.is_available() else {}
    timers = {
        name: Timer("f()", globals={"f": function}, num_threads=threads, **clock)
        for name, function in functions.items()
    }
    seconds: dict[Any, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            seconds[name].append(timer.timeit(1).mean)
    return seconds


def alternate(
    functions: dict[str, Callable[[], object]], rounds: int = 5, threads: int = 1, path: Path | None = None
) -> dict[str, float]:
    """Name → seconds of one call, the best of ``rounds``. path: a JSON file for the best and for all rounds."""
    seconds = turns(functions, rounds, threads)
    best = {name: min(found) for name, found in seconds.items()}
    if path is not None:
        write(path, {**conditions(threads), "best": best, "rounds": seconds})
    return best


def forward(model: nn.Module, images: torch.Tensor) -> None:
    with torch.inference_mode():
        model.eval()(images)


def training(model: nn.Module, images: torch.Tensor) -> None:
    """Forward and backward of a step; the optimizer's part does not depend on the model's code."""
    model.train().zero_grad()
    nn.functional.cross_entropy(
        model(images), torch.zeros(len(images), dtype=torch.int64, device=images.device)
    ).backward()


def images_per_second(
    task: Callable[[nn.Module, torch.Tensor], None], models: dict[str, nn.Module], images: torch.Tensor, rounds: int
) -> dict[str, float]:
    """Name of a model → images per second of a task, ``forward`` or ``training``, to four digits."""
    best = alternate({name: lambda model=model: task(model, images) for name, model in models.items()}, rounds)
    return {name: float(f"{len(images) / seconds:.4g}") for name, seconds in best.items()}


def conditions(threads: int = 1) -> dict[str, str]:
    """What a record says of the device, the clock and torch."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else f"{processor()}, {threads} thread{'s' * (threads > 1)}",
        "clock": "wall clock" if cuda or threads > 1 else "processor time of the process",
        "torch": torch.__version__,
    }


def record_path(name: str) -> Path:
    return results_folder() / "benchmarks" / f"{name}.json"


def write(path: Path, record: Any) -> None:
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: Path(file).write_text(text, "utf-8"))
