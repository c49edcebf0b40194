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

import torch
from torch.utils.benchmark import Timer

from e2vit.training.loop import write_atomically


def alternate(
    functions: dict[str, Callable[[], object]], rounds: int = 5, threads: int = 1, path: Path | None = None
) -> dict[str, float]:
    """Name → seconds of one call, the best of ``rounds``.

    With one thread and no GPU the clock is the processor time of this process, which other work doesn't touch; else it
    is the wall clock.
    path: a JSON file for the best and for all rounds.
    """
    alone = threads == 1 and not torch.cuda.is_available()
    clock = {"timer": time.process_time} if alone else {}
    timers = {
        name: Timer("f()", globals={"f": function}, num_threads=threads, **clock)
        for name, function in functions.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            seconds[name].append(timer.timeit(1).mean)
    best = {name: min(found) for name, found in seconds.items()}
    if path is not None:
        record = {"clock": "processor time" if alone else "wall clock", "best": best, "rounds": seconds}
        write_atomically(path, lambda file: Path(file).write_text(json.dumps(record, indent=1) + "\n"))
    return best
