"""The list of experiments: name → model, data, training and seeds.

Sorted by priority: the runs the book needs most come first. Accuracy and cost are those of the records; ``python -m
e2vit list`` shows both.
"""

from dataclasses import replace
from typing import Any

from e2vit.experiments.attention import group_attention, trained_alike
from e2vit.experiments.experiment import Experiment, build
from e2vit.experiments.post_hoc import post_hoc
from e2vit.experiments.real import real
from e2vit.experiments.recipes import (
    C8,
    C16,
    D4,
    FINAL,
    GCNN,
    HYBRID,
    MUON,
    OFFICIAL,
    P4CNN,
    PLAIN_TWIN,
    SMALL_VIT,
    UPRIGHT,
    VIT,
    Z2CNN,
)
from e2vit.models import PooledHybridConfig, ViTConfig
from e2vit.training.config import TrainConfig

__all__ = ["EXPERIMENTS", "Experiment", "build"]


def _final(name: str, about: str, model: Any, training: TrainConfig = FINAL, **fields: Any) -> Experiment:
    """A final run on rotated digits, with validation images and without a choice."""
    fields = {"network": name} | fields
    return Experiment(f"rotmnist/{name}", about, model, training, all_training=True, **fields)


def _first() -> list[Experiment]:
    """Two first runs of a minute on one thread that need no download, and the hybrid that the book is about."""
    short = TrainConfig(epochs=15, batch_size=32, learning_rate=2e-3, average=0.98)
    muon = replace(MUON, epochs=30, batch_size=50, warmup_epochs=2, average=0.98, augment="none")
    digits: dict[str, Any] = {"data": "digits", "seeds": 1, "expected": 0.95}
    return [
        Experiment("digits/vit", "a small ViT on the embedded digits", SMALL_VIT, muon, network="vit", **digits),
        Experiment(
            "digits/hybrid-c4", "the hybrid on the embedded digits", HYBRID, short, network="hybrid-c4", **digits
        ),
        _final("hybrid-c4", "hybrid over C4: group convolutions, then tokens that keep their pose", HYBRID),
    ]


def _ablations() -> list[Experiment]:
    """One thing changed at a time, in short runs of equal length; the best epoch is chosen on the validation images."""
    training = TrainConfig(epochs=12, learning_rate=2e-3, batch_size=64, average=0.998)
    models = {  # name -> what differs, model
        "hybrid-c4": ("nothing: what the others are compared with", HYBRID),
        "stem-alone": ("no transformer blocks", replace(HYBRID, depth=0)),
        "poses-pooled": ("the pose averaged away after the stem, and lifted again", replace(HYBRID, poses="pooled")),
        "plain-cnn": ("one pose: a plain CNN, then a plain transformer; as many parameters", PLAIN_TWIN),
        "absolute": ("absolute positions, which break equivariance", replace(HYBRID, position="absolute")),
        "no-position": ("attention without positions", replace(HYBRID, position="none")),
        "rotary": ("rotary positions turned with the pose", replace(HYBRID, position="rotary")),
        "joint": ("attention over positions and poses together", replace(HYBRID, attention="joint")),
        "c8": ("45° steps, as much computation", replace(HYBRID, group=C8, stem=(6, 16, 22), width=24)),
        "d4": (
            "mirrors too, though a mirrored digit may be another digit or none",
            replace(HYBRID, group=D4, stem=(6, 16, 22), width=24),
        ),
        "depth-1": ("one block", replace(HYBRID, depth=1)),
        "depth-4": ("four blocks", replace(HYBRID, depth=4)),
        "readout-mean": ("only the mean over poses", replace(HYBRID, readout="mean")),
        "gcnn": ("group convolutions in place of the blocks", GCNN),
        "unaugmented": ("digits as they are", HYBRID),
    }
    argued = ("hybrid-c4", "stem-alone", "poses-pooled", "plain-cnn", "absolute", "readout-mean", "gcnn")  # chapter 5
    return [
        Experiment(
            f"ablation/{name}",
            f"ablation of the hybrid: {about}",
            model,
            replace(training, augment="none") if name == "unaugmented" else training,
            setting="ablation",
            network=name,
            seeds=3 if name in argued else 1,
        )
        for name, (about, model) in models.items()
    ]


def _bases() -> list[Experiment]:
    """What the post-hoc chapter starts from: plain ViTs, and the hybrid that has seen upright digits only."""
    plain = TrainConfig(epochs=4, augment="none", average=0.998)
    small = replace(plain, epochs=20, batch_size=64, average=0.999)
    aerial = ViTConfig(image_size=64, in_channels=3, classes=7, patch_size=8)
    few = replace(MUON, epochs=300, average=0.99)
    return [
        _vit("rotmnist", "plain ViT, rotation-augmented", VIT, MUON),
        _vit("mnist", "plain ViT on upright digits, never rotated", ViTConfig(), plain, seeds=1),
        _vit("rotmnist_upright", "small plain ViT trained on upright digits, tested on rotated ones", SMALL_VIT, small),
        _vit(
            "rotmnist",
            "small plain ViT, rotation-augmented, on a tenth of the training images",
            replace(VIT, width=64, depth=4),
            few,
            "-tenth",
            fraction=0.1,
            seeds=1,
        ),
        _vit(
            "rsscn7",
            "plain ViT on aerial scenes, never rotated",
            aerial,
            replace(small, epochs=60, average=0.99),
            seeds=1,
        ),
        Experiment(
            "rotmnist_upright/hybrid-c4",
            "the hybrid trained on upright digits, tested on rotated ones",
            HYBRID,
            replace(UPRIGHT, epochs=15),
            data="rotmnist_upright",
            network="hybrid-c4",
            seeds=1,
        ),
    ]


