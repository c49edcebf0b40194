"""The chapter on real images: what it computes from records, what it says, and what it draws."""

from itertools import product
from statistics import fmean

import pytest
import torch

from e2vit.actions import act
from e2vit.data import as_float
from e2vit.experiments import records
from e2vit.experiments.catalog import EXPERIMENTS
from e2vit.experiments.real import CHOSEN
from e2vit.groups import dihedral
from e2vit.metrics import Difference, paired_difference
from e2vit.models import HybridViT, HybridViTConfig, ViT, ViTConfig
from e2vit_book import results
from e2vit_book.real import figures, measure

SHAPE = {"image_size": 64, "in_channels": 1, "classes": 2}


def test_the_verdict_says_what_the_interval_allows(monkeypatch):
    known = {
        ("mirabest", 0.1): Difference(0.08, 0.03, 0.13, 0.06, 5, "pairs"),
        ("rsscn7", 0.1): Difference(-0.08, -0.13, -0.03, 0.06, 5, "pairs"),
        ("mirabest", 1.0): Difference(0.01, -0.02, 0.04, 0.04, 5, "pairs"),
    }
    monkeypatch.setattr(measure, "difference", lambda data, share, *a: known.get((data, share)))
    first, second = measure.verdict().split(". With all")
    assert "on galaxies the hybrid over D4 is better than the plain ViT by +8.00 points [+3.00, +13.00]" in first
    assert "on land the hybrid over D4 is worse than the plain ViT: -8.00 points [-13.00, -3.00]" in first
    assert "on galaxies no difference between" in second and "show a difference of 4.0 points" in second
    assert "for land there are not enough records yet" in second


def test_pairs_are_matched_by_fold(monkeypatch):
    accuracies = {"hybrid-d4": {0: 0.9, 1: 0.7, 2: 0.8, 4: 0.1}, "vit": {2: 0.7, 1: 0.6, 0: 0.8, 3: 0.0}}

    def runs(data, network, augment, fraction):
        return [{"seed": k, "test": {"accuracy": value}} for k, value in accuracies[network].items()]

    monkeypatch.setattr(measure, "_runs", runs)
    found = measure.difference("mirabest", 1.0)
    assert found.runs == 3 and found.mean == pytest.approx(0.1) and found.high - found.low < 1e-9
    accuracies["vit"].pop(0)
    assert measure.difference("mirabest", 1.0) is None


def test_augmentations_do_what_the_chapter_says():
    def gain(data, network, share, before, after):
        sides = [
            {record["seed"]: record["test"]["accuracy"] for record in measure._runs(data, network, augment, share)}
            for augment in (before, after)
        ]
        return paired_difference([sides[1][fold] - sides[0][fold] for fold in sides[0]])

    for data in measure.DATA:
        tenth, whole = (gain(data, "vit", share, "none", "d4") for share in (0.1, 1.0))
        assert tenth.low > 0 and tenth.mean > whole.mean
        assert all(abs(gain(data, "hybrid-d4", share, "none", "d4").mean) < 0.015 for share in (0.1, 1.0))
        assert all(gain(data, network, 1.0, "d4", "dihedral").low < 0 for network in ("hybrid-d4", "vit", "cnn"))
        assert gain(data, "cnn", 1.0, "none", "d4").shown
        assert measure.difference(data, 0.1, "none").low > 0.1, "the hybrid is far ahead"
    assert gain("mirabest", "cnn", 1.0, "none", "d4").low > 0 > gain("rsscn7", "cnn", 1.0, "none", "d4").high
    assert all(gain("rsscn7", network, 1.0, "d4", "dihedral").high < 0 for network in ("hybrid-d4", "cnn"))
    assert measure.difference("rsscn7", 1.0, "dihedral").high < 0, "the hybrid falls behind"
    assert all(measure.difference("mirabest", share).low > 0 for share in measure.FRACTIONS)
    assert [measure.difference("rsscn7", share).shown for share in measure.FRACTIONS] == [True, False, False]


def test_turns_do_to_the_trained_networks_what_the_pages_say():
    rows = results.benchmark("real")["turned"]
    assert {row["network"] for row in rows} == set(measure.NETWORKS)
    for row in rows:
        if row["network"] in ("cnn", "vit"):
            assert row["changed"] > 0 and row["invariance_error"] > 0.01
        else:
            assert row["changed"] == 0 and row["invariance_error"] < 1e-10
    for network, data in product(("cnn", "vit"), measure.DATA):
        before, after = (
            fmean(
                row["changed"]
                for row in rows
                if (row["network"], row["data"], row["augmentation"]) == (network, data, kind)
            )
            for kind in ("none", "dihedral")
        )
        assert after < before
        if (network, data) == ("vit", "mirabest"):
            assert 0.35 < after < 0.45, "the article says two of five"


