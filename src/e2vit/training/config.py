"""How a classifier is trained, and the random rotations and mirrors of its training images."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from e2vit.actions import rotate
from e2vit.training.optimizer import OPTIMIZERS

AUGMENTATIONS = ("rotation", "dihedral", "d4", "none")


@dataclass(frozen=True)
class TrainConfig:
    epochs: int = 100
    updates_per_epoch: int | None = None  # steps after which the model is evaluated; a pass over the data when None
    batch_size: int = 128  # over all processes; a DataLoader has its own
    learning_rate: float = 1e-3
    schedule: str = "cosine"  # to zero; or "constant", as the official networks have it
    warmup_epochs: float = 3  # the rate rises linearly
    weight_decay: float = 0.05
    optimizer: str = "adamw"  # see ``optimizer.py``: "adamw", "adam" as the official networks have it, or "muon"
    augment: str = "rotation"  # by any angle; "dihedral": and mirrored; "d4": by quarter turns and mirrored; "none"
    clip: float | None = 1.0  # largest norm of the gradient
    average: float | None = None  # decay of the moving average of the weights that is evaluated and kept
    keep: str = "best"  # the epoch with the best validation accuracy; or "last"
    validation_images: int | None = None  # how many are used, the first ones; all when left out
    test_images: int | None = None

    def __post_init__(self):
        for field, allowed in (
            ("schedule", ("cosine", "constant")),
            ("optimizer", OPTIMIZERS),
            ("augment", AUGMENTATIONS),
            ("keep", ("best", "last")),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} is one of {', '.join(allowed)}, not {getattr(self, field)!r}")
        check_counts(self, "epochs", "batch_size", "updates_per_epoch", "validation_images", "test_images")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is a finite number above 0, got {self.learning_rate}")


def check_counts(config: Any, *fields: str) -> None:
    """Refuses counts below 1. Error: ValueError."""
    for field in fields:
        if (value := getattr(config, field)) is not None and value < 1:
            raise ValueError(f"{field} starts at 1, got {value}")


def draw_views(augment: str, count: int, generator: torch.Generator) -> list[Tensor]:
    """Random numbers for each image of a batch, drawn on the CPU from the generator alone.

    "rotation": degrees. "dihedral": degrees, and whether the image is mirrored first. "d4": the same with multiples of
    90 degrees. "none": an empty list.
    """
    if augment == "none":
        return []
    degrees = torch.rand(count, generator=generator) * 360
    if augment == "d4":
        degrees = torch.div(degrees, 90, rounding_mode="floor") * 90
    mirrored = torch.rand(count, generator=generator) < 0.5
    return [degrees] if augment == "rotation" else [degrees, mirrored]


def apply_views(
    images: Float[Tensor, "batch channel height width"], views: list[Tensor]
) -> Float[Tensor, "batch channel height width"]:
    """The images mirrored and rotated as ``draw_views`` drew: bilinear, zero outside."""
    if len(views) == 2:
        images = torch.where(views[1][:, None, None, None], images.flip(-1), images)
    return rotate(images, views[0]) if views else images
