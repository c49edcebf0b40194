"""What the records of the post-hoc chapter say, and what the views of an image say."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from e2vit.actions import invariance_error, rotate
from e2vit.experiments import Run, records
from e2vit.experiments.records import Summary
from e2vit.groups import FiniteGroup
from e2vit.metrics import paired_difference, student, wilson
from e2vit.models import Symmetrized
from e2vit.models.symmetrized import AGGREGATES, CONTROLS
from e2vit_book import results

SETTINGS = {
    "rotated": "digits at all angles",
    "upright": "trained upright, tested turned",
    "tenth": "a tenth of the turned digits",
    "aerial": "aerial scenes",
}
REGIMES = {"none": "no fine-tuning", "head": "last layer trained", "all": "every weight trained"}


def available(names: Sequence[str], mode: str) -> dict[str, Run]:
    """The runs that there are: all of them in the modes "quick" and "train", those with a valid record in "report"."""
    return results.trained({name: (name,) for name in names}, mode)


def found(mode: str, quick: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The records of the comparison; in mode "train" the missing ones are made, in "quick" the few names given."""
    return results.found(mode, quick, "post_hoc/")


def rows(found: Sequence[dict[str, Any]], setting: str) -> list[dict[str, Any]]:
    """One row for each method and regime of a setting; the first is the base model with one view.

    accuracy: Summary. only_this, only_averaging, p_value: of the first seed, against the mean of logits of the base on
    the same views, by McNemar's test. smallest: the difference (a fraction) that this test could have shown.
    """
    lines = []
    for experiment, group in records.by_experiment(found).items():
        if experiment.setting == setting:
            against = group[0]["against_averaging"]
            lines.append(
                {
                    "method": experiment.method,
                    "regime": experiment.regime,
                    "accuracy": records.summarize(group),
                    "validation": records.summarize(group, split="validation").mean,
                    "calibration_error": records.summarize(group, "calibration_error").mean,
                    **{key: against[key] for key in ("only_this", "only_averaging", "p_value")},
                    "smallest": detectable(against["only_this"] + against["only_averaging"], group[0]["test"]["count"]),
                    "record": group[0],
                }
            )
    if lines:
        first = lines[0]["record"]
        alone, images = first["against_averaging"]["one_view_accuracy"], first["test"]["count"]
        one_view = Summary(alone, *wilson(alone, images), 1, images, "images")
        lines.insert(0, {"method": "one_view", "regime": "none", "accuracy": one_view})
    return lines


def detectable(disagreements: int, images: int) -> float:
    """The difference of two accuracies that McNemar's test finds in 80 % of cases at the 5 % level."""
    return (1.96 + 0.84) * math.sqrt(disagreements) / images


