"""The list of experiments: name → model, data, training and seeds.

Sorted by priority: the runs the book needs most come first. Accuracy and cost are those of the records; ``python -m
e2vit list`` shows both.
"""

from dataclasses import replace
from typing import Any

from e2vit.experiments.experiment import Experiment, build
from e2vit.experiments.real import real
from e2vit.groups import cyclic, dihedral, gevit_index, gsa_index
from e2vit.models import (
    GCNNConfig,
    GroupAttentionNetConfig,
    HybridViTConfig,
    PooledHybridConfig,
    SymmetrizedConfig,
    ViTConfig,
)
from e2vit.models.symmetrized import AGGREGATES, CONTROLS
from e2vit.training.config import TrainConfig
from e2vit.training.fine_tuning import FineTuneConfig

__all__ = ["EXPERIMENTS", "Experiment", "build"]

C1, C4, C8, C16, D4 = cyclic(1), cyclic(4), cyclic(8), cyclic(16), dihedral(4)

# All 12,000 training images and the last epoch: nothing is chosen on the way, so nothing can be chosen wrongly.
FINAL = TrainConfig(epochs=50, learning_rate=2e-3, batch_size=64, average=0.999, keep="last")
UPRIGHT = replace(FINAL, augment="none")
MUON = TrainConfig(epochs=80, learning_rate=3e-3, batch_size=64, average=0.999, optimizer="muon")
# As the official networks are trained: a constant rate, neither augmentation nor an average of the weights.
OFFICIAL = TrainConfig(
    epochs=12,
    batch_size=32,
    learning_rate=1e-3,
    schedule="constant",
    warmup_epochs=0,
    weight_decay=1e-4,
    optimizer="adam",
    augment="none",
    clip=None,
)
VIT = ViTConfig(initial_position="sinusoidal", token_dropout=0.3)
SMALL_VIT = ViTConfig(width=64, depth=4)
HYBRID = HybridViTConfig(group=C4, stem=(8, 24, 32), width=32, heads=2, attention="within_pose")
PLAIN_TWIN = replace(HYBRID, group=C1, stem=(14, 44, 58), width=58)  # one pose, as many parameters
GCNN = GCNNConfig.modern(widths=(8, 24, 32, 32))
P4CNN, Z2CNN = GCNNConfig.p4cnn(), GCNNConfig.z2cnn()


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
        _final("hybrid-c4", "hybrid over C4: group convolutions, then tokens that keep their pose", HYBRID, seeds=5),
    ]


