"""What the records of the post-hoc chapter say, as tables, and what the views of an image say, as arrays."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from e2vit.actions import rotate
from e2vit.experiments import RecordError, Run, read_record, record_of, results_folder, run, seeds_present
from e2vit.experiments.catalog import EXPERIMENTS
from e2vit.metrics import wilson
from e2vit.models import Symmetrized
from e2vit.models.symmetrized import AGGREGATES, CONTROLS

COSTS = results_folder() / "benchmarks" / "symmetrized.json"
SETTINGS = {
    "rotated": "trained and tested on rotated digits",
    "upright": "trained on upright digits, tested on rotated ones",
    "tenth": "a tenth of the rotated digits",
    "aerial": "aerial scenes, trained as they come",
}
REGIMES = {"none": "no fine-tuning", "head": "last layer", "all": "every weight"}


def available(names: list[str], mode: str) -> dict[str, Run]:
    """The runs that there are: all of them in the modes "quick" and "train", those with a good record in "report"."""
    found = {}
    for name in names:
        try:
            found[name] = run(name, mode)
        except RecordError:
            if mode != "report":
                raise
    return found


def records(setting: str) -> list[dict[str, Any]]:
    """The good records of a setting, in the order of the experiments."""
    found = []
    for name in EXPERIMENTS:
        if name.startswith(f"post_hoc/{setting}/"):
            for seed in seeds_present(name):
                try:
                    found.append(read_record(name, seed))
                except RecordError:  # stale or altered: it does not count
                    continue
    return found


def trained(setting: str) -> list[dict[str, Any]]:
    """The records of a setting, each made where it is missing: hours on a GPU."""
    names = [name for name in EXPERIMENTS if name.startswith(f"post_hoc/{setting}/")]
    return [record_of(name, "train", seed) for name in names for seed in range(EXPERIMENTS[name].seeds)]


def base_table(settings: list[str], mode: str) -> pd.DataFrame:
    """Test accuracy (%) of the base model of each setting with a single view, and Wilson's interval."""
    rows = []
    for setting in settings:
        name = EXPERIMENTS[f"post_hoc/{setting}/none/mean_logits"].base
        try:
            record = record_of(name, mode)
        except RecordError:
            continue
        low, high = record["test"]["interval"]
        rows.append(
            {
                "setting": SETTINGS[setting],
                "data": record["data"]["origin"],
                "accuracy (%)": f"{100 * record['test']['accuracy']:.2f} [{100 * low:.2f}, {100 * high:.2f}]",
                "parameters": f"{record['parameters']:,}",
            }
        )
    return pd.DataFrame(rows, columns=["setting", "data", "accuracy (%)", "parameters"]).set_index("setting")


def table(setting: str, found: list[dict[str, Any]] | None = None) -> pd.DataFrame:
    """One row for each method and regime with a record: mean over seeds, interval, and McNemar against averaging.

    The first row is the base model with one view.

    accuracy, low, high: fractions. The interval is Wilson's, for the test images are a sample; the spread of several
          seeds (2 standard errors) is added to it as independent errors add, for they share base and test images.
    only_this, only_averaging, p_value: of the first seed, against the mean of logits of the base on the same views.
    found: records; those of the results folder when left out.
    """
    rows: dict[tuple[str, str], list[dict]] = {}
    for record in records(setting) if found is None else found:
        _, _, regime, aggregate = record["experiment"].split("/")
        rows.setdefault((aggregate, regime), []).append(record)
    lines = []
    for (aggregate, regime), group in rows.items():
        accuracies = np.array([record["test"]["accuracy"] for record in group])
        mean, spread = accuracies.mean(), 0.0
        if len(group) > 1:
            spread = 2 * accuracies.std(ddof=1) / len(group) ** 0.5
        low, high = (
            mean + np.copysign(np.hypot(bound - mean, spread), bound - mean)
            for bound in wilson(mean, group[0]["test"]["count"])
        )
        lines.append(
            {
                "method": aggregate,
                "regime": regime,
                "accuracy": mean,
                "low": low,
                "high": high,
                "calibration_error": np.mean([record["test"]["calibration_error"] for record in group]),
                "seeds": len(group),
                "images": group[0]["test"]["count"],
                **{key: group[0]["against_averaging"][key] for key in ("only_this", "only_averaging", "p_value")},
            }
        )
    if lines:
        lines.insert(0, _one_view(next(iter(rows.values()))[0]))
    order = ["one_view", *AGGREGATES, *CONTROLS]
    columns = [
        "method",
        "regime",
        "accuracy",
        "low",
        "high",
        "calibration_error",
        "seeds",
        "images",
        "only_this",
        "only_averaging",
        "p_value",
    ]
    frame = pd.DataFrame(lines, columns=columns)
    keys = frame["regime"].map(list(REGIMES).index) * 100 + frame["method"].map(order.index)
    return frame.iloc[keys.to_numpy(dtype=float).argsort(kind="stable")].reset_index(drop=True)


