"""Experiments with group attention: by the official recipe, and trained alike."""

from dataclasses import replace
from typing import Any

from e2vit.experiments.experiment import Experiment
from e2vit.experiments.recipes import C1, C4, MUON, OFFICIAL
from e2vit.groups import gevit_index, gsa_index
from e2vit.models import GroupAttentionNetConfig


def group_attention() -> list[Experiment]:
    """GSA-Net, GE-ViT, the network with the Cayley table and that without a group, by the official recipe but for cost:
    value dropout alone, float32 or bf16, the epoch chosen on the validation images, 8 epochs on a tenth of the images
    instead of 300 on all.
    """
    stable, official = GroupAttentionNetConfig.stable, GroupAttentionNetConfig
    nets = {  # name -> what it is, model
        "cayley-c4": ("group attention over C4 with the Cayley table and stable positions (chapter 3)", stable()),
        "gevit-c4": ("GE-ViT over C4", official(index=gevit_index)),
        "gsa-c4": ("GSA-Net over C4", official(index=gsa_index)),
        "attention-z2": ("self-attention without a group, as released", official(group=C1)),
    }
    tenth: dict[str, Any] = {"epochs": 8, "batch_size": 8, "validation_images": 500, "test_images": 5_000}
    short, as_vit = replace(OFFICIAL, **tenth), replace(MUON, warmup_epochs=0.5, average=0.99, **tenth)
    of_tenth = "on a tenth of the training images"
    few = {f"{name}-tenth": (f"{about}, {of_tenth}", model, short, name) for name, (about, model) in nets.items()}
    for name, about, group in (
        ("attention-z2", "self-attention without a group", C1),
        ("cayley-c4", "group attention over C4", C4),
    ):
        about = f"{about}, stable positions (chapter 3), {of_tenth}, trained as the ViT is"
        few[f"{name}-tenth-muon"] = (about, stable(group=group), as_vit, name)
    return [
        Experiment(
            f"rotmnist/{name}",
            about,
            model,
            training,
            fraction=0.1,
            network=network,
            seeds=1,
        )
        for name, (about, model, training, network) in few.items()
    ]


def trained_alike() -> list[Experiment]:
    """Four attention networks that differ in their group or index table alone, one recipe for all; and how the recipe
    was chosen: the network without a group, a quarter of the epochs, the validation images.
    A trial with batches of 32 fell behind within an epoch and was stopped, so it has no record."""
    stable = GroupAttentionNetConfig.stable(window=5)
    nets = {  # name -> what it is, model
        "plain": ("self-attention without a group", replace(stable, group=C1)),
        "cayley": ("group attention over C4 with the Cayley table", replace(stable, group=C4)),
        "gevit": ("group attention over C4 with GE-ViT's index table", replace(stable, group=C4, index=gevit_index)),
        "gsa": ("group attention over C4 with GSA-Nets' index table", replace(stable, group=C4, index=gsa_index)),
    }
    recipe = replace(
        MUON, epochs=20, learning_rate=1e-2, batch_size=16, warmup_epochs=0.5, average=0.99, augment="none"
    )
    trials: dict[str, dict[str, Any]] = {  # name -> what differs from the recipe
        "rate-1e-2": {},
        "rate-3e-3": {"learning_rate": 3e-3},
        "rate-3e-3-adamw": {"learning_rate": 3e-3, "optimizer": "adamw"},
    }
    terms = "stable positions, window 5, all training images"
    return [
        *(
            Experiment(
                f"attention/{name}", f"{about}, {terms}", model, recipe, setting="attention", network=name, seeds=1
            )
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
