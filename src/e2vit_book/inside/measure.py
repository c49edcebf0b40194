"""Probabilities, feature maps, embeddings and residuals of a model while its input turns.

Angles are in degrees, counter-clockwise. Images are (channel, height, width), one image at a time, as floats.
"""

from collections.abc import Callable, Sequence
from math import isqrt

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.actions import act, rotate
from e2vit.capture import capture
from e2vit.groups import FiniteGroup
from e2vit_book.inside.attention_maps import inverse_poses


def turned(
    image: Float[Tensor, "channel height width"], degrees: Sequence[float]
) -> Float[Tensor, "angle channel height width"]:
    """Turn the image by every angle. Error: exact at multiples of 90; elsewhere bilinear, zero outside."""
    if image.ndim != 3 or image.shape[-1] != image.shape[-2]:
        raise ValueError(f"an image has shape (channel, side, side), got {tuple(image.shape)}")
    if not len(degrees):
        raise ValueError("the list of angles is empty")
    return torch.cat([rotate(image[None], float(angle)) for angle in degrees])


@torch.no_grad()
def probabilities(
    model: Callable[[Tensor], Tensor], image: Float[Tensor, "channel height width"], degrees: Sequence[float]
) -> Float[Tensor, "angle class_"]:
    """The class probabilities of the image at every angle."""
    return torch.cat([model(batch) for batch in turned(image, degrees).split(24)]).softmax(-1)


@torch.no_grad()
def most_ambiguous(
    model: Callable[[Tensor], Tensor], images: Float[Tensor, "n channel height width"], label: int, other: int
) -> int:
    """Index of the image with the largest p(label) · p(other after 180°), for example a 6 read as a 9."""
    upright, turned_over = (model(x).softmax(-1) for x in (images, images.rot90(2, (-2, -1))))
    return int((upright[:, label] * turned_over[:, other]).argmax())


@torch.no_grad()
def features(
    model: nn.Module, layers: Sequence[str], images: Float[Tensor, "n channel height width"]
) -> dict[str, Float[Tensor, "n ..."]]:
    """Layer → its output for each image. Error: KeyError for a layer that the model does not have."""
    parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for batch in images.split(24):
        with capture(model, layers) as seen:
            model(batch)
        for layer in layers:
            parts[layer].append(seen.features[layer])
    return {layer: torch.cat(part) for layer, part in parts.items()}


@torch.no_grad()
def attention(
    model: nn.Module, layers: Sequence[str], images: Float[Tensor, "n channel height width"]
) -> dict[str, Float[Tensor, "n ..."]]:
    """Layer → its attention for each image. Error: KeyError for a layer that is missing or has no attention."""
    with capture(model, layers) as seen:
        model(images)
    return {layer: seen.attention[layer] for layer in layers}


def as_map(x: Float[Tensor, "batch ..."], poses: int = 1) -> Float[Tensor, "batch channel pose row column"]:
    """Arrange the features of any layer as a map over poses and positions; without poses that axis has length 1.

    Takes (batch, channel, pose, row, column), (batch, channel, row, column), (batch, pose, token, d) and
    (batch, token, d). Tokens are ordered row by row; a class token in front of a square grid is left out.
    """
    if x.ndim == 5:
        return x
    if x.ndim == 4 and x.shape[-1] == x.shape[-2]:
        return x[:, :, None]
    if x.ndim == 3:
        per_pose, extra = x.shape[1] // poses, x.shape[1] % poses
        grids = isqrt(per_pose) ** 2 == per_pose and not extra
        x = rearrange(x if grids else x[:, 1:], "batch (pose token) d -> batch pose token d", pose=poses)
    if x.ndim != 4 or isqrt(x.shape[2]) ** 2 != x.shape[2]:
        raise ValueError(f"features of shape {tuple(x.shape)} cannot be arranged as a map over the plane")
    return rearrange(x, "batch pose (row column) d -> batch d pose row column", row=isqrt(x.shape[2]))


def relative_residual(found: Float[Tensor, "..."], expected: Float[Tensor, "..."]) -> float:
    """max |f(gx) − g f(x)| / max |f(x)|: dimensionless, zero for an equivariant layer."""
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()


def residuals(
    model: nn.Module,
    layers: Sequence[str],
    image: Float[Tensor, "channel height width"],
    group: FiniteGroup,
    inverse_names: bool = False,
) -> dict[str, float]:
    """The relative residual of every layer, and of the logits, which should not change at all."""
    errors = {layer: relative_residual(*orbit_features(model, layer, image, group, inverse_names)) for layer in layers}
    with torch.no_grad():
        logits = model(torch.cat([act(group, g, image[None]) for g in range(group.order)]))
    return errors | {"logits": relative_residual(logits, logits[:1])}


def orbit_features(
    model: nn.Module,
    layer: str,
    image: Float[Tensor, "channel height width"],
    group: FiniteGroup,
    inverse_names: bool = False,
) -> tuple[Tensor, Tensor]:
    """Feature maps f(gx) and g f(x) of a layer, for every g; they are equal for an equivariant layer.

    Both (element, channel, pose, row, column); the pose axis has length 1 for a model without poses.
    inverse_names: the model names pose v what is v⁻¹ here, as the released GSA-Nets do; the names are exchanged first.
    """
    views = torch.cat([act(group, g, image[None]) for g in range(group.order)])
    found = features(model, [layer], views)[layer]
    maps = as_map(found, group.order if _has_poses(found, group.order) else 1)
    lifted = maps.shape[2] == group.order > 1
    maps = inverse_poses(maps, group, (2,)) if inverse_names else maps
    moved = [act(group, g, maps[:1] if lifted else maps[:1, :, 0]) for g in range(group.order)]
    return maps, torch.cat([x if lifted else x[:, :, None] for x in moved])


def embeddings(
    model: nn.Module, layers: Sequence[str], images: Float[Tensor, "n channel height width"], poses: int = 1
) -> dict[str, Float[Tensor, "n d"]]:
    """Layer → one vector for each image: the mean over positions, the poses side by side."""
    found = features(model, layers, images)
    vectors = {name: x if x.ndim == 2 else as_map(x, poses).mean((-2, -1)) for name, x in found.items()}
    return {name: x.flatten(1) for name, x in vectors.items()}


def components(
    vectors: Float[Tensor, "n d"], count: int = 2
) -> tuple[Float[Tensor, "n count"], Float[Tensor, " count"]]:
    """Coordinates along the first principal components, and the share of the variance of each (fractions).

    The sign of a component makes its largest entry positive, so the picture is reproducible.
    """
    centered = vectors - vectors.mean(0)
    _, sizes, directions = torch.linalg.svd(centered, full_matrices=False)
    directions = directions[:count]
    signs = directions.take_along_dim(directions.abs().argmax(-1, keepdim=True), -1).sign()
    return centered @ (directions * signs).T, (sizes**2 / (sizes**2).sum().clamp_min(1e-30))[:count]


def tuning(
    model: nn.Module, layer: str, image: Float[Tensor, "channel height width"], degrees: Sequence[float]
) -> Float[Tensor, "angle unit pose"]:
    """Mean activation over positions of each unit and pose of a layer, as the image turns."""
    found = features(model, [layer], turned(image, degrees))[layer]
    return reduce(as_map(found), "angle channel pose row column -> angle channel pose", "mean")


def _has_poses(x: Tensor, order: int) -> bool:
    return x.ndim == 4 and x.shape[1] == order and x.shape[-1] != x.shape[-2]
