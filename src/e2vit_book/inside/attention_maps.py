"""Attention rollout, from the attention that ``capture`` records."""

from collections.abc import Sequence
from math import isqrt

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from e2vit.groups import FiniteGroup


def rollout(
    maps: Sequence[Float[Tensor, "batch *pose head query key"]], residual: float = 0.5
) -> Float[Tensor, "batch *pose query key"]:
    """How much of each input token flows into each output token: B_L ··· B_2 B_1 with B = r·1 + (1 − r)·Ā.

    maps: the attention of the layers, the first layer first, which is the rightmost factor; Ā is the mean over heads.
    residual: r, the share of a token that takes the shortcut around the attention. Rows of the result add up to one.
    A pose axis stays apart. The projections of the values are left out.
    Source: Abnar and Zuidema (2020).
    """
    if not len(maps):
        raise ValueError("rollout needs the attention of at least one layer")
    if not 0 <= residual < 1:
        raise ValueError(f"residual is a share from 0 to below 1, not {residual}")
    flow = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype, device=maps[0].device)
    for weights in maps:
        flow = residual * flow + (1 - residual) * weights.mean(-3) @ flow
    return flow


def relevance(
    flow: Float[Tensor, "batch *pose query key"], readout: str = "mean", poses: int = 1
) -> Float[Tensor, "batch row column"]:
    """The share of the output that comes from each position: rows of a rollout, read as the model reads its tokens.

    readout: "mean" over the output tokens, or "class_token": the first token is the query and has no position.
    poses:   number of tokens of one position, ordered pose by pose; they are added up.
    """
    if readout not in ("mean", "class_token"):
        raise ValueError(f"readout is 'mean' or 'class_token', not {readout!r}")
    rows = flow[..., 0, 1:] if readout == "class_token" else flow.mean(-2)
    rows = reduce(rows, "batch ... key -> batch key", "mean")
    places = reduce(rows, "batch (pose place) -> batch place", "sum", pose=poses)
    return rearrange(places, "batch (row column) -> batch row column", row=_side(places.shape[-1]))


def inverse_poses(x: Tensor, group: FiniteGroup, axes: tuple[int, ...]) -> Tensor:
    """Rename each pose to its inverse, on the given axes; an axis of length one has no poses."""
    for axis in axes:
        if x.shape[axis] == group.order:
            x = x.index_select(axis, group.inverse.to(x.device))
    return x


def _side(count: int) -> int:
    side = isqrt(count)
    if side * side != count:
        raise ValueError(
            f"{count} tokens do not fill a square grid; leave out a class token, and give the number of poses"
        )
    return side
