"""What the chapter on weaknesses measures and reads: consistency, data efficiency, cost, selection, comparisons.

Accuracies are fractions, points are hundredths of them. An interval covers 95 %.
"""

import json
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import linregress, t
from torch import Tensor

from e2vit.actions import rotate
from e2vit.experiments import RecordError, Run, results_folder, run
from e2vit.metrics import mcnemar, wilson
from e2vit.models import GroupAttentionNetConfig
from e2vit_book.hybrid.measure import found

MODELS = {  # what it is called → its experiments, the one trained on all images first
    "ViT": ("rotmnist/vit",),
    "attention, no group": ("rotmnist/attention-z2", "rotmnist/attention-z2-tenth"),
    "GSA-Net, C4": ("rotmnist/gsa-c4", "rotmnist/gsa-c4-tenth"),
    "GE-ViT, C4": ("rotmnist/gevit-c4", "rotmnist/gevit-c4-tenth"),
    "corrected, C4": ("rotmnist/corrected-c4", "rotmnist/corrected-c4-tenth"),
    "G-CNN, C4": ("rotmnist/gcnn-p4cnn",),
    "hybrid, C4": ("rotmnist/hybrid-c4",),
}
ON_EQUAL_TERMS = {  # sound positions, Muon, a falling rate, turned images: with the group and without
    "no group, equal terms": ("rotmnist/attention-z2-tenth-tuned",),
    "C4, equal terms": ("rotmnist/corrected-c4-tenth-tuned",),
}
TWINS = {"hybrid-c4": "plain-cnn", "p4cnn": "z2cnn"}  # with poses → without
PUBLISHED = Path(__file__).resolve().parents[3] / "data" / "published.json"


def trained(models: dict[str, tuple[str, ...]], mode: str) -> dict[str, Run]:
    """The first of each model's experiments that has a record; none for a model without. Quick: trained for a moment.

    Mode "train" makes the last of them, the cheapest, where there is no record of any.
    """
    runs = {}
    for label, names in models.items():
        for name in names if mode != "quick" else names[-1:]:
            try:
                runs[label] = run(name, "report" if mode == "train" and name != names[-1] else mode)
                break
            except RecordError:
                continue
    return runs


def records(prefix: str, mode: str, quick: tuple[str, ...]) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """The records of a family of experiments and what they are, in words.

    Where there is none, the few experiments named are trained for a moment, in memory.
    """
    there = found(prefix, mode, quick)
    if there and mode != "quick":
        return there, f"records of finished runs, {next(iter(there.values()))[0]['data']['origin']}"
    return there or found(prefix, "quick", quick), "a moment of training on embedded digits: no skill, only the form"


def turned_logits(
    model: Callable[[Tensor], Tensor],
    images: Float[Tensor, "image channel side side"],
    degrees: Sequence[float],
    batch: int = 100,
) -> Float[Tensor, "angle image class_"]:
    """The logits of every image at every angle; bilinear between the quarter turns."""
    with torch.inference_mode():
        return torch.stack(
            [torch.cat([model(rotate(part, float(angle))) for part in images.split(batch)]) for angle in degrees]
        )


def changes(
    logits: Float[Tensor, "angle image class_"], upright: Float[Tensor, "image class_"]
) -> Float[Tensor, "angle image"]:
    """The largest change of a logit over the largest logit of all images: over images, its maximum is the
    invariance error of the angle."""
    return (logits - upright).abs().amax(-1) / upright.abs().max()


def flip_rate(logits: Tensor, upright: Tensor) -> tuple[float, float, float]:
    """How often a moved image gets another class, with Wilson's interval; the images count, not the angles: answers
    to one image at several angles are no independent witnesses."""
    rate = (logits.argmax(-1) != upright.argmax(-1)).double().mean().item()
    return rate, *wilson(rate, len(upright))


