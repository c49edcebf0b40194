"""The list of experiments: order, bases, fields, and equal conditions within a comparison."""

import json

from e2vit.experiments import EXPERIMENTS, configuration, records
from e2vit_book.weaknesses.measure import late_rise


def test_every_entry_has_its_name_its_network_and_a_sentence():
    for name, entry in EXPERIMENTS.items():
        assert entry.name == name and entry.about and entry.network and entry.seeds >= 1


def test_the_most_wanted_comes_first():
    names = ["rotmnist/hybrid-c4", "ablation/hybrid-c4", "rotmnist/vit", "post_hoc/rotated/none/mean_logits"]
    names += ["attention/gevit", "rotmnist/gcnn-p4cnn", "fraction/hybrid-c4-1", "selection/z2cnn"]
    places = [list(EXPERIMENTS).index(name) for name in names]
    assert places == sorted(places)


def test_a_base_comes_before_what_is_built_on_it_and_has_its_model():
    names = list(EXPERIMENTS)
    for name, entry in EXPERIMENTS.items():
        if entry.base:
            base = EXPERIMENTS[entry.base]
            assert names.index(entry.base) < names.index(name)
            assert entry.model.model == base.model and entry.data == base.data and entry.fraction == base.fraction


def test_within_a_setting_every_method_is_trained_alike():
    trainings: dict[tuple, set] = {}
    for entry in EXPERIMENTS.values():
        if entry.regime:
            trainings.setdefault((entry.setting, entry.regime), set()).add(entry.training)
            assert entry.training.regime == entry.regime and entry.model.aggregate == entry.method
    assert len(trainings) == 10 and all(len(each) == 1 for each in trainings.values())


def test_four_attention_networks_share_all_but_group_and_index():
    entries = [entry for entry in EXPERIMENTS.values() if entry.setting == "attention"]
    assert [entry.network for entry in entries] == ["plain", "cayley", "gevit", "gsa"]
    assert len({entry.training for entry in entries}) == 1
    configurations = [configuration.plain(entry.model) for entry in entries]
    differing = {k for c in configurations for k, v in c.items() if v != configurations[0][k]}
    assert differing == {"group", "index"}


def test_the_networks_of_one_share_of_the_data_are_trained_alike_and_without_dropout():
    trainings: dict[float, set] = {}
    for entry in EXPERIMENTS.values():
        if entry.setting == "data_efficiency":
            trainings.setdefault(entry.fraction, set()).add(entry.training)
            assert entry.model.dropout == 0
    assert len(trainings) == 3 and all(len(each) == 1 for each in trainings.values())


def test_every_network_of_the_data_efficiency_stopped_rising():
    found = records.find("fraction/")
    assert found and max(map(late_rise, found)) <= 0.005


def test_only_the_study_of_test_selection_watches_the_test_split():
    assert all(entry.watch_test == (entry.setting == "selection") for entry in EXPERIMENTS.values())


def test_configurations_are_plain_json_and_no_two_entries_are_the_same_run():
    hashes = {}
    for name, entry in EXPERIMENTS.items():
        json.dumps(configuration.configuration(entry))
        hashes.setdefault(configuration.configuration_hash(entry), []).append(name)
    assert [names for names in hashes.values() if len(names) > 1] == []
