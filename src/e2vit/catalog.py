"""The list of experiments: name → model, data, training, seeds, expected result and cost.

The order is the order of want: what the book needs most is trained first.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from e2vit.fine_tuning import FineTuneConfig
from e2vit.groups import cyclic, dihedral, gevit_index, gsa_index
from e2vit.models import (
    GCNN,
    GCNNConfig,
    GroupAttentionNet,
    GroupAttentionNetConfig,
    HybridViT,
    HybridViTConfig,
    PooledHybrid,
    PooledHybridConfig,
    Symmetrized,
    SymmetrizedConfig,
    ViT,
    ViTConfig,
)
from e2vit.models.symmetrized import AGGREGATES, CONTROLS
from e2vit.training import TrainConfig


@dataclass(frozen=True)
class Experiment:
    """One line of the book's tables.

    expected:    test accuracy that a healthy run reaches (a fraction), for the reader and for a warning.
    gpu_minutes: cost of one seed on one H200-class GPU; cpu_minutes: on two CPU cores.
    """

    name: str
    about: str
    model: Any                      # a model configuration
    training: TrainConfig | FineTuneConfig
    data: str = "rotmnist"
    fraction: float = 1.0           # of the training split
    all_training: bool = False      # train on training and validation images; nothing is chosen then
    base: str | None = None         # the experiment whose checkpoint the model starts from
    watch_test: bool = False        # log the test curve, for the study of test-set selection alone
    seeds: int = 5
    expected: float | None = None
    gpu_minutes: float | int = 2.0
    cpu_minutes: float | int = 60.0

    def __post_init__(self):
        if self.all_training and self.training.keep != "last":
            raise ValueError(f"{self.name} trains on the validation images, so it can't choose an epoch by them")


MODELS: dict[type, type[nn.Module]] = {ViTConfig: ViT, HybridViTConfig: HybridViT,
                                           GroupAttentionNetConfig: GroupAttentionNet, GCNNConfig: GCNN,
                                           PooledHybridConfig: PooledHybrid}


def build(experiment: Experiment, seed: int, quick: bool = False) -> nn.Module:
    """The untrained model of an experiment; its initial weights come from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _built(experiment.model)


def _built(config: Any) -> nn.Module:
    if isinstance(config, SymmetrizedConfig):
        return Symmetrized(_built(config.model), config.group, config.aggregate, chunk=config.chunk,
                           interpolation=config.interpolation)
    return MODELS[type(config)](config)


_VIT = TrainConfig(epochs=140, learning_rate=1e-3, batch_size=64, average=0.999)

# All 12,000 training images and the last epoch: nothing is chosen on the way, so nothing can be chosen wrongly.
_HYBRID = TrainConfig(epochs=50, learning_rate=2e-3, batch_size=64, average=0.999, keep="last")

_ENTRIES = [
    Experiment("digits/vit", "a small ViT on the embedded digits: a first run that needs no download",
               ViTConfig(width=32, depth=2), TrainConfig(epochs=6, batch_size=50, average=0.9), data="digits", seeds=1,
               gpu_minutes=0.1, cpu_minutes=0.2),
    Experiment("rotmnist/hybrid-c4", "hybrid over C4: group convolutions, then tokens that keep their pose",
               HybridViTConfig(group=cyclic(4), stem=(8, 24, 32), width=32, heads=2, attention="within_pose"),
               _HYBRID, all_training=True, expected=0.985, cpu_minutes=40),
    Experiment("digits/hybrid-c4", "the same hybrid on the embedded digits: needs no download",
               HybridViTConfig(group=cyclic(4), stem=(8, 24, 32), width=32, heads=2, attention="within_pose"),
               TrainConfig(epochs=15, batch_size=32, learning_rate=2e-3, average=0.98), data="digits", seeds=1,
               gpu_minutes=0.2, cpu_minutes=1.5),
    Experiment("rotmnist/vit", "plain ViT, rotation-augmented", ViTConfig(), _VIT, expected=0.97, cpu_minutes=85),
    Experiment("mnist/vit", "plain ViT on upright digits, never rotated", ViTConfig(),
               TrainConfig(epochs=4, augment="none", average=0.998), data="mnist", expected=0.98, cpu_minutes=10),
]