def test_drawn_galaxies_are_the_same_again_and_differ_between_classes():
    galaxies = measure.drawn_galaxies(40, seed=3)
    assert torch.equal(galaxies.images, measure.drawn_galaxies(40, seed=3).images)
    assert galaxies.images.shape == (40, 1, 64, 64) and galaxies.labels.bincount().tolist() == [20, 20]
    center = as_float(galaxies.images)[:, 0, 29:35, 29:35].mean((1, 2))
    assert center[galaxies.labels == 0].mean() > 2 * center[galaxies.labels == 1].mean(), "FR I is bright at the core"


@pytest.mark.parametrize(("turn", "place"), [(1, (3, 4)), (5, (0, 6))])
def test_the_hybrids_attention_turns_with_the_image_and_the_vits_does_not(turn, place):
    galaxy = as_float(measure.drawn_galaxies(1).images[0])
    torch.manual_seed(0)
    hybrid = HybridViT(
        HybridViTConfig(group=dihedral(4), stem=(2, 2, 2, 4), width=8, heads=2, attention="within_pose", **SHAPE)
    )
    before, after = measure.attention_before_and_after(hybrid.eval(), galaxy, place, turn)
    assert torch.allclose(act(dihedral(4), turn, before[None, None])[0, 0], after, atol=1e-5)
    before, after = measure.attention_before_and_after(
        ViT(ViTConfig(patch_size=8, **SHAPE)).eval(), galaxy, place, turn
    )
    assert (act(dihedral(4), turn, before[None, None])[0, 0] - after).abs().max() > 1e-4


def test_turns_change_answers_of_the_vit_alone():
    torch.manual_seed(0)
    galaxies = measure.drawn_galaxies(24)
    hybrid = HybridViT(
        HybridViTConfig(group=dihedral(4), stem=(2, 2, 2, 4), width=8, heads=2, attention="within_pose", **SHAPE)
    )
    found = measure.under_turns(hybrid.eval(), galaxies)
    assert found["changed"] == 0 and found["accuracy"] == found["accuracy_over_d4"]
    assert found["invariance_error"] < 1e-12
    plain = ViT(ViTConfig(patch_size=8, **SHAPE)).eval()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():  # both classes are answered
        plain.head.bias -= plain(as_float(galaxies.images)).mean(0)
    found = measure.under_turns(plain, galaxies)
    assert found["changed"] > 0 and found["invariance_error"] > 1e-3


def test_folds_are_averaged_and_the_worst_error_kept():
    row = {"data": "mirabest", "network": "vit", "augmentation": "none", "fold": 0, "changed": 0.5}
    rows = [
        row | {"invariance_error": 0.2},
        row | {"fold": 1, "changed": 0.4, "invariance_error": 0.1},
        row | {"data": "rsscn7", "changed": 0.1, "invariance_error": 0.3},
        row | {"network": "cnn", "invariance_error": 0.7},
    ]
    cnn, vit = measure.turned_real(rows)
    assert vit["network"] == "ViT" and vit["galaxies, answers changed"] == "45.0 %"
    assert vit["land, answers changed"] == "10.0 %" and vit["invariance error"] == 0.3
    assert cnn["land, answers changed"] is None


def test_figures_are_drawn_with_and_without_records():
    assert figures.by_share({"galaxies": {}, "land": {}}).axes
    summary = measure.Summary(0.8, 0.7, 0.9, 5, 157, "seeds")
    panels = figures.by_share({"galaxies": {"hybrid": {0.1: summary, 1.0: summary}}, "land": {}})
    assert panels.axes[0].get_ylabel() == "test accuracy (%)"
    assert figures.paired_differences({"a": None}).axes
    rows = figures.paired_differences({"a": Difference(0.1, 0.05, 0.15, 0.07, 5, "pairs"), "b": None})
    assert [label.get_text() for label in rows.axes[0].get_yticklabels()] == ["a"]


def test_each_run_has_a_fold_and_each_network_the_same_trials():
    entries = [entry for name, entry in EXPERIMENTS.items() if name.startswith("real/")]
    assert all(entry.seeds == 5 and entry.data.endswith("/fold{seed}") for entry in entries)
    trials: dict[str, set] = {}
    for name, entry in EXPERIMENTS.items():
        if name.startswith("real_recipe/"):
            trials.setdefault(entry.network, set()).add(entry.training.learning_rate)
    assert len(trials) == 5 and len({frozenset(rates) for rates in trials.values()}) == 1
    rates = trials["vit"]
    assert all(entry.training.learning_rate in rates for entry in entries if entry.network != "vit-views")


def test_the_chosen_rate_is_the_best_of_the_trials_on_validation():
    for network, rate in CHOSEN.items():
        found = records.find("real_recipe/", network=network)
        if found:  # the hybrid over D8 had no trials of its own
            best = max(found, key=lambda record: record["validation"]["accuracy"])
            assert best["configuration"]["training"]["learning_rate"] == rate
