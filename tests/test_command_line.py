"""The command line: order of runs, one line for each, budget, failures, and readers that leave."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from e2vit import __main__ as command
from e2vit.__main__ import main, tasks
from e2vit.data import DataError
from e2vit.experiments import EXPERIMENTS, find, read_record, run
from e2vit.groups import cyclic
from e2vit.models import SymmetrizedConfig
from e2vit.training import FineTuneConfig

NAME = "digits/vit"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    entry = EXPERIMENTS[NAME]
    training = replace(entry.training, epochs=1, batch_size=50, warmup_epochs=0.5)
    monkeypatch.setitem(EXPERIMENTS, NAME, replace(entry, fraction=0.1, training=training))


def test_the_first_seeds_of_all_come_before_the_second_of_any():
    entries = [replace(find(NAME), name=name, seeds=seeds) for name, seeds in (("a", 1), ("b", 3), ("c", 2))]
    order = [("a", 0), ("b", 0), ("c", 0), ("b", 1), ("c", 1), ("b", 2)]
    assert [(experiment.name, seed) for experiment, seed in tasks(entries, None, None)] == order
    assert [seed for _, seed in tasks(entries, None, 7)] == [7, 7, 7]
    assert len(tasks(entries, 2, None)) == 6


def test_a_run_says_in_one_line_what_it_reached_and_where_it_is(tmp_path, capsys):
    for _ in range(2):  # trained, then read
        assert main(["run", NAME, "--quiet", "--results", str(tmp_path)]) == 0
        line = capsys.readouterr().out
        accuracy = read_record(NAME, results=tmp_path)["test"]["accuracy"]
        assert line.startswith(f"{NAME}, seed 0: test {100 * accuracy:.2f} % [") and line.count("\n") == 1
        assert "(embedded digits), expected 95.00 %, " in line
        assert f"record {tmp_path / NAME / 'seed0.json'}; model e2vit.experiments.run(" in line
    assert main(["run", "--missing", NAME, "--quiet", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""


def test_a_second_seed_is_expected_to_reach_what_the_first_did(tmp_path, capsys):
    assert main(["run", NAME, "--seeds", "2", "--quiet", "--results", str(tmp_path)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    reached = read_record(NAME, 0, tmp_path)["test"]["accuracy"]
    assert "expected 95.00 %" in first and f"expected {100 * reached:.2f} %" in second


def test_list_and_status_in_words_and_as_json(tmp_path, capsys):
    run(NAME, "train", results=tmp_path, progress=False)
    record = read_record(NAME, results=tmp_path)
    assert main(["list", "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(EXPERIMENTS) and lines[0].endswith(f" min a seed on {record['device']}")
    assert main(["status", "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:6] == [NAME, "1/1", "–", "–", f"{100 * record['test']['accuracy']:.2f}", "%"]
    assert lines[-1].startswith("1 of ") and "0 are stale" in lines[-1]
    for what in ("list", "status"):
        assert main([what, "--json", "--results", str(tmp_path)]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [row["experiment"] for row in rows] == list(EXPERIMENTS)
        assert rows[0]["accuracy"] == record["test"]["accuracy"] and rows[0]["present"] == 1


def test_a_failure_is_told_and_the_others_are_run(tmp_path, monkeypatch, capsys):
    def without_data(experiment, *args, **options):
        if experiment.name == "rsscn7/vit":
            raise DataError("the images are nowhere to be had")
        return run(experiment, *args, **options)

    monkeypatch.setattr(command, "run", without_data)
    assert main(["run", "rsscn7/vit", NAME, "--seeds", "1", "--quiet", "--results", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.err == "e2vit: rsscn7/vit, seed 0: the images are nowhere to be had\n"
    assert f"{NAME}, seed 0: test" in said.out


def test_a_run_without_its_base_says_so_and_comes_after_it(tmp_path, monkeypatch, capsys):
    base = find(NAME)
    model, training = SymmetrizedConfig(base.model, cyclic(4)), FineTuneConfig("none")
    tuned = replace(base, name="made/tuned", base=NAME, model=model, seeds=2, training=training)
    monkeypatch.setitem(EXPERIMENTS, tuned.name, tuned)
    arguments = [tuned.name, "--quiet", "--results", str(tmp_path)]
    assert main(["run", *arguments]) == 1
    assert f"there is no record of {NAME}, seed 0" in capsys.readouterr().err
    assert main(["run", NAME, *arguments]) == 0
    assert [line.split(":")[0][-6:] for line in capsys.readouterr().out.splitlines()] == ["seed 0", "seed 0", "seed 1"]


def test_a_reader_that_leaves_ends_the_list_quietly():
    listing = subprocess.Popen(
        [sys.executable, "-m", "e2vit", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert listing.stdout is not None and listing.stderr is not None
    listing.stdout.close()
    assert listing.stderr.read() == "" and listing.wait() == 0
