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
    five = records.find("real/mirabest/vit/d4-100")
    accuracies = [r["test"]["accuracy"] for r in five]
    many, few = records.summarize(five), records.summarize(five[:2])
    assert (many.mean, many.low, many.high) == metrics.student(accuracies) and many.kind == "seeds"
    assert (few.low, few.high) == metrics.wilson(few.mean, five[0]["test"]["count"]) and few.kind == "images"
    assert str(records.Summary(0.98724, 0.98611, 0.98829, 3, 50_000, "seeds")) == "98.72 % [98.61, 98.83]"
    likelihood = records.summarize(five[:1], "negative_log_likelihood", "validation")
    assert likelihood.kind == "none" and math.isnan(likelihood.low)
    with pytest.raises(ValueError, match="no records"):
        records.summarize([])


def test_runs_that_start_from_one_network_are_not_independent():
    def runs(*bases):
        return [
            {"seed": k, "base": {"seed": base}, "test": {"accuracy": 0.9513, "count": 10_000}}
            for k, base in enumerate(bases)
        ]

    shared, own = records.summarize(runs(0, 0, 0)), records.summarize(runs(0, 1, 2))
    assert (shared.kind, own.kind) == ("images", "seeds") and shared.seeds == 3
    assert (shared.low, shared.high) == metrics.wilson(0.9513, 10_000)


def test_the_interval_of_a_rate_ends_at_0_and_1():
    near = [
        {"seed": k, "test": {"accuracy": x, "calibration_error": 1 - x, "count": 158}}
        for k, x in enumerate((0.999, 0.97, 0.999))
    ]
    accuracy, error = records.summarize(near), records.summarize(near, "calibration_error")
    assert accuracy.low < accuracy.mean < accuracy.high == 1.0 and error.low == 0.0 < error.mean < error.high
    likelihoods = [
        {"seed": k, "test": {"negative_log_likelihood": x, "count": 158}} for k, x in enumerate((0.1, 1.9, 2.5))
    ]
    assert records.summarize(likelihoods, "negative_log_likelihood").high > 1


def test_the_spread_of_seeds_is_pooled_and_enters_a_difference_of_single_runs():
    def runs(*accuracies):
        return [{"test": {"accuracy": x, "count": 10_000}} for x in accuracies]

    spread = records.seed_spread([runs(0.9, 0.92), runs(0.5, 0.52, 0.54), runs(0.7)])
    assert spread == (pytest.approx(math.sqrt((2 * 0.01**2 + 2 * 0.02**2) / 3)), 3)
    assert records.seed_spread([runs(0.7)]) == (0.0, 1)
    alone, among = records.difference(runs(0.9), runs(0.92)), records.difference(runs(0.9), runs(0.92), spread)
    assert alone.shown and not among.shown and among.mean == alone.mean == pytest.approx(0.02)


def test_records_are_grouped_by_their_experiment():
    found = records.find(setting="ablation")
    groups = records.by_experiment(found)
    assert [r for group in groups.values() for r in group] == found
    assert all({r["experiment"] for r in group} == {experiment.name} for experiment, group in groups.items())