def chosen(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row whose first seed is best on the validation images; ties go to the larger likelihood. Not the controls."""
    candidates = [row for row in lines if "record" in row and row["method"] not in CONTROLS]

    def merit(row: dict[str, Any]) -> tuple[float, float]:
        validation = row["record"]["validation"]
        return validation["accuracy"], -validation["negative_log_likelihood"]

    return max(candidates, key=merit)


def words(method: str) -> str:
    """A method as a reader calls it."""
    return {
        "mean_logits": "mean of logits",
        "most_likely": "product of probabilities",
        "mean_probabilities": "mean of probabilities",
        "feature_mean": "mean of features",
        "canonical_energy": "lowest energy",
        "canonical_learned": "learned canonical pose",
    }.get(method, method.replace("_", " "))


def invariance_errors(
    base: nn.Module, images: Tensor, group: FiniteGroup, std: float = 0.2, seed: int = 0
) -> dict[str, float]:
    """Invariance error of every aggregate and control around the base; parameters of the aggregate are redrawn."""
    errors = {}
    for name in [*AGGREGATES, *CONTROLS]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = Symmetrized(base, group, name).double().eval()
            if isinstance(model.aggregate, nn.Module):
                for parameter in model.aggregate.parameters():
                    nn.init.normal_(parameter, std=std)
        errors[name] = invariance_error(model, images, group)
    return errors


@torch.no_grad()
def winning_views(model: Symmetrized, images: Tensor, degrees: Tensor) -> Tensor:
    """For upright images turned by some degrees: the turn (degrees) of the view whose probability is largest."""
    logits = model.eval().view_logits(rotate(images, degrees))
    winner = logits.softmax(-1).amax(-1).argmax(1)
    return 360.0 * (winner % model.group.rotations) / model.group.rotations


@torch.no_grad()
def changed_by_shifts(model: Callable[[Tensor], Tensor], images: Tensor, pixels: Sequence[int]) -> list[float]:
    """The fraction of images whose class changes when they move to the right by some pixels, zeros coming in."""
    before = model(images).argmax(-1)
    changed = []
    for shift in pixels:
        moved = nn.functional.pad(images, (shift, 0))[..., : images.shape[-1]]
        changed.append((model(moved).argmax(-1) != before).double().mean().item())
    return changed


def costs() -> dict[str, Any]:
    """The measured cost of every aggregate, as benchmarks/symmetrized.py wrote it."""
    return results.benchmark("symmetrized")


def families(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Counts and extremes of the record of benchmarks/timm_families.py.

    count, right, refused: families, those whose features over C1 give the model, those that get a sentence instead.
    features, logits: the largest relative errors over C1 (of those that are right) and over D4 (of all).
    """
    over_c1 = [row["features over C1"] for row in found.values()]
    numbers = [error for error in over_c1 if not isinstance(error, str)]
    return {
        "count": len(found),
        "right": len(numbers),
        "refused": [name for name, row in found.items() if isinstance(row["features over C1"], str)],
        "features": max(numbers),
        "logits": max(row["logits over D4"] for row in found.values()),
    }


def photographs(foreign: dict[str, Any], shown: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each photograph: the answers under the four quarter turns, and that of the wrapped classifier."""
    names, classes = foreign["photographs"]["names"], foreign["photographs"]["classes"]
    rows = []
    for name in shown:
        alone, wrapped = (classes[model][names.index(name)] for model in ("alone", "D4"))
        turns = {f"{90 * k}°": alone[k] for k in range(4)}
        rows.append({"photograph": name.replace("_", " "), **turns, "averaged": ", ".join(dict.fromkeys(wrapped))})
    return rows


def changed_answers(foreign: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Model → the fraction of turned photographs whose answer differs from that of the upright one: over C4 and D4."""
    return {
        model: tuple(
            sum(row[g] != row[0] for row in rows for g in range(1, order)) / (len(rows) * (order - 1))
            for order in (4, 8)
        )
        for model, rows in foreign["photographs"]["classes"].items()
    }


def pretrained_heads(foreign: dict[str, Any], data: str) -> list[dict[str, Any]]:
    """One row for each way to combine the views: test accuracy over the folds with a tenth and all training images.

    gain: over one view, paired by fold.
    """
    of: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in foreign[data]:
        of.setdefault(row["method"], {}).setdefault(f"{100 * row['share']:.0f} %", []).append(row)
    rows = []
    for method, shares in of.items():
        rows.append({"head": method})
        for share in ("10 %", "100 %"):
            base = [row["accuracy"] for row in of["one view"][share]]
            gains = [row["accuracy"] - other for row, other in zip(shares[share], base, strict=True)]
            rows[-1] |= {share: over_folds(shares[share]), f"gain at {share}": str(paired_difference(gains))}
    rows[0] |= dict.fromkeys(("gain at 10 %", "gain at 100 %"))
    return rows


def over_folds(rows: Sequence[dict[str, Any]]) -> Summary:
    """Mean accuracy and its 95 % Student interval over the folds."""
    values = [row["accuracy"] for row in rows]
    return Summary(*student(values), len(values), rows[0]["test_images"], "seeds")
