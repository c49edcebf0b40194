"""Records: written whole, read with suspicion; the catalog; the command line."""

import hashlib
import json
import subprocess
from dataclasses import replace
from functools import lru_cache

import pytest
import torch

from conftest import ROOT
from e2vit import experiments
from e2vit.__main__ import main
from e2vit.data import embedded
from e2vit.experiments import Claimed, RecordError, find, read_record, record_of, records, run, status
from e2vit.experiments.catalog import EXPERIMENTS
from e2vit.metrics import predict

NAME = "digits/vit"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    run(NAME, "train", results=folder, progress=False)
    return folder


@pytest.fixture
def spoiled(results, tmp_path):
    """A copy of the results that a test may damage."""
    import shutil

    shutil.copytree(results, tmp_path / "results")
    return tmp_path / "results"


def record_file(folder):
    return folder / "digits" / "vit" / "seed0.json"


def test_a_record_says_everything(results):
    record = read_record(NAME, results=results)
    assert {
        "configuration",
        "hash",
        "seed",
        "data",
        "commit",
        "versions",
        "device",
        "seconds",
        "peak_memory_bytes",
        "parameters",
        "curve",
        "chosen_epoch",
        "validation",
        "test",
        "checkpoint_sha256",
    } <= set(record)
    assert record["data"]["origin"] == "embedded digits" and len(record["curve"]) == 6
    assert record["parameters"] == sum(p.numel() for p in run(NAME, results=results).model.parameters())
    assert sorted(p.name for p in record_file(results).parent.iterdir() if p.suffix != ".claim") == [
        "seed0.json",
        "seed0.safetensors",
    ]


def test_the_checkpoint_scores_what_the_record_says(results):
    finished = run(NAME, results=results)
    test = embedded("digits").test
    correct = (predict(finished.model, test.images).argmax(1) == test.labels).double().mean().item()
    assert correct == finished.record["test"]["accuracy"]


def test_a_finished_run_is_read_and_not_run_again(results, monkeypatch):
    monkeypatch.setattr(experiments, "train", lambda *a, **k: pytest.fail("trained again"))
    assert run(NAME, "train", results=results).record["seed"] == 0


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: r | {"test": {"accuracy": 1.0}}, "altered"),
        (lambda r: r | {"schema": 0}, "schema"),
        (lambda r: [r], "no record"),
    ],
)
def test_a_record_that_was_altered_is_refused(spoiled, change, message):
    file = record_file(spoiled)
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(RecordError, match=message):
        run(NAME, results=spoiled)


def test_a_record_of_another_configuration_is_stale_and_says_where(spoiled, monkeypatch):
    entry = EXPERIMENTS[NAME]
    monkeypatch.setitem(EXPERIMENTS, NAME, replace(entry, training=replace(entry.training, epochs=7)))
    with pytest.raises(RecordError, match="stale: training.epochs differ"):
        run(NAME, results=spoiled)
    (row,) = [row for row in status(spoiled) if row["experiment"] == NAME]
    assert row["stale"] == [0] and row["missing"] == [0] and row["devices"] == []


def test_a_setting_that_came_later_leaves_old_records_valid(results):
    record = read_record(NAME, results=results)
    older = json.loads(json.dumps(record["configuration"]))
    del older["training"]["clip"], older["model"]["readout"]
    assert records.changed(older, EXPERIMENTS[NAME], records.DECISIVE) == []
    older["model"]["forgotten"] = 1
    older["training"]["learning_rate"] = 5.0
    assert records.changed(older, EXPERIMENTS[NAME], records.DECISIVE) == ["model.forgotten", "training.learning_rate"]


@pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_a_checkpoint_that_is_not_its_records_is_refused(spoiled, damage):
    file = record_file(spoiled).with_suffix(".safetensors")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(RecordError, match="checkpoint"):
        run(NAME, results=spoiled)
    file.unlink()
    with pytest.raises(RecordError, match="checkpoint"):
        run(NAME, results=spoiled)


def test_a_record_without_its_checkpoint_can_be_read_but_not_run(spoiled, monkeypatch):
    monkeypatch.setenv("E2VIT_RESULTS", str(spoiled))
    record_file(spoiled).with_suffix(".safetensors").unlink()
    for mode in ("report", "train"):
        assert record_of(NAME, mode)["experiment"] == NAME
        with pytest.raises(RecordError, match=f"run {NAME} --seed 0 --results FOLDER makes both anew"):
            run(NAME, mode)


