"""What the chapter on weaknesses measures and reads: consistency, data efficiency, cost, selection, comparisons.

Accuracies are fractions, points are hundredths of them. An interval covers 95 %.
"""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import linregress, t
from torch import Tensor

from e2vit.actions import rotate
from e2vit.experiments import records
from e2vit.metrics import wilson
from e2vit.models import GroupAttentionNetConfig

Records = list[dict[str, Any]]

NETWORKS = {  # name in the chapter → its experiments, the first with a record counts
    "ViT": ("rotmnist/vit",),
    "attention without a group": ("attention/plain", "rotmnist/attention-z2-tenth"),
    "GSA-Net, C4": ("attention/gsa", "rotmnist/gsa-c4-tenth"),
    "GE-ViT, C4": ("attention/gevit", "rotmnist/gevit-c4-tenth"),
    "Cayley table, C4": ("attention/cayley", "rotmnist/cayley-c4-tenth"),
    "G-CNN, C4": ("rotmnist/gcnn-p4cnn",),
    "hybrid, C4": ("rotmnist/hybrid-c4",),
}
ATTENTION = {  # the field network of the experiments trained alike → its name in the chapter
    "plain": "attention without a group",
    "gsa": "GSA-Net, C4",
    "gevit": "GE-ViT, C4",
    "cayley": "Cayley table, C4",
}
CONVOLUTIONAL = {  # the field network of other experiments → its name in the chapter
    "hybrid-c4": "hybrid, C4",
    "plain-cnn": "its plain twin",
    "p4cnn": "G-CNN, P4CNN",
    "z2cnn": "CNN, Z2CNN",
}
TWINS = {"hybrid, C4": "its plain twin", "G-CNN, P4CNN": "CNN, Z2CNN"}  # with poses → without
DATA = Path(__file__).resolve().parents[3] / "data"


def turned_logits(
    model: Callable[[Tensor], Tensor],
    images: Float[Tensor, "image channel side side"],
    degrees: Sequence[float],
    batch: int = 100,
) -> Float[Tensor, "angle image class_"]:
    """Compute the logits of every image at every angle; bilinear between the quarter turns."""
    with torch.inference_mode():
        return torch.stack(
            [torch.cat([model(rotate(part, float(angle))) for part in images.split(batch)]) for angle in degrees]
        )


def changes(
    logits: Float[Tensor, "angle image class_"], upright: Float[Tensor, "image class_"]
) -> Float[Tensor, "angle image"]:
    """The largest change of a logit over the largest logit of all images; its maximum is the invariance error."""
    return (logits - upright).abs().amax(-1) / upright.abs().max()


def flip_rate(logits: Tensor, upright: Tensor) -> tuple[float, float, float]:
    """How often a moved image gets another class, with Wilson's interval.

    The interval counts images, not angles: predictions for one image at several angles are not independent.
    """
    rate = (logits.argmax(-1) != upright.argmax(-1)).double().mean().item()
    return rate, *wilson(rate, len(upright))


def consistency(
    model: Callable[[Tensor], Tensor], images: Float[Tensor, "image channel side side"]
) -> dict[str, tuple[Float[Tensor, " image"], tuple[float, float, float]]]:
    """For quarter turns, the angles 30, 45 and 60 degrees, and mirrors: the largest change of each image's logits
    (relative), and how often the class changes."""
    quarters, between = (turned_logits(model, images, degrees) for degrees in ((0, 90, 180, 270), (30, 45, 60)))
    mirrored = torch.stack([turned_logits(model, images.flip(axis), (0,))[0] for axis in (-1, -2)])
    moved = {"quarter turns": quarters[1:], "30°, 45°, 60°": between, "mirrors": mirrored}
    return {
        motion: (changes(logits, quarters[0]).amax(0), flip_rate(logits, quarters[0]))
        for motion, logits in moved.items()
    }


