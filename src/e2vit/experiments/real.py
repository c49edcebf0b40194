"""Experiments on real images without an up: galaxies and land, five folds each, run k on fold k.

    real/<data>/<network>/<augmentation>-<percent of the training images>
    real_recipe/rsscn7/<network>-<learning rate>

Every network gets about half a minute of one thread, whatever the share of the images: the number of updates follows
from its speed. One setting was chosen for each network, the learning rate, out of the same three, on the validation
images of fold 0 of the aerial scenes, with all training images, augmentation by D4 and a third of the updates; the 79
validation galaxies are too few to choose by. For the same reason the last epoch is kept, not the best one. Weights are
not averaged: in runs this short an average drags its first statistics of batch norms along.
"""

from typing import Any

from e2vit.experiments.experiment import Experiment
from e2vit.groups import cyclic, dihedral
from e2vit.models import GCNNConfig, HybridViTConfig, OcticViTConfig, SymmetrizedConfig, ViTConfig
from e2vit.training.config import TrainConfig
from e2vit.training.fine_tuning import FineTuneConfig

SHAPES: dict[str, dict[str, Any]] = {
    "mirabest": {"image_size": 64, "in_channels": 1, "classes": 2},
    "rsscn7": {"image_size": 64, "in_channels": 3, "classes": 7},
}
CELLS = (  # what a training image undergoes ("dihedral": any angle, mirrored), and the share of the training images
    ("d4", 1.0),
    ("d4", 0.1),
    ("d4", 1 / 3),
    ("none", 0.1),
    ("none", 1.0),
    ("dihedral", 1.0),
)
AUGMENTED = ("hybrid-d4", "vit", "cnn")  # the networks whose augmentations are compared
RATES = (1e-3, 3e-3, 1e-2)
CHOSEN = {  # the rate with the best validation accuracy under real_recipe; the hybrid over D8 takes that over D4
    "hybrid-d4": 1e-3,
    "hybrid-d8": 1e-3,
    "vit": 1e-3,
    "octic-d4": 3e-3,
    "cnn": 3e-3,
    "gcnn-d4": 3e-3,
}


def networks(data: str) -> dict[str, tuple[str, Any, int]]:
    """name -> what it is, model, updates. D8 is for galaxies alone, whose corners are empty."""
    shape, d4 = SHAPES[data], dihedral(4)
    hybrid: dict[str, Any] = {"kernel": 3, "attention": "within_pose", "depth": 2, "heads": 2}
    cnn: dict[str, Any] = {"kernel": 3, "same_size": True, "pool_after": (1, 2, 3), "readout": "mean_max"}
    found = {
        "hybrid-d4": (
            "hybrid over D4",
            HybridViTConfig(group=d4, stem=(2, 6, 12, 16), width=16, **hybrid, **shape),
            500,
        ),
        "vit": ("plain ViT", ViTConfig(patch_size=8, width=96, depth=4, **shape), 900),
        "octic-d4": (
            "ViT in irreducible coordinates of D4",
            OcticViTConfig(patch_size=8, width=192, depth=4, heads=6, **shape),
            400,
        ),
        "cnn": (
            "plain CNN",
            GCNNConfig(group=cyclic(1), widths=(12, 24, 48, 48, 48), **cnn, **shape),
            1500,
        ),
        "gcnn-d4": (
            "group convolutions over D4",
            GCNNConfig(group=d4, widths=(2, 6, 12, 16, 16), **cnn, **shape),
            800,
        ),
    }
    if data == "mirabest":
        found["hybrid-d8"] = (
            "hybrid over D8",
            HybridViTConfig(group=dihedral(8), stem=(2, 4, 8, 12), width=12, **hybrid, **shape),
            300,
        )
    return found


def recipe(updates: int, learning_rate: float, augment: str) -> TrainConfig:
    return TrainConfig(
        epochs=5,
        updates_per_epoch=updates // 5,
        batch_size=16,
        learning_rate=learning_rate,
        warmup_epochs=0.5,
        augment=augment,
        keep="last",
    )


def real() -> list[Experiment]:
    """In the order of want. All networks are compared under augmentation by D4, for three shares of the images. The
    hybrid and the plain networks are compared under the other augmentations too: with all of the images, and without
    any augmentation with a tenth as well, where built-in symmetry should matter most. (A network invariant to D4 is
    trained alike with and without augmentation by D4; one of them, the hybrid, shows it.)
    """
    trials = [
        Experiment(
            f"real_recipe/rsscn7/{network}-{rate:g}",
            f"a trial of the learning rate {rate:g}: {about} on fold 0",
            model,
            recipe(updates // 3, rate, "d4"),
            data="rsscn7/fold{seed}",
            setting="real_recipe/rsscn7",
            network=network,
            method=f"{rate:g}",
            seeds=1,
        )
        for network, (about, model, updates) in networks("rsscn7").items()
        for rate in RATES
    ]
    runs = [
        Experiment(
            f"real/{data}/{network}/{augment}-{100 * fraction:.0f}",
            f"{about}, {100 * fraction:.0f} % of the training images, augmentation: {augment}",
            model,
            recipe(updates, CHOSEN[network], augment),
            data=f"{data}/fold{{seed}}",
            fraction=fraction,
            setting=f"real/{data}",
            network=network,
            method=augment,
            seeds=5,
        )
        for augment, fraction in CELLS
        for data in SHAPES
        for network, (about, model, updates) in networks(data).items()
        if augment == "d4" or network in AUGMENTED
    ]
    return trials + runs + [_averaged(run) for run in runs if run.network == "vit"]


def _averaged(base: Experiment) -> Experiment:
    """The trained plain ViT with its logits averaged over the eight views of D4: evaluated, not trained."""
    return Experiment(
        base.name.replace("/vit/", "/vit-views/"),
        f"{base.about}; logits averaged over the views of D4",
        SymmetrizedConfig(base.model, dihedral(4), "mean_logits", None),
        FineTuneConfig("none"),
        data=base.data,
        fraction=base.fraction,
        base=base.name,
        setting=base.setting,
        network="vit-views",
        method=base.method,
        seeds=base.seeds,
    )
