"""Records: written whole, read by their experiment alone; what training is shown; quick runs."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from functools import lru_cache

import pytest
import torch

from conftest import ROOT
from e2vit import experiments, pretrained
from e2vit.data import embedded
from e2vit.experiments import (
    EXPERIMENTS,
    RecordError,
    build,
    configuration,
    find,
    read_record,
    record_of,
    records,
    run,
    status,
)
from e2vit.metrics import predict

NAME = "digits/vit"


@pytest.fixture(scope="module", autouse=True)
def short():
    """The first run, shortened to a second."""
    entry = EXPERIMENTS[NAME]
    training = replace(entry.training, epochs=2, batch_size=50, warmup_epochs=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXPERIMENTS, NAME, replace(entry, fraction=0.2, training=training))
        yield


@pytest.fixture(scope="module")
def results(tmp_path_factory, short):
    folder = tmp_path_factory.mktemp("results")
    run(NAME, "train", results=folder, progress=False)
    return folder


@pytest.fixture
def spoiled(results, tmp_path):
    """A copy of the results that a test may damage."""
    return shutil.copytree(results, tmp_path / "results")


def record_file(folder):
    return folder / "digits" / "vit" / "seed0.json"


def test_a_record_is_complete_and_alone_with_its_checkpoint(results):
    record = read_record(NAME, results=results)
    wanted = (
        "configuration hash seed data commit versions device seconds peak_memory_bytes parameters curve chosen_epoch"
    )
    assert {*wanted.split(), "validation", "test", "checkpoint_sha256"} <= set(record)
    assert record["data"]["origin"] == "embedded digits" and len(record["curve"]) == 2
    assert record["parameters"] == sum(p.numel() for p in run(NAME, results=results).model.parameters())
    files = sorted(p.name for p in record_file(results).parent.iterdir())
    assert files == ["seed0.json", "seed0.safetensors"]


def test_the_checkpoint_scores_what_the_record_says(results):
    finished = run(NAME, results=results)
    test = embedded("digits").test
    correct = (predict(finished.model, test.images).argmax(1) == test.labels).double().mean().item()
    assert correct == finished.record["test"]["accuracy"]


def test_a_finished_run_is_read_and_not_run_again(results, monkeypatch):
    monkeypatch.setattr(experiments, "train", lambda *a, **k: pytest.fail("trained again"))
    assert run(NAME, "train", results=results).record["seed"] == 0


def test_a_record_of_another_configuration_is_stale_and_says_where(spoiled, monkeypatch):
    entry = EXPERIMENTS[NAME]
    monkeypatch.setitem(EXPERIMENTS, NAME, replace(entry, training=replace(entry.training, epochs=7)))
    with pytest.raises(RecordError, match="stale: training.epochs differ"):
        run(NAME, results=spoiled)
    (row,) = [row for row in status(spoiled) if row["experiment"] == NAME]
    assert row["stale"] == [0] and row["missing"] == [0] and row["devices"] == [] and row["minutes"] is None


def test_a_setting_that_came_later_was_renamed_or_removed_leaves_old_records_valid(results):
    older = json.loads(json.dumps(read_record(NAME, results=results)["configuration"]))
    del older["training"]["clip"]
    older["training"] |= {"trainable": "", "label_smoothing": 0.0}
    if "in_channels" in older["model"]:
        older["model"]["channels"] = older["model"].pop("in_channels")
    assert configuration.changed(older, EXPERIMENTS[NAME], configuration.DECISIVE) == []
    older["model"]["forgotten"] = 1
    older["training"] |= {"learning_rate": 5.0, "trainable": "head"}
    names = configuration.changed(older, EXPERIMENTS[NAME], configuration.DECISIVE)
    assert names == ["model.forgotten", "training.trainable", "training.learning_rate"]


@pytest.mark.parametrize("renamed", pretrained.RENAMED.items())
def test_a_renamed_field_is_read_under_its_new_name(renamed):
    old, new = renamed
    now = dataclasses.make_dataclass("Config", [(new, int, 1)], frozen=True)
    assert configuration.changed({old: 3}, now(3)) == [] and configuration.changed({old: 3}, now(1)) == [new]


def test_a_checkpoint_that_is_not_its_records_is_refused(spoiled):
    file = record_file(spoiled).with_suffix(".safetensors")
    whole = file.read_bytes()
    for damaged in (whole[:100], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damaged)
        with pytest.raises(RecordError, match="is not the checkpoint that its record names"):
            run(NAME, results=spoiled)


def test_a_record_without_its_checkpoint_can_be_read_but_not_run(spoiled, monkeypatch):
    monkeypatch.setenv("E2VIT_RESULTS", str(spoiled))
    record_file(spoiled).with_suffix(".safetensors").unlink()
    for mode in ("report", "train"):
        assert record_of(NAME, mode)["experiment"] == NAME
        with pytest.raises(RecordError, match=f"run {NAME} --seed 0 --results FOLDER makes both anew"):
            run(NAME, mode)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if records.seeds_present(EXPERIMENTS[name])])
def test_every_committed_record_reads_and_its_checkpoint_loads(name):
    """A record without a checkpoint is one of those that git is told to leave out."""
    for seed in records.seeds_present(EXPERIMENTS[name]):
        record = records.read(EXPERIMENTS[name], seed)
        checkpoint = records.results_folder() / name / f"seed{seed}.safetensors"
        if checkpoint.exists():
            assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() == record["checkpoint_sha256"]
            model = run(name, seed=seed).model
            assert sum(p.numel() for p in model.parameters()) == record["parameters"]
        else:
            command = ["git", "check-ignore", "-q", "--no-index", str(checkpoint)]
            assert subprocess.run(command, cwd=ROOT).returncode == 0, f"{checkpoint} is missing"


def test_every_committed_record_belongs_to_an_experiment():
    folder = records.results_folder()
    names = {path.parent.relative_to(folder).as_posix() for path in folder.rglob("seed*.json")}
    assert names <= EXPERIMENTS.keys() and len(names) > 100


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

    for name in ("train", "fine_tune"):
        monkeypatch.setattr(experiments, name, spy)
    monkeypatch.setattr(experiments, "load", splits)
    monkeypatch.setattr(experiments, "_base", lambda *a: None)
    anything = experiments.Symmetrized.__new__(experiments.Symmetrized)
    monkeypatch.setattr(experiments, "build_on", lambda *a: anything)  # no model is needed to see what it is shown
    tests = {data: keys(splits(data).test.images) for data in {e.data.format(seed=0) for e in EXPERIMENTS.values()}}
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


def test_final_runs_choose_nothing():
    with pytest.raises(ValueError, match="can't choose"):
        replace(find(NAME), all_training=True)


def test_building_is_decided_by_the_seed_alone():
    torch.manual_seed(1)
    first = build(EXPERIMENTS[NAME], 3).head.weight
    torch.manual_seed(2)
    assert torch.equal(first, build(EXPERIMENTS[NAME], 3).head.weight)
