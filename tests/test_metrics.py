"""Metrics against formulas written another way."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from e2vit import metrics
from e2vit.data import Split


def test_accuracy_and_its_wilson_interval():
    logits = torch.eye(4)[torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])]
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 0])
    fraction, (low, high) = metrics.accuracy(logits, labels)
    n, p, z = 8, 7 / 8, 1.959963984540054
    center, half = (p + z * z / (2 * n)), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert fraction == p
    assert (low, high) == pytest.approx(((center - half) / (1 + z * z / n), (center + half) / (1 + z * z / n)))


def test_calibration_error_of_a_model_that_is_right_as_often_as_it_says():
    logits = torch.tensor([[math.log(3), 0.0]]).repeat(4, 1).double()  # says class 0 with probability 3/4
    assert metrics.calibration_error(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(0, abs=1e-7)
    assert metrics.calibration_error(logits, torch.tensor([1, 1, 1, 1])) == pytest.approx(0.75)


def test_reliability_counts_every_image_in_one_bin():
    logits = 3 * torch.randn(500, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(500) % 4
    confidence, correct, count = metrics.reliability(logits, labels, bins=7)
    assert count.sum() == 500
    assert (correct * count).nansum() / 500 == pytest.approx(metrics.accuracy(logits, labels)[0])
    edges = torch.arange(8) / 7
    seen = count > 0
    assert (confidence[seen] > edges[:-1][seen]).all() and (confidence[seen] <= edges[1:][seen]).all()


def test_student_interval_by_hand():
    mean, low, high = metrics.student([0.98, 0.99, 0.97])
    half = 4.302652729749464 * 0.01 / math.sqrt(3)  # two degrees of freedom
    assert (mean, low, high) == pytest.approx((0.98, 0.98 - half, 0.98 + half))


def test_mcnemar_counts_only_disagreements():
    first = torch.tensor([True] * 20 + [True] * 9 + [False] * 1)
    second = torch.tensor([True] * 20 + [False] * 9 + [True] * 1)
    assert metrics.mcnemar(first, second) == pytest.approx(2 * (1 + 10) / 2**10)  # two-sided binomial, 1 of 10
    assert metrics.mcnemar(first, first) == 1


def test_negative_log_likelihood_is_in_nats():
    assert metrics.negative_log_likelihood(torch.zeros(3, 10), torch.tensor([1, 2, 3])) == pytest.approx(math.log(10))


class Corner(nn.Module):
    """Class 1 when the upper left pixel is bright."""

    def forward(self, images):
        return torch.stack([torch.full_like(images[:, 0, 0, 0], 0.5), images[:, 0, 0, 0]], -1)


def test_accuracy_by_angle_turns_the_images():
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    images[0, 0, 0, 0] = 255
    split = Split(images, torch.tensor([1, 0]))
    assert metrics.accuracy_by_angle(Corner(), split, [0, 90, 360]) == [1.0, 0.5, 1.0]
    with pytest.raises(ValueError, match="empty"):
        metrics.accuracy_by_angle(Corner(), split, [])


def test_predict_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3)).train()
    images = torch.randint(256, (5, 1, 4, 4), dtype=torch.uint8)
    first, second = (metrics.predict(model, images, batch_size=2) for _ in range(2))
    assert torch.equal(first, second) and model.training and first.shape == (5, 3)


def test_a_difference_over_seeds_covers_as_often_as_it_says_and_its_power_is_what_it_says():
    draws = np.random.default_rng(1).normal(0.9, 0.01, (2_000, 2, 4)).tolist()
    found = [metrics.difference(*sides, images=100) for sides in draws]
    assert all(each.kind == "seeds" and each.runs == 4 for each in found)
    assert 0.93 < np.mean([not each.shown for each in found]) < 0.97
    true = 0.01 * 0.5**0.5 * (1.96 + 0.84)  # detectable, were the spread known
    shifted = [metrics.difference(first, [x + true for x in second], images=100) for first, second in draws]
    assert 0.55 < np.mean([each.low > 0 for each in shifted]) < 0.8 and np.mean([d.detectable for d in found]) > true


def test_a_difference_of_single_runs_counts_their_images_and_the_spread_of_seeds_known_from_others():
    few, many = (metrics.difference([0.9], [0.92], images=images) for images in (100, 10_000))
    assert few.kind == many.kind == "images" and few.mean == pytest.approx(0.02)
    assert not few.shown and many.shown and few.detectable == pytest.approx(10 * many.detectable)
    error = math.sqrt((0.9 * 0.1 + 0.92 * 0.08) / 10_000)
    assert many.high - many.mean == pytest.approx(1.96 * error, rel=1e-3)
    assert many.detectable == pytest.approx((1.96 + 0.8416) * error, rel=1e-3)
    assert str(many) == "+2.00 points [+1.21, +2.79]"
    draws = np.random.default_rng(2).normal(0.9, 0.03, (2_000, 2, 1)).tolist()
    assert 0.93 < np.mean([not metrics.difference(*d, 10_000, (0.03, 10_000)).shown for d in draws]) < 0.98
    loose, close = (metrics.difference([0.9], [0.92], 10_000, (0.03, freedom)) for freedom in (2, 20))
    assert loose.detectable > close.detectable > many.detectable  # a spread from few seeds is known less well


def test_paired_differences_have_students_interval():
    differences = [0.02, 0.05, -0.01, 0.04, 0.03]
    found = metrics.paired_difference(differences)
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(0.026) and (found.low, found.high) == pytest.approx((low, high))
    assert found.detectable > found.mean - found.low, "to be shown with 80 % takes more than the half-width"
