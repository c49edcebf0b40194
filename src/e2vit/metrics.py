"""How good predictions are, and how sure one can be of that. Accuracy is a fraction in [0, 1]."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from scipy.stats import binomtest
from torch import Tensor, nn

from e2vit.actions import rotate
from e2vit.data import Split, as_float


def accuracy(logits: Float[Tensor, "n class_"], labels: Int64[Tensor, " n"]) -> tuple[float, tuple[float, float]]:
    """The fraction of correct predictions and its 95 % Wilson interval."""
    rate = int((logits.argmax(-1) == labels).sum()) / len(labels)
    return rate, wilson(rate, len(labels))


def wilson(rate: float, count: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share of ``count`` images; of the nearest whole number of them."""
    interval = binomtest(round(rate * count), count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def negative_log_likelihood(logits: Float[Tensor, "n class_"], labels: Int64[Tensor, " n"]) -> float:
    """Mean of −log p(label), in nats."""
    return F.cross_entropy(logits, labels).item()


def calibration_error(logits: Float[Tensor, "n class_"], labels: Int64[Tensor, " n"], bins: int = 15) -> float:
    """Expected calibration error: mean |confidence − accuracy| over equally wide bins of confidence.

    Source: Guo et al. (2017).
    """
    confidence, predicted = logits.softmax(-1).max(-1)
    gap = (predicted == labels).double() - confidence.double()
    bin_of = (confidence.double() * bins).ceil().long().clamp(1, bins) - 1
    return torch.zeros(bins, dtype=torch.float64).index_add(0, bin_of, gap).abs().sum().item() / len(labels)


def mcnemar(first_correct: Bool[Tensor, " n"], second_correct: Bool[Tensor, " n"]) -> float:
    """Exact two-sided p-value that two classifiers, judged on the same images, are equally good.

    Only the images on which exactly one of them is right count. Source: McNemar (1947).
    """
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    disagreements = only_first + only_second
    return float(binomtest(only_first, disagreements).pvalue) if disagreements else 1.0


def summary(logits: Float[Tensor, "n class_"], labels: Int64[Tensor, " n"]) -> dict[str, float | int | list[float]]:
    """Everything a record says of one split."""
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
    """Logits of a model for uint8 or float images, on the CPU; the images may be turned by some degrees first."""
    if isinstance(model, nn.Module):
        parameter = next(model.parameters(), torch.zeros(()))
        device, dtype, was_training = parameter.device, parameter.dtype, model.training
        model.eval()
    else:
        device, dtype, was_training = images.device, torch.float32, False
    batches = []
    for batch in images.split(batch_size):
        batch = batch.to(device)
        batch = (as_float(batch) if batch.dtype == torch.uint8 else batch).to(dtype)
        batches.append(model(rotate(batch, degrees)).float().cpu())
    if was_training:
        model.train()
    return torch.cat(batches)


def accuracy_by_angle(model: Callable[[Tensor], Tensor], split: Split, degrees: list[float]) -> list[float]:
    """Accuracy when every image of the split is turned by each angle (degrees, counter-clockwise) in turn."""
    if not degrees:
        raise ValueError("the list of angles is empty")
    return [accuracy(predict(model, split.images, degrees=angle), split.labels)[0] for angle in degrees]