def efficiency(found: Records) -> list[dict[str, Any]]:
    """A row for each network and share of the training images: network, fraction, images, updates, summary."""
    return [
        {
            "network": CONVOLUTIONAL[str(experiment.network)],
            "fraction": experiment.fraction,
            "images": of_one[0]["training_images"],
            "records": of_one,
            "summary": records.summarize(of_one),
        }
        for experiment, of_one in records.by_experiment(found).items()
    ]


def late_rise(record: dict[str, Any]) -> float:
    """By how much the last tenth of a run raised its best validation accuracy (a fraction)."""
    curve = [entry["accuracy"] for entry in record["curve"]]
    last = max(1, len(curve) // 10)
    return max(curve) - max(curve[:-last])


def advantage(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The difference between a network with poses and its twin without, for each share that both have."""
    of = {(row["network"], row["fraction"]): row["records"] for row in rows}
    gains = []
    for network, twin in TWINS.items():
        for share in sorted(share for name, share in of if name == network and (twin, share) in of):
            # The spread of seeds falls with the number of images, so it is that of this share.
            spread = records.seed_spread(runs for (_, other), runs in of.items() if other == share)
            gain = records.difference(of[twin, share], of[network, share], spread)
            gains.append({"network": network, "twin": twin, "fraction": share, "difference": gain})
    return gains


def layer_scores(config: GroupAttentionNetConfig) -> dict[str, int]:
    """Attention scores of every layer for one image: poses · heads · pixels · window², and behind the lifting layer the
    poses of the query and of the key too. Layers are named with their side in pixels."""
    order, each = config.group.order, config.heads * config.window**2
    power = 3 if config.query_pose == "sum" else 2
    scores = {f"lifting, {config.image_size}×{config.image_size}": order * each * config.image_size**2}
    layers = [step for step in config.steps if step.kind == "layer"]
    for number, step in enumerate(layers, start=1):
        scores[f"group layer {number}, {step.size}×{step.size}"] = order**power * each * step.size**2
    return scores


def power_law(x: Collection[float], y: Collection[float]) -> tuple[float, float, float]:
    """Fit the exponent b of y = a·x^b, with its 95 % interval, by least squares in the logarithms."""
    if len(x) < 3:
        raise ValueError(f"an exponent with its interval takes at least 3 sizes, not {len(x)}")
    fit: Any = linregress(np.log(np.asarray(x)), np.log(np.asarray(y)))
    reach = t.ppf(0.975, len(x) - 2) * fit.stderr
    return float(fit.slope), float(fit.slope - reach), float(fit.slope + reach)


def selection(found: Records) -> list[dict[str, Any]]:
    """A row for each run whose test curve was recorded apart: the test accuracy at the epoch that the validation images
    choose, at the best epoch of the test curve itself, and at the last.

    optimism: best minus chosen, points; never negative, since the best is a maximum over all epochs.
    """
    rows = []
    for experiment, of_one in records.by_experiment(found).items():
        for record in of_one:
            validation, test = ([entry[key] for entry in record["curve"]] for key in ("accuracy", "watched"))
            chosen, best = test[int(np.argmax(validation))], max(test)
            rows.append({"network": CONVOLUTIONAL[str(experiment.network)], "seed": record["seed"], "record": record})
            rows[-1] |= {"chosen": chosen, "best": best, "last": test[-1], "optimism": 100 * (best - chosen)}
    return rows


def published(epoch: str | None = None) -> list[dict[str, Any]]:
    """What others report, with the source, never in one column with our numbers: data/published.json.

    epoch: only rows whose epoch was chosen so, such as "best on test".
    """
    rows = json.loads((DATA / "published.json").read_text(encoding="utf-8"))
    return [row for row in rows if epoch in (None, row["epoch"])]


def elsewhere(model: str) -> dict[str, Any]:
    """What was measured apart from this book, with code or weights of others: data/elsewhere.json."""
    rows = json.loads((DATA / "elsewhere.json").read_text(encoding="utf-8"))
    return next(row for row in rows if row["model"] == model)
