"""Random views of training images: drawn on the CPU from the seed of the epoch, applied in one call on the device."""

import torch
from jaxtyping import Float
from torch import Tensor

from e2vit.actions import rotate

AUGMENTATIONS = ("rotation", "dihedral", "d4", "none")


def draw_views(augment: str, count: int, generator: torch.Generator) -> list[Tensor]:
    """For each image of a batch, what happens to it: nothing in the list where nothing does.

    "rotation": degrees. "dihedral": degrees, and whether it is mirrored first. "d4": the same in quarter turns.
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
    """The images as ``draw_views`` says: bilinear, zero outside."""
    if len(views) == 2:
        images = torch.where(views[1][:, None, None, None], images.flip(-1), images)
    return rotate(images, views[0]) if views else images
