"""What the chapter on the hybrid reads and measures: exactness by stage, costs, and what the records say."""

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from e2vit.actions import act
from e2vit.experiments import Experiment, records
from e2vit.groups import FiniteGroup
from e2vit.models import HybridViT
from e2vit_book.results import multiply_adds

FAMILIES = {  # how the name of a network begins → the name of its kind in the book's palette
    "hybrid": "hybrid",
    "patches": "hybrid",
    "pooled": "pooled hybrid",
    "gcnn-z2cnn": "CNN",
    "gcnn": "G-CNN",
    "vit": "ViT",
    "gevit": "GE-ViT",
    "gsa": "GSA-Net",
    "cayley": "Cayley table",
    "attention-z2": "attention without a group",
    "plain-cnn": "CNN",
    "plain": "attention without a group",
}


@torch.no_grad()
def stage_errors(model: HybridViT, images: Tensor, group: FiniteGroup, elements: Sequence[int]) -> dict[str, float]:
    """For every stage of a model: max over r of max |f(r.x) − r.f(x)| / max |f(x)|; r acts trivially on vectors.

    model: any network with a method ``stages(images)``, name → lifted map or vector.
    """
    upright = model.stages(images)
    errors = dict.fromkeys(upright, 0.0)
    for r in elements:
        for name, value in model.stages(act(group, r, images)).items():
            expected = act(group, r, upright[name]) if value.ndim == 5 else upright[name]
            error = (value - expected).abs().max() / upright[name].abs().max()
            errors[name] = max(errors[name], error.item())
    return errors


def family(experiment: Experiment) -> str:
    """The kind of an experiment's network, as the palette names it."""
    network = experiment.network or ""
    return next((FAMILIES[key] for key in FAMILIES if network.startswith(key)), network)


def title(experiment: Experiment) -> str:
    """The name of an experiment in a figure: its family, then what sets it apart within the family."""
    details, network = [family(experiment)], experiment.network or ""
    group = getattr(experiment.model, "group", None)
    if group is not None and group.order > 1:
        details.append(group.name)
    details += [word for word in ("patches", "wide", "large") if word in network]
    return ", ".join(details + ([] if _augmented(experiment) else ["not augmented"]))


def _augmented(experiment: Experiment) -> bool:
    return getattr(experiment.training, "augment", "none") != "none"


def points(by_experiment: dict[Experiment, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Family, fraction, test summary, millions of multiplications and augmentation of every experiment."""
    return [
        {
            "family": family(experiment),
            "fraction": experiment.fraction,
            "summary": records.summarize(of_experiment),
            "millions": multiply_adds(experiment) / 1e6,
            "augmented": _augmented(experiment),
        }
        for experiment, of_experiment in by_experiment.items()
    ]


def seconds_per_image(of_experiment: Sequence[dict[str, Any]]) -> float:
    """Seconds of training for one image, the mean over records; the final evaluation is part of the time."""
    return statistics.fmean(r["seconds"] / (len(r["curve"]) * r["training_images"]) for r in of_experiment)
