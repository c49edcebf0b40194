"""The list of experiments: what it costs, in what order it is wanted, and what its records hold it to."""

import json
from pathlib import Path

import pytest

from e2vit.experiments import records
from e2vit.experiments.catalog import EXPERIMENTS

RESULTS = Path(__file__).resolve().parents[1] / "data" / "results"


def test_one_gpu_trains_the_whole_book_in_two_hours():
    assert sum(entry.seeds * entry.gpu_minutes for entry in EXPERIMENTS.values()) <= 120


def test_every_entry_says_what_it_costs():
    for name, entry in EXPERIMENTS.items():
        assert 0 < entry.gpu_minutes <= entry.cpu_minutes and entry.seeds >= 1, name
        assert entry.name == name and entry.about


def test_what_is_wanted_most_comes_first():
    first = [
        list(EXPERIMENTS).index(name)
        for name in (
            "rotmnist/hybrid-c4",
            "ablation/hybrid-c4",
            "rotmnist/vit",
            "post_hoc/rotated/none/mean_logits",
            "rotmnist/corrected-c4",
            "rotmnist/gcnn-p4cnn",
            "fraction/hybrid-c4-1",
            "selection/z2cnn",
            "rotmnist/hybrid-c8",
        )
    ]
    assert first == sorted(first)


def test_a_base_comes_before_what_is_built_on_it_and_has_its_model():
    names = list(EXPERIMENTS)
    for name, entry in EXPERIMENTS.items():
        if entry.base:
            base = EXPERIMENTS[entry.base]
            assert names.index(entry.base) < names.index(name)
            assert entry.model.model == base.model and entry.data == base.data and entry.fraction == base.fraction


def test_within_a_setting_every_method_is_trained_alike():
    trainings: dict[str, set] = {}
    for name, entry in EXPERIMENTS.items():
        if name.startswith("post_hoc/"):
            trainings.setdefault(name.rpartition("/")[0], set()).add(entry.training)
    assert len(trainings) == 12 and all(len(each) == 1 for each in trainings.values())
    assert {training.regime for (training,) in trainings.values()} == {"none", "head", "all"}


def test_the_shares_of_the_data_have_the_same_number_of_updates():
    entries = [entry for name, entry in EXPERIMENTS.items() if name.startswith("fraction/")]
    assert {entry.training.epochs * entry.training.updates_per_epoch for entry in entries} == {1000}


def test_only_the_study_of_test_selection_watches_the_test_split():
    assert all(entry.watch_test == name.startswith("selection/") for name, entry in EXPERIMENTS.items())


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("seed*.json")), ids=lambda p: str(p.relative_to(RESULTS)))
def test_no_committed_record_is_stale(path):
    name = path.parent.relative_to(RESULTS).as_posix()
    if not name.startswith("digits/"):  # those are not committed: they are a first run
        assert records.read(EXPERIMENTS[name], int(path.stem[4:]), RESULTS)["experiment"] == name


def test_configurations_are_plain_json_and_no_two_entries_are_the_same_run():
    hashes = {}
    for name, entry in EXPERIMENTS.items():
        json.dumps(records.configuration(entry))
        hashes.setdefault(records.configuration_hash(entry), []).append(name)
    assert [names for names in hashes.values() if len(names) > 1] == []
