"""The runner: order, budget, bases, failures, and several processes side by side."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from e2vit.__main__ import main
from e2vit.data import DataError
from e2vit.experiments import find, read_record, records, run, runner, seeds_present
from e2vit.experiments.catalog import EXPERIMENTS
from e2vit.groups import cyclic
from e2vit.models import SymmetrizedConfig
from e2vit.training import state as run_state
from e2vit.training.fine_tuning import FineTuneConfig
from e2vit.training.loop import OutOfTime

NAME = "digits/vit"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(NAME, "train", results=folder, progress=False)
    return outcome(folder)


def outcome(results: Path) -> tuple:
    record = read_record(NAME, results=results)
    return (results / NAME / "seed0.safetensors").read_bytes(), record["curve"], record["test"], record["validation"]


def work(*names, results, **options):
    return runner.work(runner.tasks([find(name) for name in names]), results, progress=False, **options)


def test_the_first_seeds_of_all_come_before_the_second_of_any():
    entries = [replace(find(NAME), name=name, seeds=seeds) for name, seeds in (("a", 1), ("b", 3), ("c", 2))]
    assert [(t.experiment.name, t.seed) for t in runner.tasks(entries)] == [
        ("a", 0),
        ("b", 0),
        ("c", 0),
        ("b", 1),
        ("c", 1),
        ("b", 2),
    ]
    assert [t.seed for t in runner.tasks(entries, seed=7)] == [7, 7, 7]
    assert len(runner.tasks(entries, seeds=2)) == 6


def test_the_same_seed_again_gives_the_same_numbers(whole, tmp_path):
    assert work(NAME, results=tmp_path) == 0
    assert outcome(tmp_path) == whole


def test_it_stops_before_the_budget_ends_and_continues_to_the_same_bits(whole, tmp_path, monkeypatch, capsys):
    save = run_state.RunState.save
    with monkeypatch.context() as patch:
        patch.setattr(run_state.RunState, "save", lambda self, path: (save(self, path), time.sleep(1)))
        started = time.monotonic()
        assert work(NAME, results=tmp_path, budget_seconds=4, missing=True) == 0
        assert time.monotonic() - started < 4
    assert "the same command continues" in capsys.readouterr().err
    assert seeds_present(NAME, tmp_path) == [] and list((tmp_path / NAME).glob("*.partial.safetensors"))
    assert work(NAME, results=tmp_path, missing=True) == 0
    assert outcome(tmp_path) == whole


def test_what_has_no_epochs_is_cut_short_and_done_by_the_next_call(whole, tmp_path, monkeypatch, capsys):
    def stopped(*args):
        raise OutOfTime("stopped before the test")

    def slow(*args):
        for _ in range(600):
            time.sleep(0.05)

    with monkeypatch.context() as patch:  # all epochs are trained first, so that no slow machine is cut short in them
        patch.setattr(records, "measure", stopped)
        assert work(NAME, results=tmp_path) == 0
    monkeypatch.setattr(run_state.RunState, "end_epoch", lambda *a: pytest.fail("trained again"))
    with monkeypatch.context() as patch:
        patch.setattr(records, "measure", slow)
        started = time.monotonic()
        assert work(NAME, results=tmp_path, budget_seconds=4) == 0
        assert time.monotonic() - started < 15
    assert "seed 0: the budget ended" in capsys.readouterr().err
    assert seeds_present(NAME, tmp_path) == []
    assert work(NAME, results=tmp_path) == 0
    assert outcome(tmp_path) == whole


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler], ids=["in the background", "in front"])
def test_a_budget_ends_also_where_interrupts_are_ignored(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        started = time.monotonic()
        with pytest.raises(OutOfTime), runner._interrupted_after(0.2):
            while time.monotonic() < started + 20:
                time.sleep(0.01)
        assert time.monotonic() < started + 15
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_interrupts_of_others_stay_ignored_in_the_background():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with runner._interrupted_after(60):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_is_there_is_passed_over_in_silence(tmp_path, monkeypatch, capsys):
    (tmp_path / NAME).mkdir(parents=True)
    (tmp_path / NAME / "seed0.json").write_text("{}")
    monkeypatch.setattr(runner, "run", lambda *a, **k: pytest.fail("ran"))
    assert work(NAME, results=tmp_path, missing=True) == 0
    assert capsys.readouterr() == ("", "")


def test_a_failure_is_told_and_the_others_are_run(tmp_path, monkeypatch, capsys):
    def without_data(experiment, *args, **options):
        if experiment.name == "rsscn7/vit":
            raise DataError("the images are nowhere to be had")
        return run(experiment, *args, **options)

    monkeypatch.setattr(runner, "run", without_data)
    assert runner.work(runner.tasks([find("rsscn7/vit"), find(NAME)], seeds=1), tmp_path, progress=False) == 1
    said = capsys.readouterr()
    assert said.err == "e2vit: rsscn7/vit, seed 0: the images are nowhere to be had\n"
    assert f"{NAME}, seed 0: test" in said.out


def test_what_is_built_on_a_base_waits_for_it(tmp_path, monkeypatch, capsys):
    base = find(NAME)
    tuned = replace(
        base,
        name="made/tuned",
        base=NAME,
        model=SymmetrizedConfig(base.model, cyclic(4)),
        seeds=2,
        training=FineTuneConfig("none"),
    )
    monkeypatch.setitem(EXPERIMENTS, tuned.name, tuned)
    assert work(tuned.name, results=tmp_path, missing=True) == 0
    assert "2 runs wait for the run they start from" in capsys.readouterr().err
    assert work(tuned.name, NAME, results=tmp_path, missing=True) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split(":")[0] for line in lines]
    assert names[0] == f"{NAME}, seed 0" and sorted(names[1:]) == ["made/tuned, seed 0", "made/tuned, seed 1"]


@pytest.mark.parametrize("arguments, message", [(["--missing", "--jobs", "0"], "jobs"), ([], "name the experiments")])
def test_the_command_refuses_what_makes_no_sense(arguments, message, capsys):
    assert main(["run", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_two_processes_share_the_runs_and_need_no_papermill(tmp_path, whole):
    """The machine that trains has no papermill: a module of that name that refuses to be imported stands in the way."""
    for package in ("papermill", "jupytext", "IPython"):
        (tmp_path / "path").mkdir(exist_ok=True)
        (tmp_path / "path" / f"{package}.py").write_text("raise RuntimeError('it is not to be imported')")
    results = tmp_path / "results"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "path"), "ACCELERATE_USE_CPU": "1"}
    command = [
        sys.executable,
        "-m",
        "e2vit",
        "run",
        NAME,
        "--seeds",
        "3",
        "--jobs",
        "2",
        "--results",
        str(results),
        "--budget-minutes",
        "5",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = sorted(line.split(":")[0] for line in done.stdout.splitlines())
    assert lines == [f"{NAME}, seed {seed}" for seed in range(3)]  # each by one of the two
    assert outcome(results) == whole


def test_a_process_that_does_not_stop_is_ended(monkeypatch, capsys):
    monkeypatch.setattr(runner, "GRACE", 0.5)
    monkeypatch.setattr(runner.subprocess, "Popen", lambda command, env: SLEEPING(env))
    started = time.monotonic()
    assert runner.side_by_side(["run"], 2, 0.5) != 0
    assert time.monotonic() - started < 20 and "did not stop" in capsys.readouterr().err


def SLEEPING(environment, popen=subprocess.Popen):
    return popen([sys.executable, "-c", "import time; time.sleep(60)"], env=environment)
