"""Finding and summarizing the committed records."""

import math

import pytest

from e2vit import metrics
from e2vit.experiments import EXPERIMENTS, records


def test_records_are_found_by_the_fields_of_their_experiment():
    found = records.find(setting="rotated", regime="head", method="mean_logits")
    assert [(r["experiment"], r["seed"]) for r in found] == [("post_hoc/rotated/head/mean_logits", s) for s in range(3)]
    assert records.find("post_hoc/rotated/", seeds=[0], regime="head", method="mean_logits") == found[:1]
    assert {r["configuration"]["fraction"] for r in records.find(fraction=0.1)} == {0.1}
    assert records.find(network="a network that nobody built") == []
    with pytest.raises(TypeError, match="no field 'netwerk'"):
        records.find(netwerk="vit")


def test_records_come_in_the_order_of_the_catalog_then_by_seed():
    names = list(EXPERIMENTS)
    places = [(names.index(r["experiment"]), r["seed"]) for r in records.find()]
    assert places == sorted(places) and len(places) >= 300


def test_a_summary_is_students_interval_from_three_seeds_on_and_wilsons_below():
    three = records.find("post_hoc/rotated/head/mean_logits")
    accuracies = [r["test"]["accuracy"] for r in three]
    many, few = records.summarize(three), records.summarize(three[:2])
    assert (many.mean, many.low, many.high) == metrics.student(accuracies) and many.kind == "seeds"
    assert (few.low, few.high) == metrics.wilson(few.mean, 10_000) and few.kind == "images"
    assert str(records.Summary(0.98724, 0.98611, 0.98829, 3, 50_000, "seeds")) == "98.72 % [98.61, 98.83]"
    likelihood = records.summarize(three[:1], "negative_log_likelihood", "validation")
    assert likelihood.kind == "none" and math.isnan(likelihood.low)
    with pytest.raises(ValueError, match="no records"):
        records.summarize([])


def test_records_are_grouped_by_their_experiment():
    found = records.find(setting="ablation")
    groups = records.by_experiment(found)
    assert [r for group in groups.values() for r in group] == found
    assert all({r["experiment"] for r in group} == {experiment.name} for experiment, group in groups.items())