def _ablations() -> list[Experiment]:
    """One thing changed at a time, in short runs of equal length; the best epoch is chosen on the validation images."""
    training = TrainConfig(epochs=12, learning_rate=2e-3, batch_size=64, average=0.998)
    models = {  # name -> what differs, model
        "hybrid-c4": ("nothing: what the others are compared with", HYBRID),
        "stem-alone": ("no transformer blocks", replace(HYBRID, depth=0)),
        "poses-pooled": ("the pose averaged away after the stem, and lifted again", replace(HYBRID, poses="pooled")),
        "plain-cnn": ("one pose: a plain CNN, then a plain transformer; as many parameters", PLAIN_TWIN),
        "vit": ("the plain ViT", ViTConfig()),
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
    return [
        Experiment(
            f"ablation/{name}",
            f"ablation of the hybrid: {about}",
            model,
            replace(training, augment="none") if name == "unaugmented" else training,
            setting="ablation",
            network=name,
        )
        for name, (about, model) in models.items()
    ]


def _transformers() -> list[Experiment]:
    """The plain ViT, and what the post-hoc chapter makes invariant afterwards."""
    return [
        Experiment("rotmnist/vit", "plain ViT, rotation-augmented", VIT, MUON, network="vit"),
        Experiment(
            "mnist/vit",
            "plain ViT on upright digits, never rotated",
            ViTConfig(),
            TrainConfig(epochs=4, augment="none", average=0.998),
            data="mnist",
            network="vit",
        ),
        Experiment(
            "rotmnist_upright/vit",
            "small plain ViT trained on upright digits, tested on rotated ones",
            SMALL_VIT,
            TrainConfig(epochs=20, batch_size=64, augment="none", average=0.999),
            data="rotmnist_upright",
            network="vit",
        ),
        Experiment(
            "rotmnist/vit-tenth",
            "small plain ViT, rotation-augmented, on a tenth of the training images",
            replace(VIT, width=64, depth=4),
            replace(MUON, epochs=300, average=0.99),
            fraction=0.1,
            network="vit",
        ),
        Experiment(
            "rsscn7/vit",
            "plain ViT on aerial scenes, never rotated",
            ViTConfig(image_size=64, in_channels=3, classes=7, patch_size=8),
            TrainConfig(epochs=60, batch_size=64, augment="none", average=0.99),
            data="rsscn7",
            network="vit",
        ),
    ]


# One of each kind of aggregate when every weight moves: averaging before and after the head, the most certain view,
# learned weights of either kind, one that uses the order of the views, one that rotates the image first.
FINE_TUNED = (
    "mean_logits",
    "most_certain",
    "feature_mean",
    "learned_mean",
    "learned_attention",
    "orbit_convolution",
    "canonical_learned",
)


def _post_hoc(bases: list[Experiment]) -> list[Experiment]:
    """Every aggregate on every base, in up to three regimes: post_hoc/<setting>/<regime>/<method>.

    Within a setting all start from the same checkpoint, see the same views and choose among the same learning rates.
    Aggregates with parameters of their own start as the feature mean, so they need fine-tuning. 10,000 test images with
    16 views each are 160,000 passes: enough to see half a percent. Methods are compared in pairs on the same images by
    McNemar's test. A last layer is trained with three seeds, since the features of the views are computed once; moving
    every weight costs 16 times an ordinary run, so there a few aggregates stand for all, one seed each, in four epochs.
    """
    settings = {  # name -> base, group, interpolation, augmentation when every weight moves
        "rotated": ("rotmnist/vit", C16, "bilinear", "rotation"),
        "upright": ("rotmnist_upright/vit", C16, "bilinear", "none"),
        "tenth": ("rotmnist/vit-tenth", C16, "bilinear", "rotation"),
        "aerial": ("rsscn7/vit", D4, None, "none"),
    }
    training = {
        "none": FineTuneConfig("none", test_images=10_000),
        "head": FineTuneConfig("head", epochs=10, rates=(3e-4, 1e-3, 3e-3), test_images=10_000),
        "all": FineTuneConfig("all", epochs=4, rates=(3e-5, 1e-4, 3e-4), test_images=10_000),
    }
    untrained = [name for name, aggregate in AGGREGATES.items() if not isinstance(aggregate, type) or name == "frame"]
    methods = {"none": untrained, "head": [*AGGREGATES, *CONTROLS], "all": FINE_TUNED}
    of_name = {base.name: base for base in bases}
    return [
        Experiment(
            f"post_hoc/{setting}/{regime}/{method}",
            f"{base} made invariant by {method.replace('_', ' ')}; fine-tuned: {regime}",
            SymmetrizedConfig(of_name[base].model, group, method, interpolation, chunk=1600),
            replace(training[regime], augment=augment) if regime == "all" else training[regime],
            data=of_name[base].data,
            fraction=of_name[base].fraction,
            base=base,
            setting=setting,
            regime=regime,
            method=method,
            network="vit",
            seeds=3 if regime == "head" else 1,
        )
        for regime in methods
        for setting, (base, group, interpolation, augment) in settings.items()
        for method in methods[regime]
    ]


def _group_attention() -> list[Experiment]:
    """GSA-Net, GE-ViT, the corrected and the plain network, by the official recipe but for cost: value dropout alone,
    float32 or bf16, the epoch chosen on the validation images, 12 epochs instead of 300, or 8 on a tenth of the images.
    """
    sound, official = GroupAttentionNetConfig.sound, GroupAttentionNetConfig
    nets = {  # name -> what it is, model
        "corrected-c4": ("group attention over C4 with the index of g⁻¹m and sound positions (chapter 3)", sound()),
        "gevit-c4": ("GE-ViT over C4", official(index=gevit_index)),
        "gsa-c4": ("GSA-Net over C4", official(index=gsa_index)),
        "attention-z2": ("self-attention without a group, as released", official(group=C1)),
        "corrected-d4": ("group attention over D4 with the index of g⁻¹m", sound(group=D4, window=5)),
        "gevit-d4": ("GE-ViT over D4, whose index is broken", official(group=D4, index=gevit_index, window=5)),
    }
    tenth: dict[str, Any] = {"epochs": 8, "batch_size": 8, "validation_images": 500, "test_images": 5_000}
    of_tenth = "on a tenth of the training images"
    entries = []
    for name, (about, model) in nets.items():
        if "d4" not in name:
            entries.append(Experiment(f"rotmnist/{name}", about, model, OFFICIAL, network=name))
    for name, (about, model) in nets.items():
        entries.append(
            Experiment(
                f"rotmnist/{name}-tenth",
                f"{about}, {of_tenth}",
                model,
                replace(OFFICIAL, **tenth),
                fraction=0.1,
                network=name,
                seeds=1 if "d4" in name else 3,
            )
        )
    for name, about, group in (
        ("attention-z2", "self-attention without a group", C1),
        ("corrected-c4", "group attention over C4", C4),
    ):
        entries.append(
            Experiment(
                f"rotmnist/{name}-tenth-tuned",
                f"{about}, sound positions (chapter 3), {of_tenth}, trained as the ViT is",
                sound(group=group),
                replace(MUON, warmup_epochs=0.5, average=0.99, **tenth),
                fraction=0.1,
                network=name,
            )
        )
    return entries


def _equal_terms() -> list[Experiment]:
    """Four attention networks that differ in their group or index table alone, one recipe for all; and how the recipe
    was chosen: the network without a group, a quarter of the epochs, the validation images."""
    sound = GroupAttentionNetConfig.sound(window=5)
    nets = {  # name -> what it is, model
        "plain": ("self-attention without a group", replace(sound, group=C1)),
        "cayley": ("group attention over C4 with the index of g⁻¹m", replace(sound, group=C4)),
        "gevit": ("group attention over C4 with GE-ViT's index table", replace(sound, group=C4, index=gevit_index)),
        "gsa": ("group attention over C4 with GSA-Nets' index table", replace(sound, group=C4, index=gsa_index)),
    }
    recipe = replace(MUON, epochs=20, batch_size=16, warmup_epochs=0.5, average=0.99, augment="none")
    trials: dict[str, dict[str, Any]] = {  # name -> what differs from the recipe
        "chosen": {},
        "rate-1e-3": {"learning_rate": 1e-3},
        "rate-1e-2": {"learning_rate": 1e-2},
        "adamw": {"optimizer": "adamw"},
        "batch-32": {"batch_size": 32},
        "average-999": {"average": 0.999},
        "constant": {"schedule": "constant"},
    }
    terms = "sound positions, window 5, all training images"
    return [
        *(
            Experiment(f"attention/{name}", f"{about}, {terms}", model, recipe, setting="attention", network=name)
            for name, (about, model) in nets.items()
        ),
        *(
            Experiment(
                f"attention_recipe/{name}",
                "a trial of the recipe: self-attention without a group, 4 epochs",
                nets["plain"][1],
                replace(recipe, epochs=4, test_images=500, **changes),
                setting="attention_recipe",
                method=name,
                network="plain",
                seeds=1,
            )
            for name, changes in trials.items()
        ),
    ]


def _convolutional() -> list[Experiment]:
    """Group convolutions, alone and in front of a transformer: the final runs.

    The slower controls (lifted patches, averaged poses) have one seed: their question is one of whole points.
    """
    patches = replace(HYBRID, stem=(32,), patch=4)
    lifted = replace(patches, depth=4, attention="joint")
    return [
        _final("gcnn-p4cnn", "P4CNN of Cohen and Welling, rotation-augmented", P4CNN),
        _final("gcnn-z2cnn", "its plain twin Z2CNN, rotation-augmented", Z2CNN),
        _final("hybrid-c4-unaugmented", "the hybrid, digits as they are", HYBRID, UPRIGHT, network="hybrid-c4"),
        _final(
            "hybrid-c4-tenth",
            "the hybrid on a tenth of the training images",
            HYBRID,
            replace(FINAL, epochs=100, batch_size=32),
            network="hybrid-c4",
            fraction=0.1,
        ),
        Experiment(
            "rotmnist_upright/hybrid-c4",
            "the hybrid trained on upright digits, tested on rotated ones",
            HYBRID,
            replace(UPRIGHT, epochs=15),
            data="rotmnist_upright",
            all_training=True,
            network="hybrid-c4",
        ),
        _final("gcnn-modern", "group convolutions all the way, rotation-augmented", GCNN, seeds=2),
        _final("gcnn-p4cnn-unaugmented", "P4CNN, digits as they are", P4CNN, UPRIGHT, network="gcnn-p4cnn", seeds=2),
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
    """The same 1,000 updates for every fraction of the data: a small one means more passes, not less training."""
    nets = {  # name -> what it is, model
        "hybrid-c4": ("the hybrid over C4", HYBRID),
        "plain-cnn": ("its twin without poses: a plain CNN, then a plain transformer", PLAIN_TWIN),
        "p4cnn": ("group convolutions over C4", P4CNN),
        "z2cnn": ("plain convolutions", Z2CNN),
    }
    updates = TrainConfig(
        epochs=10, updates_per_epoch=100, learning_rate=2e-3, batch_size=64, average=0.99, keep="last"
    )
    return [
        Experiment(
            f"fraction/{name}-{100 * fraction:g}",
            f"{about}, {100 * fraction:g} % of the training images",
            model,
            updates,
            fraction=fraction,
            setting="data_efficiency",
            network=name,
        )
        for fraction in (0.01, 0.03, 0.1, 0.3, 1.0)
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
    c8, small = replace(HYBRID, group=C8), {"stem": (6, 16, 22), "width": 24}
    large = {"stem": (16, 32, 40), "width": 40, "heads": 4, "dropout": 0.1}
    return [
        _final("hybrid-c8-wide", "the hybrid over C8 at the widths of the one over C4", c8),
        _final("hybrid-c16", "the hybrid over C16", replace(HYBRID, group=C16, stem=(8, 16, 24)), seeds=1),
        _final("hybrid-c8", "the hybrid over C8, filters off the grid", replace(c8, **small), seeds=2),
        _final("hybrid-c8-large", "the hybrid over C8, wide, for a GPU", replace(c8, **large), seeds=1),
    ]


_BASES = _transformers()
EXPERIMENTS: dict[str, Experiment] = {
    entry.name: entry
    for entry in [
        *_first(),
        *_ablations(),
        *_BASES,
        *_post_hoc(_BASES),
        *_group_attention(),
        *_equal_terms(),
        *_convolutional(),
        *_data_efficiency(),
        *_test_selection(),
        *_larger_groups(),
        *real(),
    ]
}
