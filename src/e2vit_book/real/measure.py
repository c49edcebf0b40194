"""What the chapter on real images reads from the records and measures: accuracies, paired differences, turns.

The pictures of the chapter are drawn galaxies: the published ones may not be passed on freely.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.actions import act, invariance_error
from e2vit.capture import capture
from e2vit.data import Split, Splits, as_float
from e2vit.experiments import Experiment, build, records
from e2vit.experiments.catalog import EXPERIMENTS
from e2vit.experiments.records import Summary
from e2vit.groups import dihedral
from e2vit.metrics import Difference, paired_difference
from e2vit.models import HybridViT, Symmetrized, ViT
from e2vit.training import TrainConfig, train
from e2vit_book.post_hoc.measure import over_folds
from e2vit_book.results import multiply_adds

DATA = {"mirabest": "galaxies", "rsscn7": "land"}
NETWORKS = {  # network of an experiment → its name in the chapter
    "hybrid-d4": "hybrid",
    "hybrid-d8": "hybrid over D8",
    "octic-d4": "octic ViT",
    "gcnn-d4": "G-CNN",
    "cnn": "CNN",
    "vit": "ViT",
    "vit-views": "symmetrized ViT",
}
AUGMENTATIONS = {"none": "none", "d4": "D4", "dihedral": "any angle"}
FRACTIONS = (0.1, 1 / 3, 1.0)


def accuracies(data: str, augment: str) -> dict[str, dict[float, Summary]]:
    """Name of a network → fraction of the training images → test accuracy over the folds that have a record."""
    found: dict[str, dict[float, Summary]] = {}
    for network, name in NETWORKS.items():
        for fraction in FRACTIONS:
            runs = _runs(data, network, augment, fraction)
            if runs:
                found.setdefault(name, {})[fraction] = records.summarize(runs)
    return found


def difference(
    data: str, fraction: float, augment: str = "d4", first: str = "hybrid-d4", second: str = "vit"
) -> Difference | None:
    """First minus second, paired by fold; None with fewer than three folds that have both records."""
    of_fold = [
        {record["seed"]: record["test"]["accuracy"] for record in _runs(data, network, augment, fraction)}
        for network in (first, second)
    ]
    folds = of_fold[0].keys() & of_fold[1].keys()
    return paired_difference([of_fold[0][k] - of_fold[1][k] for k in sorted(folds)]) if len(folds) >= 3 else None


def differences() -> list[dict[str, Any]]:
    """A row for each data set, share and augmentation: hybrid minus ViT, where there are records."""
    rows = []
    for data, name in DATA.items():
        for fraction in FRACTIONS:
            for augment, words in AUGMENTATIONS.items():
                if (found := difference(data, fraction, augment)) is not None:
                    rows.append(
                        {
                            "images": name,
                            "share": percent(fraction),
                            "augmentation": words,
                            "hybrid minus ViT": str(found),
                            "detectable": f"{100 * found.detectable:.1f} points",
                            "folds": found.runs,
                        }
                    )
    return rows


def rows(data: str, augment: str) -> list[dict[str, Any]]:
    """A row of the table for each network: accuracy for each share of the images."""
    found = accuracies(data, augment)
    return [
        {"network": name, **{percent(fraction): of_share.get(fraction) for fraction in FRACTIONS}}
        for name, of_share in found.items()
    ]


def augmented(data: str) -> list[dict[str, Any]]:
    """A row for each network that was trained without augmentation too: accuracy under each augmentation."""
    shares = {(augment, share): percent(share) for augment in AUGMENTATIONS for share in (0.1, 1.0)}
    found = {augment: accuracies(data, augment) for augment in AUGMENTATIONS}
    return [
        {
            "network": name,
            **{
                f"{AUGMENTATIONS[augment]}, {words}": found[augment].get(name, {}).get(share)
                for (augment, share), words in shares.items()
                if (augment, share) != ("dihedral", 0.1)
            },
        }
        for name in NETWORKS.values()
        if name in found["none"]
    ]


PRETRAINED = {  # method of benchmarks/foreign.py → its name in the chapter
    "one view, trained on all": "pretrained, one view",
    "mean of logits, trained on all": "pretrained, mean of D4",
}


def pretrained(foreign: dict[str, Any], data: str) -> list[dict[str, Any]]:
    """Rows as those of ``rows``: a linear head, trained on all views of D4, on a network that others trained."""
    found = []
    for method, name in PRETRAINED.items():
        cells = {}
        for fraction in FRACTIONS:
            of = [row for row in foreign[data] if row["method"] == method and abs(row["share"] - fraction) < 0.01]
            cells[percent(fraction)] = over_folds(of)
        found.append({"network": name, **cells})
    return found


def hours(seconds_of_an_update: Mapping[str, float]) -> float:
    """Of one thread, for the training of all runs that have a record, at the measured seconds of an update."""
    ran = [EXPERIMENTS[record["experiment"]] for record in records.find("real")]
    trained = [each for each in ran if isinstance(each.training, TrainConfig)]
    return sum(_updates(each) * seconds_of_an_update[each.network] for each in trained) / 3600


WORDS = {
    "hybrid-d4": "the hybrid over D4",
    "vit": "the plain ViT",
    "gcnn-d4": "the G-CNN over D4",
    "cnn": "the plain CNN",
}


def verdict(first: str = "hybrid-d4", second: str = "vit", augment: str = "d4") -> str:
    """Whether one network beats another with the same augmentation, in two sentences from the records."""
    shares = {"With a tenth of the training images": 0.1, "With all of them": 1.0}
    return " ".join(_sentence(begin, share, first, second, augment) for begin, share in shares.items())


def _sentence(begin: str, share: float, first: str, second: str, augment: str) -> str:
    """One sentence for one share of the images: what is shown, and where nothing is, what could have been."""
    words = []
    for data, name in DATA.items():
        d = difference(data, share, augment, first, second)
        if d is None:
            words.append(f"for {name} there are not enough records yet")
        elif d.low > 0:
            words.append(f"on {name} {WORDS[first]} is better than {WORDS[second]} by {d}")
        elif d.high < 0:
            words.append(f"on {name} {WORDS[first]} is worse than {WORDS[second]}: {d}")
        else:
            words.append(
                f"on {name} no difference between {WORDS[first]} and {WORDS[second]} is shown ({d}; {d.runs} folds "
                f"show a difference of {100 * d.detectable:.1f} points with a probability of 80 %)"
            )
    return f"{begin}, {'; '.join(words)}."


def percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def _runs(data: str, network: str, augment: str, fraction: float) -> list[dict[str, Any]]:
    return records.find(f"real/{data}/", network=network, method=augment, fraction=fraction)


def _updates(experiment: Experiment) -> int:
    training = experiment.training
    assert isinstance(training, TrainConfig)
    return training.epochs * (training.updates_per_epoch or 0)


def costs(seconds_of_an_update: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row for each network of the galaxies: weights, multiplications of one image (matrix products), training."""
    rows = []
    for network, name in NETWORKS.items():
        if network == "vit-views":
            continue
        experiment = EXPERIMENTS[f"real/mirabest/{network}/d4-100"]
        training = experiment.training
        assert isinstance(training, TrainConfig)
        rows.append(
            {
                "network": name,
                "weights": sum(p.numel() for p in build(experiment, 0).parameters()),
                "million multiplications": round(multiply_adds(experiment) / 1e6),
                "learning rate": training.learning_rate,
                "updates": _updates(experiment),
                "seconds": round(_updates(experiment) * seconds_of_an_update[network]),
            }
        )
    return rows