def chosen(settings: list[str], found: list[dict[str, Any]] | None = None) -> pd.DataFrame:
    """For every setting and regime the method that the validation images prefer, and what it does on the test images.

    The controls are no candidates. Ties of accuracy go to the larger likelihood. First seeds alone.
    """
    rows = []
    for setting in settings:
        there = [r for r in (records(setting) if found is None else found) if r["experiment"].split("/")[1] == setting]
        for regime, words in REGIMES.items():
            candidates = [
                r
                for r in there
                if r["experiment"].split("/")[2] == regime
                and r["seed"] == 0
                and r["experiment"].split("/")[3] not in CONTROLS
            ]
            if candidates:
                best = max(
                    candidates, key=lambda r: (r["validation"]["accuracy"], -r["validation"]["negative_log_likelihood"])
                )
                against = best["against_averaging"]
                rows.append(
                    {
                        "setting": SETTINGS[setting],
                        "fine-tuned": words,
                        "candidates": len(candidates),
                        "method": best["experiment"].split("/")[3].replace("_", " "),
                        "validation (%)": f"{100 * best['validation']['accuracy']:.2f}",
                        "test (%)": f"{100 * best['test']['accuracy']:.2f}",
                        "right where averaging is wrong": against["only_this"],
                        "wrong where averaging is right": against["only_averaging"],
                        "p (McNemar)": _number(against["p_value"], ".2g"),
                    }
                )
    columns = [
        "setting",
        "fine-tuned",
        "candidates",
        "method",
        "validation (%)",
        "test (%)",
        "right where averaging is wrong",
        "wrong where averaging is right",
        "p (McNemar)",
    ]
    return pd.DataFrame(rows, columns=columns).set_index(["setting", "fine-tuned"])


def controls(settings: list[str], found: list[dict[str, Any]] | None = None) -> pd.DataFrame:
    """What the controls reach on validation and on test images (%), means over seeds."""
    rows = []
    for setting in settings:
        there = records(setting) if found is None else [r for r in found if r["experiment"].split("/")[1] == setting]
        for control in CONTROLS:
            if of_control := [r for r in there if r["experiment"].split("/")[3] == control]:
                rows.append(
                    {
                        "setting": SETTINGS[setting],
                        "control": control.replace("_", " "),
                        "seeds": len(of_control),
                        **{
                            f"{split} (%)": f"{100 * np.mean([r[split]['accuracy'] for r in of_control]):.2f}"
                            for split in ("validation", "test")
                        },
                    }
                )
    columns = ["setting", "control", "seeds", "validation (%)", "test (%)"]
    return pd.DataFrame(rows, columns=columns).set_index("setting")


def _one_view(record: dict[str, Any]) -> dict[str, Any]:
    """The row of the base model that sees every image once, as it is."""
    accuracy, count = record["against_averaging"]["one_view_accuracy"], record["test"]["count"]
    low, high = wilson(accuracy, count)
    return {
        "method": "one_view",
        "regime": "none",
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "seeds": 1,
        "images": count,
    }


def percent_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A table fit for reading: percent with its interval, and McNemar's counts and p-value."""
    shown = pd.DataFrame(
        {
            "method": frame["method"].str.replace("_", " "),
            "fine-tuned": frame["regime"].map(REGIMES),
            "accuracy (%)": [
                f"{100 * row.accuracy:.2f} [{100 * row.low:.2f}, {100 * row.high:.2f}]" for row in frame.itertuples()
            ],
            "calibration error (%)": [_number(100 * e, ".2f") for e in frame["calibration_error"]],
            "seeds": frame["seeds"],
            "right where averaging is wrong": [_number(n, ".0f") for n in frame["only_this"]],
            "wrong where averaging is right": [_number(n, ".0f") for n in frame["only_averaging"]],
            "p (McNemar)": [_number(p, ".2g") for p in frame["p_value"]],
        }
    )
    return shown.set_index(["method", "fine-tuned"])


def _number(value: float, form: str) -> str:
    return "–" if pd.isna(value) else format(value, form)


@torch.no_grad()
def winning_views(model: Symmetrized, images: Tensor, degrees: Tensor) -> Tensor:
    """For upright images turned by some degrees: the turn (degrees) of the view whose probability is largest."""
    logits = model.eval().view_logits(rotate(images, degrees))
    winner = logits.softmax(-1).amax(-1).argmax(1)
    return 360.0 * (winner % model.group.rotations) / model.group.rotations


@torch.no_grad()
def agreement(logits: dict[str, Tensor]) -> np.ndarray:
    """(method, method): the fraction of images that two methods give the same class."""
    classes = torch.stack([each.argmax(-1) for each in logits.values()])
    return (classes[:, None] == classes[None]).double().mean(-1).numpy()


@torch.no_grad()
def changed_by_shifts(model: Callable[[Tensor], Tensor], images: Tensor, pixels: list[int]) -> list[float]:
    """The fraction of images whose class changes when they move to the right by some pixels, zeros coming in."""
    before = model(images).argmax(-1)
    changed = []
    for shift in pixels:
        moved = torch.nn.functional.pad(images, (shift, 0))[..., : images.shape[-1]]
        changed.append((model(moved).argmax(-1) != before).double().mean().item())
    return changed


def reliability(logits: Tensor, labels: Tensor, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For equally wide bins of confidence: mean confidence, accuracy, and number of images (NaN where none)."""
    confidence, predicted = logits.double().softmax(-1).max(-1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count = torch.zeros(bins, dtype=torch.float64).index_add(0, place, torch.ones_like(confidence))
    mean = torch.zeros(bins, dtype=torch.float64).index_add(0, place, confidence) / count
    right = torch.zeros(bins, dtype=torch.float64).index_add(0, place, (predicted == labels).double()) / count
    return mean.numpy(), right.numpy(), count.numpy()


def costs(path: Path | None = None) -> dict[str, Any]:
    """The measured cost of every aggregate, as benchmarks/symmetrized.py wrote it; empty when it never ran."""
    path = path or COSTS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