def test_every_record_of_the_book_has_its_checkpoint_or_git_is_told_to_leave_it_out():
    for record in (ROOT / "data" / "results").rglob("seed*.json"):
        checkpoint = record.with_suffix(".safetensors")
        left_out = (
            subprocess.run(["git", "check-ignore", "-q", "--no-index", str(checkpoint)], cwd=ROOT).returncode == 0
        )
        wanted = json.loads(record.read_text(encoding="utf-8"))["checkpoint_sha256"]
        if checkpoint.exists():
            assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() == wanted, record
        else:
            assert left_out, f"{checkpoint} is neither there nor named in .gitignore"


def test_a_missing_record_names_the_command(tmp_path):
    with pytest.raises(RecordError, match="python -m e2vit run digits/vit makes it"):
        run(NAME, results=tmp_path)


def test_quick_runs_keep_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("E2VIT_RESULTS", str(tmp_path))
    record = run(NAME, "quick").record
    assert record["test"]["count"] == 200 and list(tmp_path.iterdir()) == []


def test_training_never_receives_the_test_split(tmp_path, monkeypatch):
    """What every entry hands to its training: no test image, save in ``watch`` for the study of test selection."""
    splits = lru_cache(embedded)
    seen = []

    def spy(model, train_split, validation, *a, watch, **options):
        seen.append((train_split.images, validation.images, watch))
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "train", spy)
    monkeypatch.setattr(experiments.fine_tuning, "fine_tune", spy)
    monkeypatch.setattr(experiments, "load", splits)
    monkeypatch.setattr(experiments, "_base", lambda *a: None)
    monkeypatch.setattr(experiments, "build_on", lambda *a: None)  # no model is needed to see what it would be shown
    tests = {
        data: keys(splits(data).test.images) for data in {entry.data.format(seed=0) for entry in EXPERIMENTS.values()}
    }
    watched = []
    for name, entry in EXPERIMENTS.items():
        with pytest.raises(KeyboardInterrupt):
            run(name, "train", results=tmp_path)
        images, validation, watch = seen.pop()
        assert not tests[entry.data.format(seed=0)] & (keys(images) | keys(validation)), name
        if watch is not None:
            assert keys(watch.images) == tests[entry.data.format(seed=0)]
            watched.append(name)
    assert watched == [name for name, entry in EXPERIMENTS.items() if entry.watch_test] != []


def keys(images):
    return {image.tobytes() for image in images.numpy()}


def test_two_workers_keep_off_each_other(tmp_path):
    from filelock import FileLock

    (tmp_path / "digits" / "vit").mkdir(parents=True)
    with FileLock(tmp_path / "digits" / "vit" / "seed0.claim"), pytest.raises(Claimed, match="another worker"):
        run(NAME, "train", results=tmp_path)


def test_final_runs_choose_nothing():
    with pytest.raises(ValueError, match="can't choose"):
        replace(EXPERIMENTS[NAME], all_training=True)


def test_building_is_decided_by_the_seed_alone():
    from e2vit.experiments.catalog import build

    torch.manual_seed(1)
    first = build(EXPERIMENTS[NAME], 3).head.weight
    torch.manual_seed(2)
    assert torch.equal(first, build(EXPERIMENTS[NAME], 3).head.weight)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "rotmnist/vti"], "did you mean rotmnist/vit"),
        (["run"], "name the experiments"),
    ],
)
def test_the_command_line_answers_bad_input_in_one_line(arguments, message, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_command_line_lists_runs_and_reports(results, capsys):
    assert main(["list"]) == 0 and NAME in capsys.readouterr().out
    assert main(["status", "--results", str(results)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line.split() for line in lines if line.startswith(f"{NAME} ")]
    entry, wanted = EXPERIMENTS[NAME], sum(entry.seeds for entry in EXPERIMENTS.values())
    assert line[1:6] == ["1/1", "–", "–", f"{entry.gpu_minutes:g}", f"{entry.cpu_minutes:g}"]
    assert " ".join(line[6:]) == read_record(NAME, results=results)["device"]
    assert lines[-3] == f"1 of {wanted} wanted runs are there, 1 with those beyond; 0 are stale"
    assert lines[-2].startswith("the whole book: ") and lines[-1].startswith("to do: ")
    assert main(["run", NAME, "--results", str(results)]) == 0
    assert "embedded digits" in capsys.readouterr().out


def test_unknown_modes_and_names_are_refused():
    with pytest.raises(ValueError, match="quick, report, train"):
        run(NAME, "fast")
    with pytest.raises(KeyError, match="did you mean"):
        find("digits/vitt")