# What the post-hoc chapter makes invariant afterwards, and how each base was trained before.
_BASES = [
    Experiment("rotmnist_upright/vit", "small plain ViT that never saw a turned digit, tested on turned ones",
               ViTConfig(width=64, depth=4), TrainConfig(epochs=20, batch_size=64, augment="none", average=0.999),
               data="rotmnist_upright", expected=0.4, gpu_minutes=1, cpu_minutes=8),
    Experiment("rotmnist/vit-tenth", "plain ViT, rotation-augmented, on a tenth of the training images", ViTConfig(),
               _VIT, fraction=0.1, expected=0.9, cpu_minutes=15),
    Experiment("rsscn7/vit", "plain ViT on aerial scenes, never turned",
               ViTConfig(image_size=64, channels=3, classes=7, patch_size=8),
               TrainConfig(epochs=60, batch_size=64, augment="none", average=0.99), data="rsscn7", cpu_minutes=10),
]
_ENTRIES += _BASES


def _convolutional() -> list[Experiment]:
    """Group convolutions, alone and in front of a transformer. The final runs; minutes are those of one CPU core."""
    c4 = next(entry.model for entry in _ENTRIES if entry.name == "rotmnist/hybrid-c4")
    plain = replace(_HYBRID, augment="none")
    tenth = replace(_HYBRID, epochs=100, batch_size=32)
    large = replace(c4, group=cyclic(8), stem=(16, 32, 40), width=40, heads=4, dropout=0.1)
    entries = {    # name -> what it is, model, training, further settings, minutes
        "rotmnist/hybrid-c4-tenth": ("the hybrid on a tenth of the training images", c4, tenth, {"fraction": 0.1}, 13),
        "rotmnist/gcnn-p4cnn": ("P4CNN of Cohen and Welling, rotation-augmented", GCNNConfig.p4cnn(), _HYBRID, {}, 20),
        "rotmnist/gcnn-z2cnn": ("its plain twin Z2CNN, rotation-augmented", GCNNConfig.z2cnn(), _HYBRID, {}, 12),
        "rotmnist/hybrid-c4-unaugmented": ("the hybrid, digits as they are", c4, plain, {}, 40),
        "rotmnist_upright/hybrid-c4": ("the hybrid that never saw a turned digit, tested on turned ones", c4,
                                       replace(plain, epochs=15), {"data": "rotmnist_upright"}, 12),
        "rotmnist/gcnn-modern": ("group convolutions all the way, rotation-augmented",
                                 GCNNConfig.modern(widths=(8, 24, 32, 32)), _HYBRID, {}, 35),
        "rotmnist/gcnn-p4cnn-unaugmented": ("P4CNN, digits as they are", GCNNConfig.p4cnn(), plain, {}, 20),
        "rotmnist/hybrid-c8": ("the hybrid over C8, filters off the grid",
                               replace(c4, group=cyclic(8), stem=(6, 16, 22), width=24), _HYBRID, {}, 70),
        "rotmnist/hybrid-c8-large": ("the hybrid over C8, wide, for a GPU", large,
                                     replace(_HYBRID, epochs=120), {}, 560),
        "rotmnist/hybrid-c8-large-unaugmented": ("the wide hybrid, digits as they are", large,
                                                 replace(plain, epochs=120), {}, 560),
        "rotmnist/patches-c4": ("4×4 patches lifted to C4, global attention over positions and poses",
                                replace(c4, stem=(32,), patch=4, depth=4, attention="joint"), _HYBRID, {}, 55),
        "rotmnist/pooled-patches": ("lifted patches averaged over C4, then group attention as in GE-ViT",
                                    PooledHybridConfig(replace(c4, stem=(32,), patch=4)), _HYBRID, {}, 60),
        "rotmnist/pooled-gcnn": ("group convolutions averaged over C4, then group attention as in GE-ViT",
                                 PooledHybridConfig(c4), _HYBRID, {}, 80),
    }
    return [Experiment(name, about, model, training, all_training=True, gpu_minutes=max(2, minutes / 15),
                       cpu_minutes=minutes, **settings)
            for name, (about, model, training, settings, minutes) in entries.items()]


