"""Local group attention in plain torch: the formula, on any device, differentiable any number of times.

The scores of all (output pose, query pose, key pose, offset) are written out for a tile of images and rows of pixels
at a time. With gradients, each tile is computed again in the backward pass (checkpointing), so memory grows with one
tile, not with batch · heads · |H|³ · pixels · window². A graph that is compiled or exported holds one tile, because
the number of tiles depends on the batch size; compiled, it is still computed again in the backward pass.
"""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# torch 2.4 has the question of compilation alone
exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
TILE = 1 << 20  # numbers in the largest temporary of one tile on a CPU: what stays in the cache


def attend(
    q: Float[Tensor, "batch head d g height width"],
    k: Float[Tensor, "batch head d m padded_height padded_width"],
    value: Float[Tensor, "batch head e m padded_height padded_width"],
    position: Float[Tensor, "some_heads v offset d"],
    element: Float[Tensor, "some_heads entry d"],
    table: Int64[Tensor, "v g m"],
    mask: Bool[Tensor, " offset"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch head e v height width"]:
    """See :func:`e2vit.kernels.attend`. dropout: the probability that a weight is set to zero."""
    batch, heads, _, _, height, width = q.shape
    side, turned = k.shape[-1] - width + 1, element[:, table]
    excluded = _excluded(side, height, width, mask, q.device)

    def tile(some: slice, first: int, last: int) -> Tensor:
        keys, rows = slice(first, last + side - 1), slice(first, last)
        inputs = (q[some, ..., rows, :], k[some, ..., keys, :], value[some, ..., keys, :], position, turned)
        if again and torch.is_grad_enabled():
            arguments = *inputs, excluded[:, rows], dropout
            return checkpoint(_tile, *arguments, use_reentrant=False, preserve_rng_state=dropout > 0)
        return _tile(*inputs, excluded[:, rows], dropout)

    if torch.compiler.is_compiling():
        again = not exporting()
        return tile(slice(None), 0, height)
    row = heads * width * side**2 * table.numel()
    numbers = TILE if q.device.type == "cpu" else 32 * TILE  # a GPU is busy with large tiles alone
    images = max(1, min(batch, numbers // row))
    rows = max(1, min(height, numbers // (row * images)))
    again = images < batch or rows < height
    return torch.cat(
        [
            torch.cat([tile(slice(i, i + images), y, min(y + rows, height)) for y in range(0, height, rows)], -2)
            for i in range(0, max(1, batch), images)
        ]
    )


def weights(
    q: Float[Tensor, "batch head d g height width"],
    k: Float[Tensor, "batch head d m padded_height padded_width"],
    position: Float[Tensor, "some_heads v offset d"],
    element: Float[Tensor, "some_heads entry d"],
    table: Int64[Tensor, "v g m"],
    mask: Bool[Tensor, " offset"] | None = None,
) -> Float[Tensor, "batch head v g m offset height width"]:
    """The attention: for each output pose v and query pose g a distribution over key poses m and offsets."""
    height, width = q.shape[-2:]
    excluded = _excluded(k.shape[-1] - width + 1, height, width, mask, q.device)
    found = _softmax(q, k, position, element[:, table], excluded)
    return rearrange(found, "b head y x v g (m o) -> b head v g m o y x", m=k.shape[3])


def windows(
    x: Float[Tensor, "batch head d m padded_height padded_width"], side: int
) -> Float[Tensor, "batch head d m height width row column"]:
    """The side×side window around each pixel, a view. A window starts at the pixel's own index, since the map carries a
    margin of side // 2 on each side."""
    return x.unfold(-2, side, 1).unfold(-2, side, 1)


def _tile(q, k, value, position, turned, excluded, dropout):
    """Attention of some images and rows. turned: (some_heads, v, g, m, d), the element embedding of each triple."""
    found = F.dropout(_softmax(q, k, position, turned, excluded), dropout).sum(-2)
    local = windows(value, value.shape[-1] - q.shape[-1] + 1)
    local = rearrange(local, "b head e m y x i j -> b head y x (m i j) e")
    return rearrange(found @ local, "b head y x v e -> b head e v y x")


def _softmax(q, k, position, turned, excluded):
    """The attention, "batch head height width v g (m offset)"."""
    heads, poses = q.shape[1], k.shape[3]
    local = rearrange(windows(k, k.shape[-1] - q.shape[-1] + 1), "b head d m y x i j -> b head y x d (m i j)")
    content = rearrange(q, "b head d g y x -> b head y x g d") @ local
    content = content.unflatten(-1, (poses, -1))
    content = content.masked_fill(rearrange(excluded, "o y x -> y x 1 1 o"), -torch.inf)
    place = einsum(q, position.expand(heads, -1, -1, -1), "b head d g y x, head v o d -> b head y x v g o")
    pose = einsum(q, turned.expand(heads, -1, -1, -1, -1), "b head d g y x, head v g m d -> b head y x v g m")
    scores = content[..., None, :, :, :] + place[..., None, :] + pose[..., None]
    return scores.flatten(-2).softmax(-1)


def _excluded(
    side: int, height: int, width: int, mask: Tensor | None, device: torch.device
) -> Bool[Tensor, "offset height width"]:
    """Whether a window offset of a pixel doesn't count: beyond the border of the map, or not in the mask."""
    reach = torch.arange(side, device=device) - side // 2
    rows = reach[:, None] + torch.arange(height, device=device)
    columns = reach[:, None] + torch.arange(width, device=device)
    off_row, off_column = (rows < 0) | (rows >= height), (columns < 0) | (columns >= width)
    outside = (off_row[:, None, :, None] | off_column[None, :, None, :]).flatten(0, 1)
    return outside if mask is None else outside | ~mask[:, None, None]