def mean_interval(values: Collection[float]) -> tuple[float, float, float]:
    """The mean of a few runs and Student's 95 % interval; for a single run the interval is not a number."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values.mean()), math.nan, math.nan
    reach = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean()), float(values.mean() - reach), float(values.mean() + reach)


def efficiency(by_name: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """A row for each network and share of the training images, from the records ``fraction/<network>-<percent>``.

    low, high: Student's interval over seeds; with a single seed Wilson's interval over the test images.
    """
    rows = []
    for name, of_name in by_name.items():
        network, percent = name.removeprefix("fraction/").rsplit("-", 1)
        mean, low, high = mean_interval([record["test"]["accuracy"] for record in of_name])
        if len(of_name) == 1:
            low, high = of_name[0]["test"]["interval"]
        rows.append(
            {
                "network": network,
                "share": float(percent) / 100,
                "images": of_name[0]["training_images"],
                "accuracy": mean,
                "low": low,
                "high": high,
                "seeds": len(of_name),
            }
        )
    columns = ["network", "share", "images", "accuracy", "low", "high", "seeds"]
    return pd.DataFrame(rows, columns=columns).sort_values(["network", "share"], ignore_index=True)


def advantage(frame: pd.DataFrame) -> pd.DataFrame:
    """By how many points a network with poses beats its twin without, for each share that both have; and the interval.

    low, high: each at the other end of both intervals, so rather too wide than too narrow.
    """
    rows = []
    for network, twin in TWINS.items():
        both = frame[frame["network"] == network].merge(frame[frame["network"] == twin], on="share")
        rows += [
            {
                "network": network,
                "twin": twin,
                "share": row.share,
                "points": 100 * (row.accuracy_x - row.accuracy_y),
                "low": 100 * (row.low_x - row.high_y),
                "high": 100 * (row.high_x - row.low_y),
            }
            for row in both.itertuples()
        ]
    return pd.DataFrame(rows, columns=["network", "twin", "share", "points", "low", "high"])


def layer_scores(config: GroupAttentionNetConfig) -> pd.DataFrame:
    """Attention scores of every layer for one image: poses · heads · pixels · window², and for a layer behind the
    lifting the poses of the query and of the key too."""
    order, each = config.group.order, config.heads * config.window**2
    rows = [{"layer": "lifting", "side": config.image_size, "scores": order * each * config.image_size**2}]
    layers = [step for step in config.steps if step.kind == "layer"]
    power = 3 if config.query_pose == "sum" else 2
    rows += [
        {"layer": f"group layer {number}", "side": step.size, "scores": order**power * each * step.size**2}
        for number, step in enumerate(layers, start=1)
    ]
    return pd.DataFrame(rows)


def benchmark(name: str) -> dict[str, Any]:
    """What a benchmark wrote: data/results/benchmarks/<name>.json."""
    return json.loads((results_folder() / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def power_law(x: Collection[float], y: Collection[float]) -> tuple[float, float, float]:
    """The exponent b of y = a·x^b and its 95 % interval, by least squares in the logarithms."""
    if len(x) < 3:
        raise ValueError(f"an exponent with its interval takes at least 3 sizes, not {len(x)}")
    fit = linregress(np.log(x), np.log(y))
    reach = t.ppf(0.975, len(x) - 2) * fit.stderr
    return float(fit.slope), float(fit.slope - reach), float(fit.slope + reach)


def selection(by_name: dict[str, list[dict[str, Any]]]) -> pd.DataFrame:
    """A row for each run whose test curve was recorded apart: the test accuracy at the epoch that the validation split
    chooses, and at the best epoch of the test curve itself.

    optimism: the difference, in points.
    """
    rows = []
    for name, of_name in by_name.items():
        for record in of_name:
            validation, test = ([entry[key] for entry in record["curve"]] for key in ("accuracy", "watched"))
            chosen, best = test[int(np.argmax(validation))], max(test)
            rows.append(
                {
                    "network": name.removeprefix("selection/"),
                    "seed": record["seed"],
                    "chosen": chosen,
                    "best": best,
                    "last": test[-1],
                    "optimism": 100 * (best - chosen),
                    "count": record["test"]["count"],
                }
            )
    return pd.DataFrame(rows, columns=["network", "seed", "chosen", "best", "last", "optimism", "count"])


def published() -> pd.DataFrame:
    """What others report of a network whose epoch was chosen on the test set, with the source: data/published.json.

    Never in one column with our own numbers.
    """
    rows = [row for row in json.loads(PUBLISHED.read_text(encoding="utf-8")) if row["epoch"] == "best on test"]
    return pd.DataFrame(rows)[["model", "group", "data", "accuracy", "epoch", "source"]]


def paired(right: dict[str, Bool[Tensor, " image"]], pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """McNemar's test of two networks on the same images: who is right where the other is wrong, and the p-value.

    right: whether each network is right on each image.
    """
    rows = []
    for first, second in pairs:
        if first in right and second in right:
            a, b = right[first], right[second]
            rows.append(
                {
                    "first": first,
                    "second": second,
                    "images": len(a),
                    "first_accuracy": a.double().mean().item(),
                    "second_accuracy": b.double().mean().item(),
                    "only_first": int((a & ~b).sum()),
                    "only_second": int((b & ~a).sum()),
                    "p_value": mcnemar(a, b),
                }
            )
    columns = ["first", "second", "images", "first_accuracy", "second_accuracy", "only_first", "only_second", "p_value"]
    return pd.DataFrame(rows, columns=columns)


def whole_test(runs: dict[str, Run], pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Two networks on the whole test split, from their records: the difference in points and its 95 % interval as if
    the images were not the same ones, which is rather too wide."""
    rows = []
    for first, second in pairs:
        if first in runs and second in runs:
            a, b = (runs[label].record["test"] for label in (first, second))
            error = math.sqrt(sum(each["accuracy"] * (1 - each["accuracy"]) / each["count"] for each in (a, b)))
            points = 100 * (b["accuracy"] - a["accuracy"])
            rows.append(
                {
                    "first": first,
                    "second": second,
                    "points": points,
                    "low": points - 196 * error,
                    "high": points + 196 * error,
                    "images": a["count"],
                }
            )
    return pd.DataFrame(rows, columns=["first", "second", "points", "low", "high", "images"])
