"""Many runs in a row, or in several processes side by side, until all are done or the time is up.

Every worker walks through the same list and takes what nobody else has claimed. So workers need not know each other:
they may be children of one command, or sit on different machines that share the folder of the records.
"""

import _thread
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import SafetensorError

from e2vit.data import DataError
from e2vit.experiments import Claimed, Experiment, RecordError, find, run, seeds_present, tidy
from e2vit.training.loop import DamagedState, Diverged, OutOfTime

FAILURES = (
    DataError,
    RecordError,
    DamagedState,
    Diverged,
    ValueError,
    OSError,
    SafetensorError,  # a damaged file beside the records, such as one of kept features
    torch.cuda.OutOfMemoryError,
)  # the next run may be smaller
GRACE = 60  # seconds that a child is given, after its budget, to stop by itself


@dataclass(frozen=True)
class Task:
    """One seed of one experiment."""

    experiment: Experiment
    seed: int

    def __str__(self) -> str:
        return f"{self.experiment.name}, seed {self.seed}"

    def present(self, results: Path | None) -> bool:
        return self.seed in seeds_present(self.experiment.name, results)

    def waits(self, results: Path | None) -> bool:
        """Whether its base must be trained first: the same seed of it, or its last one where it has fewer."""
        if self.experiment.base is None:
            return False
        base = find(self.experiment.base)
        return min(self.seed, base.seeds - 1) not in seeds_present(base.name, results)


def tasks(experiments: Sequence[Experiment], seeds: int | None = None, seed: int | None = None) -> list[Task]:
    """The first seed of every experiment in the given order, then the second, and so on.

    seeds: how many; as many as each experiment wants when left out. seed: this one alone.
    """
    rounds = range(max(seeds or experiment.seeds for experiment in experiments)) if seed is None else [seed]
    return [
        Task(experiment, number)
        for number in rounds
        for experiment in experiments
        if seed is not None or number < (seeds or experiment.seeds)
    ]


def work(
    todo: list[Task],
    results: Path | None = None,
    budget_seconds: float = math.inf,
    missing: bool = False,
    progress: bool = True,
) -> int:
    """Runs the tasks in order; 0 when all went well or the time was up, 1 when a run failed. Each outcome is a line.

    missing: what has a record is passed over in silence, and what waits for its base is left out while it waits.
    What another worker is at is passed over too: it is in good hands, or taken up by the next call.
    """
    deadline, failures, task = time.monotonic() + budget_seconds, 0, "nothing begun"
    try:
        with _interrupted_after(budget_seconds):
            pending, moved = list(todo), True
            while pending and moved:
                moved, left = False, []
                for task in pending:
                    if missing and task.present(results):
                        tidy(task.experiment, task.seed, results)
                        continue
                    if missing and task.waits(results):
                        left.append(task)
                        continue
                    try:
                        finished = run(
                            task.experiment, "train", task.seed, results=results, deadline=deadline, progress=progress
                        )
                        moved = True
                        _report(task, finished.record)
                    except Claimed as reason:
                        _say(f"{reason}; going on")
                    except FAILURES as reason:
                        failures += 1
                        _say(f"e2vit: {task}: {reason}")
                pending = left
    except OutOfTime as reason:
        _say(f"{task}: {reason}; the same command continues")
        return int(failures > 0)
    if pending:
        _say(f"{len(pending)} runs wait for the run they start from, the first is {pending[0]}")
    return int(failures > 0)


def side_by_side(arguments: list[str], jobs: int, budget_seconds: float) -> int:
    """The same command in several processes on one device; the claims keep two off one run.

    arguments: of ``python -m e2vit``. Each process has its share of the processor's cores.
    """
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, **os.environ}
    children = [subprocess.Popen([sys.executable, "-m", "e2vit", *arguments], env=environment) for _ in range(jobs)]
    deadline = time.monotonic() + budget_seconds + GRACE
    try:
        for child in children:
            child.wait(None if math.isinf(deadline) else max(0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _say("a process did not stop when its budget ended and was ended; the same command continues")
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()
        codes = [child.wait() for child in children]
    return max(abs(code) for code in codes)


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """Ends the block with OutOfTime when the time is up: what is long and has no epochs, such as the test, is cut short.

    States and records are written whole or not at all, so this may come at any moment.
    """
    over = threading.Event()

    def interrupt() -> None:
        over.set()
        _thread.interrupt_main()

    def only_by_us(*_) -> None:
        if over.is_set():
            raise KeyboardInterrupt

    # Shells start what runs in the background deaf to interrupts: there, nobody else's is let in.
    deaf = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if deaf:
        signal.signal(signal.SIGINT, only_by_us)
    timer = threading.Timer(max(0.0, seconds), interrupt) if seconds < threading.TIMEOUT_MAX else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield
    except KeyboardInterrupt:
        if over.is_set():
            raise OutOfTime("the budget ended") from None
        raise
    finally:
        if timer is not None:
            timer.cancel()
        if deaf:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _report(task: Task, record: dict) -> None:
    if PartialState().is_main_process:
        print(
            f"{task}: test {100 * record['test']['accuracy']:.2f} % ({record['data']['origin']}), "
            f"{record['seconds'] / 60:.1f} min on {record['device']}",
            flush=True,
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
