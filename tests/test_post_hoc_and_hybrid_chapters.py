"""What the chapters 4 and 5 measure and draw says what the records and the views say."""

import numpy as np
import pytest
import torch

from e2vit.experiments import records
from e2vit.experiments.catalog import EXPERIMENTS
from e2vit.groups import cyclic
from e2vit.metrics import mcnemar, wilson
from e2vit.models import Symmetrized
from e2vit_book import results
from e2vit_book.hybrid import figures as hybrid_figures
from e2vit_book.hybrid import measure as hybrid
from e2vit_book.post_hoc import measure as comparison
from e2vit_book.results import benchmark


def record(name: str, seed: int, accuracy: float, validation: float = 0.5, likelihood: float = 1.0) -> dict:
    return {
        "experiment": name,
        "seed": seed,
        "validation": {"accuracy": validation, "negative_log_likelihood": likelihood, "count": 100},
        "test": {"accuracy": accuracy, "calibration_error": 0.125, "count": 400},
        "against_averaging": {"only_this": 7 + seed, "only_averaging": 3, "p_value": 0.04, "one_view_accuracy": 0.6},
    }


FOUND = [
    record("post_hoc/rotated/none/mean_logits", 0, 0.7),
    record("post_hoc/rotated/none/vote", 0, 0.8),
    *(record("post_hoc/rotated/head/vote", seed, 0.9 + 0.02 * seed) for seed in range(3)),
    record("post_hoc/upright/none/vote", 0, 0.5),
]


def test_a_setting_has_a_row_for_each_method_and_regime_after_the_single_view():
    rows = comparison.rows(FOUND, "rotated")
    assert [(row["method"], row["regime"], row["accuracy"].seeds) for row in rows] == [
        ("one_view", "none", 1),
        ("mean_logits", "none", 1),
        ("vote", "none", 1),
        ("vote", "head", 3),
    ]
    assert [row["accuracy"].mean for row in rows] == pytest.approx([0.6, 0.7, 0.8, 0.92])
    assert (rows[2]["accuracy"].low, rows[2]["accuracy"].high) == wilson(0.8, 400)  # one seed: the images
    assert rows[3]["accuracy"].kind == "seeds" and rows[3]["only_this"] == 7  # of the first seed
    assert comparison.rows(FOUND, "aerial") == []


def test_the_chosen_method_is_the_one_of_the_validation_images_and_no_control():
    found = [
        record("post_hoc/rotated/head/vote", 0, 0.99, validation=0.80),
        record("post_hoc/rotated/head/moments", 0, 0.70, validation=0.81, likelihood=0.9),
        record("post_hoc/rotated/head/bispectrum", 0, 0.60, validation=0.81, likelihood=0.8),
        record("post_hoc/rotated/head/index_weighted", 0, 0.95, validation=0.99),
    ]
    assert comparison.chosen(comparison.rows(found, "rotated"))["method"] == "bispectrum"


def test_a_detectable_difference_is_found_four_times_in_five():
    generator = torch.Generator().manual_seed(0)
    images, disagreements, trials = 4000, 200, 400
    points = comparison.detectable(disagreements, images)
    share = (disagreements / images + points) / 2  # of the images that the better one alone gets right
    p_values = []
    for _ in range(trials):
        u = torch.rand(images, generator=generator)
        p_values.append(mcnemar(u < share, (u >= share) & (u < disagreements / images)))
    assert 0.72 < np.mean(np.array(p_values) < 0.05) < 0.88


def test_a_missing_record_leaves_a_gap_and_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("E2VIT_RESULTS", str(tmp_path))
    assert comparison.available(["rotmnist/vit"], "report") == {} and hybrid_figures.cost([]).axes
    assert comparison.found("report") == [] == results.found("report", prefix="rotmnist/")
    assert results.first(["rotmnist/vit"], "report") is None


def test_the_winning_view_turns_against_the_image():
    def upright(x):  # most confident when the bright half is on the right
        return torch.stack([x[..., 5:].mean((1, 2, 3)), torch.zeros(len(x))], -1)

    half = torch.zeros(3, 1, 10, 10)
    half[..., 5:] = 1
    model = Symmetrized(upright, cyclic(4))
    for degrees, expected in ((0, 0), (90, 270), (180, 180), (270, 90)):
        assert comparison.winning_views(model, half, torch.tensor(float(degrees))).tolist() == [expected] * 3