def drawn_galaxies(count: int, seed: int = 0, tilt: float = 180.0, side: int = 64) -> Split:
    """Radio galaxies as one would sketch them, half of each class: uint8, one channel.

    A core and two jets. Class 0 (FR I) is brightest near the core and fades; class 1 (FR II) ends in bright lobes.
    tilt: the axis lies within so many degrees of the horizontal; 180 is any direction.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    labels = torch.arange(count) % 2
    angle, length = draw(-math.radians(tilt), math.radians(tilt)), draw(18, 40)
    bend, balance, blend = draw(-0.4, 0.4), draw(0.5, 1.5), draw(0.55, 1)
    steps = torch.linspace(-1, 1, 41)
    along = steps * length[:, None] / 2
    across = bend[:, None] * length[:, None] / 2 * steps.square()  # both jets bend to the same side
    x = along * angle.cos()[:, None] - across * angle.sin()[:, None]
    y = along * angle.sin()[:, None] + across * angle.cos()[:, None]
    fading, lobes = (1 - steps.abs()) ** 2, (steps.abs() > 0.85).float()
    fades = torch.where(labels == 1, 1 - blend, blend)[:, None]
    light = (fades * fading + (1 - fades) * lobes) * torch.where(steps < 0, balance[:, None], 1.0)
    grid = torch.arange(side) - (side - 1) / 2
    spread = draw(1.5, 2.5)[:, None, None]
    rows = torch.exp(-((grid - y[..., None]) ** 2) / (2 * spread**2))
    columns = torch.exp(-((grid - x[..., None]) ** 2) / (2 * spread**2))
    images = einsum(light, rows, columns, "n step, n step row, n step column -> n row column")
    images = images / images.amax((1, 2), keepdim=True) + 0.08 * torch.randn(images.shape, generator=generator)
    return Split((images.clamp(0, 1) * 255).round().byte()[:, None], labels)


def trained_on_drawn(mode: str) -> tuple[dict[str, nn.Module], Split]:
    """Networks trained for a moment on drawn galaxies that lie nearly flat, and flat galaxies they have not seen.

    Without augmentation, so that no network sees a turned galaxy. Tiny and for two epochs in mode "quick".
    """
    quick = mode == "quick"
    train_split, validation, test = (
        drawn_galaxies(n, seed, tilt=15) for seed, n in enumerate((60 if quick else 400, 40, 60))
    )
    splits = Splits(train_split, validation, test, "drawn galaxies", "drawn", 2)
    config = TrainConfig(epochs=2 if quick else 5, batch_size=16, learning_rate=3e-3, warmup_epochs=0.5, augment="none")
    models = {}
    for network in ("hybrid-d4", "octic-d4", "gcnn-d4", "cnn", "vit"):
        experiment = EXPERIMENTS[f"real/mirabest/{network}/d4-100"]
        model = build(replace(experiment, model=experiment.model.tiny()) if quick else experiment, 0)
        train(model, splits, config=config)
        models[NETWORKS[network]] = model.eval()
    models["symmetrized ViT"] = Symmetrized(models["ViT"], dihedral(4), "mean_logits").eval()
    return models, test


@torch.no_grad()
def under_turns(model: nn.Module, split: Split) -> dict[str, float]:
    """Accuracy as loaded and over all of D4, share of images whose answer some element changes, invariance error."""
    images, group = as_float(split.images), dihedral(4)
    answers = torch.stack(
        [torch.cat([model(act(group, g, part)).argmax(-1) for part in images.split(128)]) for g in range(group.order)]
    )
    right = (answers == split.labels).float().mean(1)
    error = invariance_error(model.double(), images[:16].double(), group)
    model.float()
    return {
        "accuracy": right[0].item(),
        "accuracy_over_d4": right.mean().item(),
        "changed": (answers != answers[0]).any(0).float().mean().item(),
        "invariance_error": error,
    }


def turned(models: Mapping[str, nn.Module], split: Split) -> list[dict[str, Any]]:
    """A row for each network: what the elements of D4 do to its answers."""
    rows = []
    for name, model in models.items():
        found = under_turns(model, split)
        rows.append(
            {
                "network": name,
                "accuracy, flat": percent(found["accuracy"]),
                "over all of D4": percent(found["accuracy_over_d4"]),
                "answers changed by D4": percent(found["changed"]),
                "invariance error": found["invariance_error"],
            }
        )
    return rows


def turned_real(measured: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each network and augmentation, means over folds of the rows of benchmarks/real.py.

    The invariance error is the largest of all folds of both data sets.
    """
    rows = []
    for network, name in NETWORKS.items():
        for augment in AUGMENTATIONS:
            found = [row for row in measured if (row["network"], row["augmentation"]) == (network, augment)]
            cells = {
                f"{words}, answers changed": [row["changed"] for row in found if row["data"] == data]
                for data, words in DATA.items()
            }
            if found:
                rows.append(
                    {
                        "network": name,
                        "augmentation": AUGMENTATIONS[augment],
                        **{
                            key: f"{100 * sum(each) / len(each):.1f} %" if each else None for key, each in cells.items()
                        },
                        "invariance error": max(row["invariance_error"] for row in found),
                    }
                )
    return rows


@torch.no_grad()
def attention_before_and_after(
    model: ViT | HybridViT, image: Float[Tensor, "channel height width"], query: tuple[int, int], turn: int = 1
) -> tuple[Tensor, Tensor]:
    """Attention of the last block from one place, mean over heads and poses, before and after a quarter turn.

    query: row and column of the token in the upright image; after the turn, the token that shows the same place.
    Returns two maps (row, column).
    """
    group = dihedral(4)
    side = model.config.side
    place = torch.zeros(1, 1, side, side)
    place[0, 0, query[0], query[1]] = 1
    maps = []
    for g in (0, turn):
        with capture(model) as seen:
            model(act(group, g, image[None]))
        weights = list(seen.attention.values())[-1]  # (batch, …, query, key), with heads and poses between
        mean = weights.flatten(1, -3).mean(1)[0]
        index = int(act(group, g, place).flatten().argmax())
        maps.append(mean[index].reshape(side, side))
    return maps[0], maps[1]