def _ablations() -> list[Experiment]:
    """One thing changed at a time, in short runs of equal length; the best epoch is chosen on the validation images."""
    c4 = next(entry.model for entry in _ENTRIES if entry.name == "rotmnist/hybrid-c4")
    training = TrainConfig(epochs=12, learning_rate=2e-3, batch_size=64, average=0.998)
    entries = {    # name -> what differs, model, minutes
        "hybrid-c4": ("nothing: what the others are compared with", c4, 8),
        "stem-alone": ("no transformer blocks", replace(c4, depth=0), 5),
        "poses-pooled": ("the pose averaged away after the stem, and lifted again", replace(c4, poses="pooled"), 8),
        "plain-cnn": ("one pose: a plain CNN, then a plain transformer; as many parameters",
                      replace(c4, group=cyclic(1), stem=(14, 44, 58), width=58), 4),
        "vit": ("the plain ViT", ViTConfig(), 8),
        "absolute": ("absolute positions, which break equivariance", replace(c4, position="absolute"), 8),
        "no-position": ("attention without positions", replace(c4, position="none"), 8),
        "rotary": ("rotary positions turned with the pose", replace(c4, position="rotary"), 9),
        "joint": ("attention over positions and poses together", replace(c4, attention="joint"), 11),
        "joint-rotary": ("the same with rotary positions", replace(c4, attention="joint", position="rotary"), 13),
        "c8": ("45° steps, as much computation", replace(c4, group=cyclic(8), stem=(6, 16, 22), width=24), 14),
        "c16": ("22.5° steps, as much computation", replace(c4, group=cyclic(16), stem=(4, 12, 16), width=16), 27),
        "d4": ("mirrors too, though a mirrored digit may be another digit or none",
               replace(c4, group=dihedral(4), stem=(6, 16, 22), width=24), 14),
        "depth-1": ("one block", replace(c4, depth=1), 6),
        "depth-4": ("four blocks", replace(c4, depth=4), 11),
        "readout-mean": ("only the mean over poses", replace(c4, readout="mean"), 8),
        "readout-bispectrum": ("the bispectrum over poses", replace(c4, readout="bispectrum"), 8),
        "gcnn": ("group convolutions in place of the blocks", GCNNConfig.modern(widths=(8, 24, 32, 32)), 7),
        "unaugmented": ("digits as they are", c4, 8),
    }
    return [Experiment(f"ablation/{name}", f"ablation of the hybrid: {about}", model,
                       replace(training, augment="none") if name == "unaugmented" else training, seeds=3, gpu_minutes=1,
                       cpu_minutes=minutes) for name, (about, model, minutes) in entries.items()]


def _group_attention() -> list[Experiment]:
    """GSA-Net, GE-ViT, the corrected and the plain network, by the released recipe save where that is slow or blind:
    value dropout alone, bf16 or float32 throughout, and the epoch chosen on the validation images."""
    released = TrainConfig(epochs=40, batch_size=32, learning_rate=1e-3, schedule="constant", warmup_epochs=0,
                           weight_decay=1e-4, optimizer="adam", augment="none", clip=None)
    nets = {    # name -> what it is, model, cost of one epoch on 10,000 images in minutes of one CPU core
        "gsa-c4": ("GSA-Net over C4", GroupAttentionNetConfig(index=gsa_index), 25),
        "gevit-c4": ("GE-ViT over C4", GroupAttentionNetConfig(index=gevit_index), 25),
        "corrected-c4": ("group attention over C4 with the index of g⁻¹m and sound positions",
                         GroupAttentionNetConfig.sound(), 25),
        "attention-z2": ("self-attention without a group, as released", GroupAttentionNetConfig(group=cyclic(1)), 3),
        "gevit-d4": ("GE-ViT over D4, whose index is broken",
                     GroupAttentionNetConfig(group=dihedral(4), index=gevit_index, window=5), 60),
        "corrected-d4": ("group attention over D4 with the index of g⁻¹m",
                         GroupAttentionNetConfig.sound(group=dihedral(4), window=5), 60),
    }
    entries = []
    for name, (about, model, minutes) in nets.items():
        entries.append(Experiment(f"rotmnist/{name}", about, model, released, seeds=3, gpu_minutes=max(1, minutes / 4),
                                  cpu_minutes=minutes * released.epochs))
        entries.append(Experiment(f"rotmnist/{name}-tenth", f"{about}, on a tenth of the training images", model,
                                  replace(released, epochs=8, batch_size=8), fraction=0.1, seeds=3,
                                  gpu_minutes=max(0.5, minutes / 20), cpu_minutes=minutes))
    return entries