def _vit(data: str, about: str, model: ViTConfig, training: TrainConfig, ending: str = "", **fields: Any) -> Experiment:
    return Experiment(f"{data}/vit{ending}", about, model, training, data, network="vit", **fields)


def _convolutional() -> list[Experiment]:
    """Group convolutions, alone and in front of a transformer: the final runs.

    The slower controls (lifted patches, averaged poses) have one seed: their question is one of whole points.
    """
    patches = replace(HYBRID, stem=(32,), patch=4)
    lifted = replace(patches, depth=4, attention="joint")
    return [
        _final("gcnn-p4cnn", "P4CNN of Cohen and Welling, rotation-augmented", P4CNN),
        _final("gcnn-z2cnn", "its plain twin Z2CNN, rotation-augmented", Z2CNN),
        _final(
            "hybrid-c4-unaugmented", "the hybrid, digits as they are", HYBRID, UPRIGHT, network="hybrid-c4", seeds=1
        ),
        _final(
            "hybrid-c4-tenth",
            "the hybrid on a tenth of the training images",
            HYBRID,
            replace(FINAL, epochs=100, batch_size=32),
            network="hybrid-c4",
            fraction=0.1,
            seeds=1,
        ),
        _final("patches-c4", "4×4 patches lifted to C4, attention over positions and poses", lifted, seeds=1),
        _final(
            "pooled-patches",
            "lifted patches averaged over C4, then group attention as in GE-ViT",
            PooledHybridConfig(patches),
            seeds=1,
        ),
        _final(
            "pooled-gcnn",
            "group convolutions averaged over C4, then group attention as in GE-ViT",
            PooledHybridConfig(HYBRID),
            seeds=1,
        ),
    ]


def _data_efficiency() -> list[Experiment]:
    """Two networks over C4 and their twins without poses, without dropout, each trained until its validation accuracy
    no longer rises: the rate falls to zero over enough updates, and a test looks at the end of every curve."""
    nets = {  # name -> what it is, model
        "hybrid-c4": ("the hybrid over C4", HYBRID),
        "plain-cnn": ("its twin without poses: a plain CNN, then a plain transformer", PLAIN_TWIN),
        "p4cnn": ("group convolutions over C4", P4CNN),
        "z2cnn": ("plain convolutions", replace(Z2CNN, dropout=0.0)),
    }
    updates = {0.01: 1_500, 0.1: 3_000, 1.0: 5_000}  # share of the training images -> updates
    training = TrainConfig(epochs=20, warmup_epochs=1, learning_rate=2e-3, batch_size=64, average=0.99, keep="last")
    return [
        Experiment(
            f"fraction/{name}-{100 * fraction:g}",
            f"{about}, {100 * fraction:g} % of the training images",
            model,
            replace(training, updates_per_epoch=count // 20),
            fraction=fraction,
            setting="data_efficiency",
            network=name,
            seeds=2,
        )
        for fraction, count in updates.items()
        for name, (about, model) in nets.items()
    ]


def _test_selection() -> list[Experiment]:
    """What choosing the epoch on the test split is worth: the official recipe, five seeds of two small networks, since
    the effect may be smaller than the spread of seeds."""
    return [
        Experiment(
            f"selection/{name}",
            f"{about}, a tenth of the images; the test curve is recorded apart",
            model,
            replace(OFFICIAL, epochs=40, batch_size=8, test_images=10_000),
            fraction=0.1,
            watch_test=True,
            setting="selection",
            network=name,
            seeds=5,
        )
        for name, about, model in (
            ("z2cnn", "plain convolutions", Z2CNN),
            ("p4cnn", "group convolutions over C4", P4CNN),
        )
    ]


def _larger_groups() -> list[Experiment]:
    """Beyond quarter turns."""
    return [
        _final("hybrid-c8-wide", "the hybrid over C8 at the same widths", replace(HYBRID, group=C8), seeds=1),
        _final("hybrid-c16", "the hybrid over C16", replace(HYBRID, group=C16, stem=(8, 16, 24)), seeds=1),
    ]


_BASES = _bases()
EXPERIMENTS: dict[str, Experiment] = {
    entry.name: entry
    for entry in [
        *_first(),
        *_ablations(),
        *_BASES,
        *post_hoc(_BASES),
        *group_attention(),
        *trained_alike(),
        *_convolutional(),
        *_data_efficiency(),
        *_test_selection(),
        *_larger_groups(),
        *real(),
    ]
}
