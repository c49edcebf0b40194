"""Local group attention with every score written out: the formula that the fast kernels are tested against.

The order of operations is that of the public networks: windows are copied out (unfold), all scores are broadcast into
one tensor, then a softmax, then the values. Memory grows with batch · heads · |H|³ · pixels · window².
"""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def weights(
    q: Float[Tensor, "batch head d g height width"],
    k: Float[Tensor, "batch head d m padded_height padded_width"],
    position: Float[Tensor, "some_heads v offset d"],
    element: Float[Tensor, "some_heads entry d"],
    table: Int64[Tensor, "v g_all m"],
    mask: Bool[Tensor, " offset"] | None = None,
    diagonal: bool = False,
) -> Float[Tensor, "batch head v g_each m offset height width"]:
    """The attention: for each output pose v and query pose g a distribution over key poses m and offsets.

    diagonal: the query pose is the output pose, and the axis g has length 1.
    """
    side = k.shape[-1] - q.shape[-1] + 1
    content = einsum(q, windows(k, side), "b head d g y x, b head d m o y x -> b head g m o y x")
    if diagonal:
        poses = torch.arange(len(table), device=table.device)
        place = einsum(q, position.expand(q.shape[1], -1, -1, -1), "b head d v y x, head v o d -> b head v o y x")
        turned = element[:, table[poses, poses]].expand(q.shape[1], -1, -1, -1)
        pose = einsum(q, turned, "b head d v y x, head v m d -> b head v m y x")
        scores = content + place[:, :, :, None] + pose[:, :, :, :, None]
        scores = scores[:, :, :, None]
    else:
        place = einsum(q, position.expand(q.shape[1], -1, -1, -1), "b head d g y x, head v o d -> b head v g o y x")
        turned = element[:, table].expand(q.shape[1], -1, -1, -1, -1)
        pose = einsum(q, turned, "b head d g y x, head v g m d -> b head v g m y x")
        scores = place[:, :, :, :, None] + pose[:, :, :, :, :, None] + content[:, :, None]
    excluded = outside(side, *q.shape[-2:], device=q.device)
    if mask is not None:
        excluded = excluded | ~mask[:, None, None]
    scores = scores.masked_fill(excluded, -torch.inf)
    return scores.flatten(4, 5).softmax(4).unflatten(4, scores.shape[4:6])


def attend(
    q: Float[Tensor, "batch head d g height width"],
    k: Float[Tensor, "batch head d m padded_height padded_width"],
    value: Float[Tensor, "batch head e m padded_height padded_width"],
    position: Float[Tensor, "some_heads v offset d"],
    element: Float[Tensor, "some_heads entry d"],
    table: Int64[Tensor, "v g_all m"],
    mask: Bool[Tensor, " offset"] | None = None,
    diagonal: bool = False,
    dropout: float = 0.0,
) -> Float[Tensor, "batch head e v height width"]:
    """See :func:`e2vit.kernels.attend`. dropout: the chance that a weight is set to zero."""
    attention = F.dropout(weights(q, k, position, element, table, mask, diagonal), dropout)
    local = windows(value, value.shape[-1] - q.shape[-1] + 1)
    return einsum(attention, local, "b head v g m o y x, b head e m o y x -> b head e v y x")


def windows(
    x: Float[Tensor, "batch head d m padded_height padded_width"], side: int
) -> Float[Tensor, "batch head d m offset height width"]:
    """The side×side window around each pixel, offsets row by row. A window is what starts at the pixel's own index,
    since the map carries a margin of side // 2 on each side."""
    planes = F.unfold(rearrange(x, "b head d m y x -> b (head d m) y x"), side)
    shape = dict(zip(("head", "d", "m"), x.shape[1:4], strict=True))
    return rearrange(planes, "b (head d m o) (y x) -> b head d m o y x", y=x.shape[-2] - side + 1, o=side**2, **shape)


def outside(side: int, height: int, width: int, device=None) -> Bool[Tensor, "offset height width"]:
    """Whether a window offset of a pixel falls beyond the border of the map."""
    reach = torch.arange(side, device=device) - side // 2
    rows = reach[:, None] + torch.arange(height, device=device)
    columns = reach[:, None] + torch.arange(width, device=device)
    off_row, off_column = (rows < 0) | (rows >= height), (columns < 0) | (columns >= width)
    return (off_row[:, None, :, None] | off_column[None, :, None, :]).flatten(0, 1)