def _weaknesses() -> list[Experiment]:
    """Data efficiency, and what choosing the epoch on the test split is worth."""
    c4 = next(entry.model for entry in _ENTRIES if entry.name == "rotmnist/hybrid-c4")
    nets = {    # name -> what it is, model, CPU minutes of 1,000 updates
        "hybrid-c4": ("the hybrid over C4", c4, 4),
        "plain-cnn": ("its twin without poses: a plain CNN, then a plain transformer",
                      replace(c4, group=cyclic(1), stem=(14, 44, 58), width=58), 3),
        "p4cnn": ("group convolutions over C4", GCNNConfig.p4cnn(), 3),
        "z2cnn": ("plain convolutions", GCNNConfig.z2cnn(), 2),
    }
    # The same 1,000 updates for every share of the data, so that a small share means more passes, not less training.
    budget = TrainConfig(epochs=10, updates_per_epoch=100, learning_rate=2e-3, batch_size=64, average=0.99, keep="last")
    entries = [Experiment(f"fraction/{name}-{100 * fraction:g}", f"{about}, {100 * fraction:g} % of the training images",
                          model, budget, fraction=fraction, seeds=3, gpu_minutes=0.3, cpu_minutes=minutes)
               for fraction in (0.01, 0.03, 0.1, 0.3, 1.0) for name, (about, model, minutes) in nets.items()]
    # As released: a constant rate, no augmentation, no average of the weights. Only the choice of the epoch is studied.
    released = TrainConfig(epochs=40, learning_rate=1e-3, schedule="constant", warmup_epochs=0, batch_size=64,
                           weight_decay=1e-4, optimizer="adam", augment="none", clip=None)
    entries += [Experiment(f"selection/{name}", f"{nets[name][0]}, a tenth of the images; the test curve is recorded apart",
                           nets[name][1], released, fraction=0.1, watch_test=True, seeds=5, gpu_minutes=1, cpu_minutes=8)
                for name in ("z2cnn", "p4cnn")]
    return entries


_ENTRIES += _group_attention() + _convolutional() + _ablations() + _weaknesses()


def _post_hoc() -> list[Experiment]:
    """Every aggregate, in every regime, on every base: post_hoc/<setting>/<regime>/<aggregate>.

    Within a setting all start from the same checkpoint, see the same views and choose among the same learning rates.
    What has parameters of its own has nothing to say without fine-tuning: it starts as the feature mean.
    10,000 test images with 16 views each are 160,000 passes: what a laptop can do, and enough to see half a percent.
    """
    settings = {    # name -> base, group, views between the pixels, augmentation when every weight may move
        "rotated": ("rotmnist/vit", cyclic(16), "bilinear", "rotation"),
        "upright": ("rotmnist_upright/vit", cyclic(16), "bilinear", "none"),
        "tenth": ("rotmnist/vit-tenth", cyclic(16), "bilinear", "rotation"),
        "aerial": ("rsscn7/vit", dihedral(4), None, "none"),
    }
    untrained = [name for name, aggregate in AGGREGATES.items() if not isinstance(aggregate, type) or name == "frame"]
    names = {"none": untrained, "head": [*AGGREGATES, *CONTROLS], "all": [*AGGREGATES, *CONTROLS]}
    entries = []
    for regime, aggregates in names.items():
        for setting, (base_name, group, interpolation, augment) in settings.items():
            base = next(entry for entry in _ENTRIES if entry.name == base_name)
            training = {
                "none": FineTuneConfig("none", test_images=10_000),
                "head": FineTuneConfig("head", epochs=10, rates=(3e-4, 1e-3, 3e-3), test_images=10_000),
                "all": FineTuneConfig("all", epochs=10, rates=(3e-5, 1e-4, 3e-4), augment=augment, test_images=10_000),
            }[regime]
            entries += [Experiment(
                f"post_hoc/{setting}/{regime}/{name}",
                f"{base_name} made invariant by {name.replace('_', ' ')}; fine-tuned: {regime}",
                SymmetrizedConfig(base.model, group, name, interpolation, chunk=1600), training, data=base.data,
                fraction=base.fraction, base=base_name, seeds=1 if regime == "none" else 3,
                gpu_minutes={"none": 0.2, "head": 0.5, "all": 4}[regime],
                cpu_minutes={"none": 1, "head": 2, "all": 400}[regime]) for name in aggregates]
    return entries


_ENTRIES += _post_hoc()

EXPERIMENTS: dict[str, Experiment] = {entry.name: entry for entry in _ENTRIES}
