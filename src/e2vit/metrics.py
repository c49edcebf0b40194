"""Accuracy, calibration and tests of significance. Accuracy is a fraction in [0, 1], every interval a 95 % one."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from scipy.stats import binomtest, t
from torch import Tensor, nn

from e2vit.actions import rotate


def accuracy(logits: Float[Tensor, "n class_"], labels: Int64[Tensor, " n"]) -> tuple[float, tuple[float, float]]:
    """Fraction of correct predictions and its Wilson interval."""
    rate = int((logits.argmax(-1) == labels).sum()) / len(labels)
    return rate, wilson(rate, len(labels))


def wilson(rate: float, count: int) -> tuple[float, float]:
    """Wilson interval of a rate over ``count`` images, for the nearest whole number of successes."""
    interval = binomtest(round(rate * count), count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def student(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of two or more values and its Student interval: mean, low, high."""
    mean = statistics.fmean(values)
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


@dataclass(frozen=True)
class Difference:
    """The second accuracy minus the first, with its 95 % interval; all numbers are fractions.

    detectable: the true difference that so many runs and images would have shown with a probability of 80 %.
    runs: pairs, or seeds of the side that has fewer.
    kind: "pairs" for Student's interval over pairs; "seeds" for Welch's over three or more seeds on each side; "images"
          for fewer seeds, where the test images count and, as far as it is given, the spread between seeds.
    """

    mean: float
    low: float
    high: float
    detectable: float
    runs: int
    kind: str

    @property
    def shown(self) -> bool:
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{100 * self.mean:+.2f} points [{100 * self.low:+.2f}, {100 * self.high:+.2f}]"


def difference(
    first: Sequence[float], second: Sequence[float], images: int, spread: tuple[float, int] = (0.0, 1)
) -> Difference:
    """Compare the accuracies of two networks, one number for each seed.

    images: in the test set.
    spread: standard deviation between seeds, known from other runs, and its degrees of freedom; it counts where a side
            has fewer than three seeds.
    Both networks see the same images; ignoring that their errors are paired makes the interval of kind "images" an
    upper bound.
    """
    runs, means = min(len(first), len(second)), (statistics.fmean(first), statistics.fmean(second))
    if runs >= 3:
        parts = [(statistics.variance(side) / len(side), len(side) - 1) for side in (first, second)]
    else:
        parts = [(p * (1 - p) / images, math.inf) for p in means]
        parts.append((spread[0] ** 2 * (1 / len(first) + 1 / len(second)), spread[1]))
    return _difference(means[1] - means[0], parts, runs, "seeds" if runs >= 3 else "images")


def paired_difference(differences: Sequence[float]) -> Difference:
    """Summarize the differences of two or more pairs of runs, such as those on the same fold."""
    count = len(differences)
    parts = [(statistics.variance(differences) / count, count - 1)]
    return _difference(statistics.fmean(differences), parts, count, "pairs")


def _difference(mean: float, parts: Sequence[tuple[float, float]], runs: int, kind: str) -> Difference:
    """parts: independent variances of the mean and their degrees of freedom, joined as Welch and Satterthwaite do."""
    variance, squares = sum(part for part, _ in parts), sum(part**2 / freedom for part, freedom in parts)
    freedom, error = variance**2 / squares if squares else math.inf, math.sqrt(variance)
    reach, power = (float(t.ppf(share, freedom)) * error for share in (0.975, 0.8))
    return Difference(mean, mean - reach, mean + reach, reach + power, runs, kind)


def negative_log_likelihood(logits: Float[Tensor, "n class_"], labels: Int64[Tensor, " n"]) -> float:
    """Mean of −log p(label), in nats."""
    return F.cross_entropy(logits, labels).item()


def reliability(
    logits: Float[Tensor, "n class_"], labels: Int64[Tensor, " n"], bins: int = 10
) -> tuple[Float64[Tensor, " bin"], Float64[Tensor, " bin"], Float64[Tensor, " bin"]]:
    """Mean confidence, accuracy and number of images in equally wide bins of confidence; NaN in an empty bin.

    Source: Guo et al. (2017).
    """
    confidence, predicted = logits.softmax(-1).max(-1)
    confidence, correct = confidence.double(), (predicted == labels).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count, total, right = (
        torch.zeros(bins, dtype=torch.float64).index_add(0, place, values)
        for values in (torch.ones_like(confidence), confidence, correct)
    )
    return total / count, right / count, count


def calibration_error(logits: Float[Tensor, "n class_"], labels: Int64[Tensor, " n"], bins: int = 15) -> float:
    """Expected calibration error: mean |confidence − accuracy| over the bins of ``reliability``, weighted by images."""
    confidence, correct, count = reliability(logits, labels, bins)
    return ((confidence - correct).abs().nan_to_num() * count).sum().item() / len(labels)


def mcnemar(first_correct: Bool[Tensor, " n"], second_correct: Bool[Tensor, " n"]) -> float:
    """Exact two-sided p-value for the hypothesis that two classifiers are equally good on the same images.

    Only the images on which exactly one of them is right count. Source: McNemar (1947).
    """
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    disagreements = only_first + only_second
    return float(binomtest(only_first, disagreements).pvalue) if disagreements else 1.0


def summary(logits: Float[Tensor, "n class_"], labels: Int64[Tensor, " n"]) -> dict[str, float | int | list[float]]:
    """All metrics that a record holds for one split."""
    fraction, interval = accuracy(logits, labels)
    return {
        "accuracy": fraction,
        "interval": list(interval),
        "count": len(labels),
        "negative_log_likelihood": negative_log_likelihood(logits, labels),
        "calibration_error": calibration_error(logits, labels),
    }


@torch.inference_mode()
def predict(
    model: Callable[[Tensor], Tensor], images: Tensor, batch_size: int = 500, degrees: float = 0.0
) -> Float[Tensor, "n class_"]:
    """Logits on the CPU, in evaluation mode, for uint8 or float images, rotated first by some degrees."""
    if isinstance(model, nn.Module):
        parameter = next(model.parameters(), torch.zeros(()))
        device, dtype, was_training = parameter.device, parameter.dtype, model.training
        model.eval()
    else:
        device, dtype, was_training = images.device, torch.float32, False
    batches = []
    for batch in images.split(batch_size):
        batch = batch.to(device)
        batch = (batch.float() / 255 if batch.dtype == torch.uint8 else batch).to(dtype)
        batches.append(model(rotate(batch, degrees)).float().cpu())
    if was_training:
        model.train()
    return torch.cat(batches)


def accuracy_by_angle(model: Callable[[Tensor], Tensor], split: Any, degrees: Sequence[float]) -> list[float]:
    """Accuracy on a split (``images`` and ``labels``) whose images are rotated by each angle (degrees) in turn."""
    if not len(degrees):
        raise ValueError("the list of angles is empty")
    return [accuracy(predict(model, split.images, degrees=angle), split.labels)[0] for angle in degrees]
