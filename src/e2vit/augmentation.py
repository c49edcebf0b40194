"""Random views of training images: drawn on the CPU from the seed of the epoch, applied in one call on the device."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from e2vit.actions import rotate

AUGMENTATIONS = ("rotation", "dihedral", "affine", "none")
REACH = 0.12    # of "affine": the zoom lies within 1 ± this; shifts within this share of half a side, 1.7 pixels of 28


def draw_views(augment: str, count: int, generator: torch.Generator) -> list[Float[Tensor, " batch"] | Tensor]:
    """For each image of a batch, what happens to it: nothing in the list where nothing does.

    "rotation": degrees. "dihedral": degrees, and whether it is mirrored first.
    "affine": degrees, zoom, and the shifts to the right and down, in halves of a side.
    """
    if augment == "none":
        return []
    degrees = torch.rand(count, generator=generator) * 360
    mirrored = torch.rand(count, generator=generator) < 0.5
    if augment == "affine":
        zoom, right, down = REACH * (2 * torch.rand(3, count, generator=generator) - 1)
        return [degrees, 1 + zoom, right, down]
    return [degrees] if augment == "rotation" else [degrees, mirrored]


def apply_views(
    images: Float[Tensor, "batch channel height width"], views: list[Tensor]
) -> Float[Tensor, "batch channel height width"]:
    """The images as ``draw_views`` says: bilinear, zero outside."""
    if len(views) == 4:
        return _moved(images, *views)
    if len(views) == 2:
        images = torch.where(views[1][:, None, None, None], images.flip(-1), images)
    return rotate(images, views[0]) if views else images


def _moved(images: Tensor, degrees: Tensor, zoom: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Turned counter-clockwise, enlarged and shifted; ``affine_grid`` asks where each pixel of the result comes from."""
    degrees, zoom, right, down = (view.to(images.dtype) for view in (degrees, zoom, right, down))
    radians = degrees.deg2rad()
    cos, sin = radians.cos() / zoom, radians.sin() / zoom
    rows = [cos, -sin, sin * down - cos * right], [sin, cos, -sin * right - cos * down]
    theta = torch.stack([torch.stack(row, -1) for row in rows], -2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
