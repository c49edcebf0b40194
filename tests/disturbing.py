"""Runs that meet with a fault at a chosen step, each in a process of its own.

The processes are forked from one that has imported everything already, so that hundreds of them are affordable. A step
is a file operation inside the folder of the results (opening, renaming, removing) and the middle of every write.
"""

import copy
import errno
import multiprocessing
import os
import random
import signal
import sys
import time
import warnings
from dataclasses import replace
from functools import lru_cache
from multiprocessing import forkserver
from pathlib import Path

from e2vit import experiments
from e2vit.data import as_float, load
from e2vit.experiments import records, runner
from e2vit.experiments.catalog import EXPERIMENTS, build
from e2vit.training import state as run_state

SMALL = replace(
    EXPERIMENTS["digits/vit"],
    name="made/small",
    fraction=0.15,
    seeds=4,
    training=replace(EXPERIMENTS["digits/vit"].training, epochs=3, validation_images=100, test_images=200),
)
EXPERIMENTS[SMALL.name] = SMALL
# What takes a moment the first time is done once, before any process is forked.
copy.deepcopy(build(SMALL, 0))(as_float(load(SMALL.data).train.images[:50]))
OPERATIONS = ("open", "os.rename", "os.remove")
FAULTS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "full": lambda: _fail(errno.ENOSPC),
    "unreadable": lambda: _fail(errno.EIO),
}


def _fail(code: int):
    raise OSError(code, os.strerror(code))


class Steps:
    """Counts the steps of this process and brings the fault about at one of them.

    only: a part of the names of the files whose steps count.
    """

    def __init__(self, folder: Path, fault: str | None, at: int, only: str = ""):
        self.folder, self.fault, self.at, self.only, self.count = str(folder), fault, at, only, 0
        sys.addaudithook(self._heard)
        for module in (run_state, records):
            module.write_atomically = self._in_two_halves

    def _heard(self, event: str, arguments: tuple) -> None:
        if event in OPERATIONS and str(arguments[0]).startswith(self.folder):
            self._take(str(arguments[0]))

    def _in_two_halves(self, path, write, write_atomically=run_state.write_atomically) -> None:
        def halting(file):
            write(file)
            whole = Path(file).read_bytes()
            Path(file).write_bytes(whole[: len(whole) // 2])
            self._take(file)
            Path(file).write_bytes(whole)

        write_atomically(path, halting)

    def _take(self, file: str) -> None:
        self.count += self.only in file
        if self.count == self.at and self.only in file:
            FAULTS[self.fault]()


def _work(results: Path, log: Path, fault: str | None, at: int, options: dict) -> None:
    """The small run, as the command runs it; the number of steps and what was said are kept in the log."""
    with open(log, "a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    warnings.simplefilter("always")
    records._commit = lambda: "unknown"  # git takes longer than the run
    if options.get("bytes_a_file"):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (options["bytes_a_file"],) * 2)
    if options.get("clock"):
        chance = random.Random(options["clock"])
        time.time = lambda: chance.choice((0.0, 1e9, 4e9, 2e11)) * chance.random()  # to the year 8300
    steps = Steps(results, fault, at, options.get("only", ""))
    missing, seeds = options.get("missing", True), options.get("seeds", 1)
    code = runner.work(
        runner.tasks([SMALL], seeds), results, options.get("budget", 1e6), missing=missing, progress=False
    )
    print(f"steps {steps.count}", flush=True)
    os._exit(code)


def begin(results: Path, log: Path, fault: str | None = None, at: int = 0, **options):
    """A process that works; ``at``: the step at which it meets with the fault."""
    process = _context().Process(target=_work, args=(results, log, fault, at, options))
    process.start()
    return process


@lru_cache
def _context():
    """The parent of all processes; it finds this module by the environment alone before Python 3.14."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["disturbing"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    return context


def work(results: Path, log: Path, fault: str | None = None, at: int = 0, **options) -> int:
    """The exit status of such a process; below zero when a signal ended it."""
    process = begin(results, log, fault, at, **options)
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def outcome(results: Path, seed: int = 0) -> tuple:
    """Of a finished run: its weights, and every number of its record that isn't of the moment."""
    record = experiments.read_record(SMALL.name, seed, results)
    experiments.run(SMALL.name, "report", seed, results=results)  # the checkpoint is the one that the record names
    weights = (results / SMALL.name / f"seed{seed}.safetensors").read_bytes()
    return weights, record["curve"], record["validation"], record["test"], record["chosen_epoch"]
