"""The tables and figures of the post-hoc chapter say what the records and the views say."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from e2vit import metrics
from e2vit.groups import cyclic
from e2vit.metrics import wilson
from e2vit.models import Symmetrized
from e2vit_book.post_hoc import figures as post_hoc
from e2vit_book.post_hoc import measure as comparison


def record(name: str, seed: int, accuracy: float, validation: float = 0.5, likelihood: float = 1.0) -> dict:
    return {
        "experiment": name,
        "seed": seed,
        "validation": {"accuracy": validation, "negative_log_likelihood": likelihood},
        "test": {
            "accuracy": accuracy,
            "interval": [accuracy - 0.01, accuracy + 0.02],
            "calibration_error": 0.125,
            "count": 400,
        },
        "against_averaging": {"only_this": 7 + seed, "only_averaging": 3, "p_value": 0.04, "one_view_accuracy": 0.6},
    }


FOUND = [
    record("post_hoc/rotated/head/vote", 0, 0.9),
    record("post_hoc/rotated/none/vote", 0, 0.8),
    record("post_hoc/rotated/head/vote", 1, 0.94),
    record("post_hoc/rotated/none/mean_logits", 0, 0.7),
]


def test_a_table_has_a_row_for_each_method_and_regime_in_order():
    frame = comparison.table("rotated", FOUND)
    assert list(zip(frame["method"], frame["regime"], frame["seeds"], strict=True)) == [
        ("one_view", "none", 1),
        ("mean_logits", "none", 1),
        ("vote", "none", 1),
        ("vote", "head", 2),
    ]
    assert frame["accuracy"].tolist() == pytest.approx([0.6, 0.7, 0.8, 0.92])
    assert frame["low"][0] < 0.6 < frame["high"][0]
    assert (frame["low"][2], frame["high"][2]) == pytest.approx(wilson(0.8, 400))  # one seed: Wilson's alone
    below, above = (abs(bound - 0.92) for bound in wilson(0.92, 400))
    assert 0.92 - frame["low"][3] == pytest.approx(
        (below**2 + 0.04**2) ** 0.5
    )  # and 2 standard errors: 2 · 0.0283 / √2
    assert frame["high"][3] - 0.92 == pytest.approx((above**2 + 0.04**2) ** 0.5)
    assert frame["only_this"][3] == 7  # of the first seed


def test_the_readable_table_is_in_percent():
    shown = comparison.percent_table(comparison.table("rotated", FOUND))
    assert shown.loc[("vote", "no fine-tuning"), "accuracy (%)"] == "80.00 [75.80, 83.63]"
    assert shown.loc[("one view", "no fine-tuning"), "p (McNemar)"] == "–"
    assert len(comparison.percent_table(comparison.table("rotated", []))) == 0


def test_the_chosen_method_is_the_one_of_the_validation_images_and_no_control():
    found = [
        record("post_hoc/rotated/head/vote", 0, 0.99, validation=0.80),
        record("post_hoc/rotated/head/moments", 0, 0.70, validation=0.81, likelihood=0.9),
        record("post_hoc/rotated/head/bispectrum", 0, 0.60, validation=0.81, likelihood=0.8),
        record("post_hoc/rotated/head/index_weighted", 0, 0.95, validation=0.99),
        record("post_hoc/upright/head/vote", 0, 0.95, validation=0.99),
    ]
    shown = comparison.chosen(["rotated"], found)
    assert shown["method"].tolist() == ["bispectrum"] and shown["candidates"].tolist() == [3]
    assert shown["test (%)"].tolist() == ["60.00"]
    assert comparison.controls(["rotated"], found)["test (%)"].tolist() == ["95.00"]
    assert len(comparison.chosen(["aerial"], found)) == len(comparison.controls(["aerial"], found)) == 0


def test_a_missing_record_leaves_a_gap_and_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("E2VIT_RESULTS", str(tmp_path))
    assert comparison.available(["rotmnist/vit"], "report") == {}
    assert comparison.records("rotated") == [] and len(comparison.base_table(["rotated"], "report")) == 0
    assert comparison.costs(tmp_path / "none.json") == {}
    (tmp_path / "some.json").write_text(json.dumps({"milliseconds": {}}))
    assert comparison.costs(tmp_path / "some.json") == {"milliseconds": {}}


def test_the_winning_view_turns_against_the_image():
    def upright(x):  # surest when the bright half is on the right
        return torch.stack([x[..., 5:].mean((1, 2, 3)), torch.zeros(len(x))], -1)

    half = torch.zeros(3, 1, 10, 10)
    half[..., 5:] = 1
    model = Symmetrized(upright, cyclic(4))
    for degrees, expected in ((0, 0), (90, 270), (180, 180), (270, 90)):
        assert comparison.winning_views(model, half, torch.tensor(float(degrees))).tolist() == [expected] * 3


def test_reliability_and_calibration_error_agree():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, 10, generator=generator) * 2, torch.randint(10, (500,), generator=generator)
    confidence, right, count = comparison.reliability(logits, labels, bins=15)
    full = count > 0
    error = (np.abs(confidence - right)[full] * count[full]).sum() / count.sum()
    assert error == pytest.approx(metrics.calibration_error(logits, labels), abs=1e-6) and count.sum() == 500


def test_shifts_change_what_looks_at_places_and_nothing_else():
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x[..., 3:] = 0  # so that a shift by 4 pixels loses nothing

    def total(x):
        return torch.stack([x.sum((1, 2, 3)), torch.full((len(x),), 12.0)], -1)

    def corner(x):
        return torch.stack([x[:, 0, 0, 0], torch.full((len(x),), 1e-6)], -1)

    assert comparison.changed_by_shifts(total, x, [1, 4]) == [0.0, 0.0]
    assert comparison.changed_by_shifts(corner, x, [1, 4]) == [1.0, 1.0]


def test_methods_agree_with_themselves():
    a, b = torch.eye(4), torch.eye(4).roll(1, 0)
    b[0] = a[0]
    assert comparison.agreement({"a": a, "b": b}).tolist() == [[1.0, 0.25], [0.25, 1.0]]


def test_every_figure_is_a_figure():
    p = np.full((8, 10), 0.1)
    pictures = np.random.default_rng(0).random((8, 6, 6))
    table = comparison.table("rotated", FOUND)
    figures = [
        post_hoc.pipeline(pictures, p, p[0], [f"{k}" for k in range(8)]),
        post_hoc.accuracies({"rotated": table, "upright": table[:1]}, comparison.REGIMES),
        post_hoc.agreement(np.eye(3), ["a", "b", "c"]),
        post_hoc.winning_views({"a": np.zeros((2, 5)), "b": np.ones((2, 5))}, [0, 45], 16),
        post_hoc.attention_over_views(p[:4, :4], pictures[:4], [0, 90, 180, 270]),
        post_hoc.six_or_nine(pictures, p, {"mean": p[0], "product": p[0]}),
        post_hoc.shifts([1, 2], {"a": [0.1, 0.2]}),
        post_hoc.reliability({"a": (np.array([0.5, np.nan]), np.array([0.4, np.nan]), np.array([3, 0]))}),
        post_hoc.cost_against_accuracy(table.assign(milliseconds=[1.0, 2.0, 3.0, 4.0]), comparison.REGIMES),
    ]
    assert all(isinstance(figure, Figure) for figure in figures)
    assert isinstance(table, pd.DataFrame)
    plt.close("all")