def test_shifts_change_what_looks_at_places_and_nothing_else():
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x[..., 3:] = 0  # so that a shift by 4 pixels loses nothing

    def total(x):
        return torch.stack([x.sum((1, 2, 3)), torch.full((len(x),), 12.0)], -1)

    def corner(x):
        return torch.stack([x[:, 0, 0, 0], torch.full((len(x),), 1e-6)], -1)

    assert comparison.changed_by_shifts(total, x, [1, 4]) == [0.0, 0.0]
    assert comparison.changed_by_shifts(corner, x, [1, 4]) == [1.0, 1.0]


@pytest.mark.parametrize("name", ["rotmnist/pooled-gcnn", "rotmnist/pooled-patches", "rotmnist/patches-c4"])
def test_the_cost_of_every_hybrid_can_be_counted(name):
    assert 1e6 < results.multiply_adds(EXPERIMENTS[name]) < 1e9


def test_every_network_of_a_figure_has_a_name_of_its_own():
    whole = [e for name, e in EXPERIMENTS.items() if name.startswith("rotmnist/") and e.fraction == 1]
    names = [hybrid.title(experiment) for experiment in whole]
    assert len(set(names)) == len(names)
    assert hybrid.title(EXPERIMENTS["rotmnist/hybrid-c4"]) == "hybrid, C4"


def test_no_family_of_timm_is_silently_wrong():
    found = benchmark("timm_families")
    counted = comparison.families(found)
    assert counted["count"] == len(found) > 90 and counted["right"] + len(counted["refused"]) == counted["count"]
    assert counted["features"] < 1e-6 and counted["logits"] < 1e-5
    assert all("pass features= and head= yourself" in found[name]["features over C1"] for name in counted["refused"])


def test_answers_that_change_are_counted_without_the_identity():
    upright, half = ["a"] * 8, ["a", "b", "a", "b", "a", "a", "a", "a"]
    found = {"photographs": {"names": ["x_y", "z"], "classes": {"alone": [upright, half], "D4": [upright, upright]}}}
    assert comparison.changed_answers(found) == {"alone": (2 / 6, 2 / 14), "D4": (0.0, 0.0)}
    row = {"photograph": "z", "0°": "a", "90°": "b", "180°": "a", "270°": "b", "averaged": "a"}
    assert comparison.photographs(found, ["z"]) == [row]


def test_gains_of_pretrained_features_are_paired_by_fold():
    def rows(method, gain):
        shares = (0.1, 1 / 3, 1.0)
        return [
            {"method": method, "share": s, "fold": k, "accuracy": 0.5 + 0.1 * k + gain * s, "test_images": 7}
            for s in shares
            for k in range(3)
        ]

    one, mean = comparison.pretrained_heads({"land": rows("one view", 0.0) + rows("mean", 0.1)}, "land")
    assert one["10 %"].mean == pytest.approx(0.6) and one["10 %"].seeds == 3 and one["gain at 100 %"] is None
    assert mean["gain at 10 %"] == "+1.00 points [+1.00, +1.00]"
    assert mean["gain at 100 %"] == "+10.00 points [+10.00, +10.00]"


def test_the_records_carry_what_the_chapter_on_the_hybrid_says_of_its_parts():
    """The verdicts under the figure of the ablations: what is said to lose accuracy does, and else nothing is shown."""
    runs = {
        experiment.network: of_one for experiment, of_one in records.by_experiment(records.find("ablation/")).items()
    }
    spread = records.seed_spread(runs.values())
    gaps = {name: records.difference(runs["hybrid-c4"], of_one, spread) for name, of_one in runs.items()}
    lost = [name for name in ("plain-cnn", "poses-pooled", "stem-alone", "readout-mean") if gaps[name].high < 0]
    assert lost == ["plain-cnn", "poses-pooled", "stem-alone", "readout-mean"]
    assert min(gaps, key=lambda name: gaps[name].mean) == "plain-cnn"
    assert not gaps["gcnn"].shown and not gaps["absolute"].shown
