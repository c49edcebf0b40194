"""Runs that are killed, run out of disk, meet another worker or a damaged state: nothing is lost and nothing lies.

Whatever happened, the next call ends with the same weights and the same numbers as an undisturbed run, and leaves the
record and its checkpoint alone in the folder. ``make soak`` tries every step of a run, ``make test`` a few of them.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disturbing import SMALL, begin, outcome, work
from safetensors import safe_open
from test_notebooks import small_checkout

from conftest import ROOT, require
from e2vit import experiments

soak = pytest.mark.soak
SAID = f"e2vit: {SMALL.name}, seed 0: "


def folder(results: Path) -> Path:
    return results / SMALL.name


def names(results: Path) -> list[str]:
    """What lies beside the claim, which stays: removing it would let two workers hold it."""
    return sorted(path.name for path in folder(results).glob("*") if path.suffix != ".claim")


def assert_nothing_half(results: Path) -> None:
    """Right after a fault: each file under its own name is whole, and a record vouches for what is there."""
    for path in folder(results).iterdir() if folder(results).exists() else []:
        if not path.name.startswith(".") and path.suffix not in (".json", ".claim"):
            with safe_open(path, "pt") as file:
                assert all(file.get_tensor(key).isfinite().all() for key in file.keys())
    if (folder(results) / "seed0.json").exists():
        experiments.run(SMALL.name, "report", results=results)


@pytest.fixture(scope="module")
def steps(log, whole) -> int:
    """How many steps an undisturbed run has."""
    return int(re.search(r"^steps (\d+)$", log.read_text(), re.MULTILINE)[1])


@pytest.fixture
def ends_as_if_undisturbed(tmp_path, log, whole):
    def check(results: Path = tmp_path) -> None:
        assert_nothing_half(results)
        assert work(results, log) == 0
        assert outcome(results) == whole
        assert names(results) == ["seed0.json", "seed0.safetensors"]

    return check


@pytest.mark.parametrize("tries", [3, pytest.param("all", marks=soak)])
@pytest.mark.parametrize("fault, status", [("kill", -signal.SIGKILL), ("full", 1)])
def test_a_fault_at_any_step_costs_nothing_but_time(fault, status, tries, tmp_path, log, steps, ends_as_if_undisturbed):
    """Killed, or the disk is full: before a file is opened, in the middle of its writing, around its renaming.

    The control: among the steps are some where the record is there and states lie beside it.
    """
    assert steps > 40
    chosen = (
        range(1, steps + 1)
        if tries == "all"
        else [*random.Random(fault).sample(range(2, steps - 8), tries - 1), steps - 5]
    )
    beside_a_record = 0
    for step in chosen:
        results = tmp_path / str(step)
        assert work(results, log, fault, step) == status or (fault == "full" and not folder(results).exists())
        beside_a_record += "seed0.json" in names(results) and len(names(results)) > 2
        ends_as_if_undisturbed(results)
    assert beside_a_record


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=soak)])
def test_a_run_that_is_killed_again_and_again_at_random_moments_comes_to_its_end(
    kills, tmp_path, log, ends_as_if_undisturbed
):
    chance = random.Random(2026)
    for _ in range(kills):
        process = begin(tmp_path, log)
        process.join(chance.uniform(0, 1.2))
        process.kill()
        process.join()
        assert_nothing_half(tmp_path)
        if process.exitcode == 0 or chance.random() < 0.2:
            ends_as_if_undisturbed()
            for path in folder(tmp_path).iterdir():
                path.unlink()
    ends_as_if_undisturbed()


@pytest.mark.parametrize(
    "largest", [500, 80_000, *(pytest.param(size, marks=soak) for size in range(10_000, 400_000, 20_000))]
)
def test_a_limit_on_the_size_of_files_is_told_in_one_sentence(largest, tmp_path, ends_as_if_undisturbed):
    own = tmp_path / "log"
    assert work(tmp_path, own, bytes_a_file=largest) == 1
    said = own.read_text().splitlines()
    assert said[0].startswith(SAID) and "seed0." in said[0] and "too large" in said[0] and len(said) == 2
    assert names(tmp_path) == []
    ends_as_if_undisturbed()


@soak
@pytest.mark.parametrize("kibibytes", range(64, 1600, 64))
def test_a_disk_that_is_full_costs_nothing_but_time(kibibytes, tmp_path, log, ends_as_if_undisturbed):
    require(os.geteuid() == 0, "the right to mount a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", tmp_path], check=True)
    try:
        status = work(tmp_path, log)
        assert status == (1 if kibibytes < 700 else status)  # a state takes about 400 KiB, and the one before is kept
        assert_nothing_half(tmp_path)
        subprocess.run(["mount", "-o", "remount,size=100m", tmp_path], check=True)
        ends_as_if_undisturbed()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_second_worker_goes_on_and_takes_over_when_the_first_is_dead(tmp_path, log, ends_as_if_undisturbed):
    first = begin(tmp_path, log, "stop", 25)
    while not stopped(first.pid):
        time.sleep(0.02)
    before = log.stat().st_size
    assert work(tmp_path, log) == 0  # not a failure: the run is in good hands
    assert f"another worker is at {SMALL.name}, seed 0; going on" in log.read_text()[before:]
    assert "seed0.json" not in names(tmp_path)
    first.kill()  # its claim dies with it
    first.join()
    ends_as_if_undisturbed()


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("workers", [2, pytest.param(6, marks=soak)])
def test_workers_that_begin_at_once_train_each_run_once(workers, tmp_path, log, whole):
    before = log.stat().st_size
    processes = [begin(tmp_path, log, seeds=4) for _ in range(workers)]
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [0] * workers
    lines = [line for line in log.read_text()[before:].splitlines() if ": test " in line]
    assert sorted(line.split(":")[0] for line in lines) == [f"{SMALL.name}, seed {seed}" for seed in range(4)]
    assert outcome(tmp_path) == whole and names(tmp_path) == sorted(
        f"seed{seed}.{ending}" for seed in range(4) for ending in ("json", "safetensors")
    )


def test_a_run_that_another_worker_ended_meanwhile_is_not_trained_again(tmp_path, log, whole, monkeypatch):
    """It had no record when this worker looked, and has one when this worker gets the claim."""
    assert work(tmp_path, log) == 0
    found, there = [], Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: (path.name != "seed0.json" or len(found) > 0) and there(path))
    monkeypatch.setattr(experiments, "_claim", lambda lock, *a: (found.append(1), lock.acquire()))
    monkeypatch.setattr(experiments, "train", lambda *a, **k: pytest.fail("trained again"))
    assert experiments.run(SMALL, "train", results=tmp_path).record["seed"] == 0 and found


@pytest.mark.parametrize("clock", [1, *(pytest.param(seed, marks=soak) for seed in range(2, 12))])
def test_a_clock_that_jumps_changes_nothing(clock, tmp_path, log, whole):
    assert work(tmp_path, log, clock=clock, budget=60) == 0
    assert outcome(tmp_path) == whole
    assert 0 <= experiments.read_record(SMALL.name, results=tmp_path)["seconds"] < 60


WRITE = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import execute

path, status, step = Path(sys.argv[3]), 1, 0
count = 0

def heard(event, arguments):
    global count
    if event in ("open", "os.rename", "os.remove"):
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)

while status:
    step += 1
    path.write_text("old" * 1000)
    if not (child := os.fork()):
        sys.addaudithook(heard)
        execute._write(path, "new" * 1000)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    text = path.read_text()
    print(status, text == "old" * 1000, text == "new" * 1000)
"""


