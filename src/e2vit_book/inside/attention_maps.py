"""What attention maps say: how far a head looks, what reaches the output, and how a map turns with its image.

All functions take what ``capture`` records.
"""

from collections.abc import Sequence
from math import isqrt

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from e2vit.actions import act
from e2vit.groups import FiniteGroup
from e2vit.layers.attention import LocalGroupSelfAttention


def rollout(
    maps: Sequence[Float[Tensor, "batch *pose head query key"]], residual: float = 0.5
) -> Float[Tensor, "batch *pose query key"]:
    """How much of each input token flows into each output token, through all layers: Π_layers (r·1 + (1 − r)·Ā).

    maps: the attention of the layers, the first layer first; Ā is the mean over heads. Each row adds up to one.
    residual: r, the share of a token that takes the way around the attention.
    A pose axis stays apart. What the projections do to values is left out: this is a sketch of the flow.
    Source: Abnar and Zuidema (2020).
    """
    if not len(maps):
        raise ValueError("rollout needs the attention of at least one layer")
    if not 0 <= residual < 1:
        raise ValueError(f"residual is a share from 0 to below 1, not {residual}")
    flow = None
    for weights in maps:
        mean = weights.mean(-3)
        step = residual * torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device) + (1 - residual) * mean
        flow = step if flow is None else step @ flow
    return flow


def relevance(
    flow: Float[Tensor, "batch *pose query key"], readout: str = "mean", poses: int = 1
) -> Float[Tensor, "batch row column"]:
    """What of the output comes from each position: the rows of a rollout, read as the model reads its tokens.

    readout: "mean" over the output tokens; "class_token", the first token asks and is no position itself.
    poses:   tokens of one position, when they stand one pose after the other; they are added up.
    """
    if readout not in ("mean", "class_token"):
        raise ValueError(f"readout is 'mean' or 'class_token', not {readout!r}")
    asked = flow[..., 0, 1:] if readout == "class_token" else flow.mean(-2)
    asked = reduce(asked, "batch ... key -> batch key", "mean")
    places = reduce(asked, "batch (pose place) -> batch place", "sum", pose=poses)
    return rearrange(places, "batch (row column) -> batch row column", row=_side(places.shape[-1]))


def attention_distance(
    weights: Float[Tensor, "batch *pose head query key"], pixels: float = 1.0, poses: int = 1, extra_tokens: int = 0
) -> Float[Tensor, " head"]:
    """The mean distance between a token and what it looks at, weighted by attention, for each head.

    pixels: from one token to the next; the answer is in pixels.
    extra_tokens: tokens in front that have no place, like a class token: they are left out and rows rescaled.
    Source: Dosovitskiy et al. (2021), figure 7.
    """
    weights = weights[..., extra_tokens:, extra_tokens:]
    weights = weights / weights.sum(-1, keepdim=True)
    count = weights.shape[-1] // poses
    place = torch.arange(count, device=weights.device)
    xy = torch.stack([place % _side(count), place // _side(count)], -1).to(weights.dtype)
    distance = torch.cdist(xy, xy).repeat(poses, poses) * pixels
    mean = (weights * distance).sum(-1).mean(-1)
    return reduce(mean, "batch ... head -> head", "mean")


def positional_similarity(position: Float[Tensor, "token d"]) -> Float[Tensor, "row column other_row other_column"]:
    """The cosine between the learned positions of every two tokens of a square grid. Leave a class token out."""
    unit = torch.nn.functional.normalize(position, dim=-1)
    side = _side(len(position))
    return (unit @ unit.T).reshape(side, side, side, side)


def patch_filters(weight: Float[Tensor, "d channel row column"], count: int) -> tuple[Tensor, Tensor]:
    """The first principal components of the patch embedding's filters, and the share of their variance (fractions).

    Returns (count, row, column, channel), each scaled to a largest absolute value of 1, and (count,).
    Source: Dosovitskiy et al. (2021), figure 7.
    """
    filters = weight.detach().flatten(1)
    _, sizes, components = torch.linalg.svd(filters - filters.mean(0), full_matrices=False)
    components = components[:count] / components[:count].abs().amax(-1, keepdim=True)
    shape = dict(zip(("c", "y", "x"), weight.shape[1:], strict=True))
    return rearrange(components, "count (c y x) -> count y x c", **shape), (sizes**2 / (sizes**2).sum())[:count]


@torch.no_grad()
def group_weights(layer: LocalGroupSelfAttention, x: Tensor) -> Float[Tensor, "batch head v g m offset height width"]:
    """The attention of a layer over an image or lifted map x, with the poses called as everywhere in this book.

    The released GSA-Nets call v what is called v⁻¹ here. That is no fault, and it is undone for x and for the result.
    """
    if not layer.forward_offsets:
        return layer.weights(x)
    weights = layer.weights(x if layer.lifting else inverse_poses(x, layer.group, (2,)))
    return inverse_poses(weights, layer.group, (2, 3, 4))


def inverse_poses(x: Tensor, group: FiniteGroup, axes: tuple[int, ...]) -> Tensor:
    """x with each pose called by its inverse, on the axes that have poses; an axis of length one has none."""
    for axis in axes:
        if x.shape[axis] == group.order:
            x = x.index_select(axis, group.inverse.to(x.device))
    return x


def windows_of(weights: Float[Tensor, "batch head v g m offset height width"]) -> Tensor:
    """Local attention with its window as two axes: (batch, head, v, g, m, row, column, height, width)."""
    side = _side(weights.shape[5])
    return rearrange(weights, "b head v g m (row column) y x -> b head v g m row column y x", row=side)


def turned_back(
    weights: Float[Tensor, "batch head v g m offset height width"], group: FiniteGroup, r: int
) -> Float[Tensor, "batch head v g m offset height width"]:
    """Local attention over the image r.x, moved so that it can be compared with that over x.

    Poses, window and positions all go back by r: the result at [v, g, m, o](x) is what stood at [rv, rg, rm, ro](rx).
    A layer whose attention comes back the same is equivariant; an axis of length one has no pose to move.
    """
    moved = group.product[r].to(weights.device)
    for axis in (2, 3, 4):
        if weights.shape[axis] == group.order:
            weights = weights.index_select(axis, moved)
    inverse = int(group.inverse[r])
    grid = windows_of(weights)
    lead, (row, column, height, width) = grid.shape[:5], grid.shape[5:]
    grid = act(group, inverse, grid.reshape(1, -1, height, width)).reshape(-1, row, column, height * width)
    grid = act(group, inverse, rearrange(grid, "n row column place -> 1 (n place) row column"))
    grid = rearrange(grid, "1 (n place) row column -> n (row column) place", place=height * width)
    return grid.reshape(*lead, row * column, height, width)


def _side(count: int) -> int:
    side = isqrt(count)
    if side * side != count:
        raise ValueError(f"{count} tokens do not fill a square grid: are there extra tokens, or poses to be named?")
    return side