def test_a_notebook_whose_writing_is_killed_is_the_old_or_the_new_one(tmp_path):
    path = tmp_path / "01_small.ipynb"
    done = subprocess.run(
        [sys.executable, "-c", WRITE, ROOT / "book" / "tools", ROOT / "src", path],
        text=True,
        capture_output=True,
        check=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert set(lines) == {f"{signal.SIGKILL:d} True False", f"{signal.SIGKILL:d} False True", "0 False True"}
    assert [each.name for each in tmp_path.iterdir()] == [path.name]  # what the killed ones left is gone, too


@soak
def test_a_notebook_whose_execution_is_killed_is_the_old_or_the_new_one(tmp_path):
    """The whole command, killed at random moments of some ten seconds; then it runs once undisturbed."""
    checkout = small_checkout(tmp_path)
    path, command = checkout / "notebooks" / "01_small.ipynb", [sys.executable, "book/tools/execute.py", "--all"]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    whole, chance, seconds = path.read_bytes(), random.Random(5), 12
    for _ in range(20):
        path.write_text("old")
        process = subprocess.Popen(
            command, cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(chance.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert path.read_bytes() in (b"old", whole)
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    assert path.read_bytes() == whole
    assert sorted(each.name for each in path.parent.iterdir()) == ["01_small.ipynb", "01_small.py", "execution.json"]
