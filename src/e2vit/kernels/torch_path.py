"""Local group attention in torch alone, some rows of pixels at a time, with exponentials that factor.

The terms of a score depend on (g,m,o), (v,g,o) and (v,g,m), so |H|² exponentials for each offset are enough:

    A = exp(q_g·k_m(x+o)),   B = exp(q_g·position[v,o]),   C = exp(q_g·element[table[v,g,m]])
    R[v,g,m] = C / Σ_{m,o} A B C,   W[v,m,o] = Σ_g A B R,   out[v] = Σ_{m,o} W[v,m,o] value_m(x+o)

A tile is computed again in the backward, so that memory holds one tile whatever the size of the maps.
"""

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from e2vit.kernels.reference import outside

TILE = 1 << 23  # numbers in the largest temporaries of one tile, 32 MB in float32
# Sums below: the maxima of the factors lie too far apart. The gradient of a quotient divides by the sum twice, so its
# square too must stay far from the smallest number of the dtype.
TINY = {torch.float32: 1e-15, torch.float64: 1e-120}


def attend(
    q: Float[Tensor, "batch head d g height width"],
    k: Float[Tensor, "batch head d m padded_height padded_width"],
    value: Float[Tensor, "batch head e m padded_height padded_width"],
    position: Float[Tensor, "some_heads v offset d"],
    element: Float[Tensor, "some_heads entry d"],
    table: Int64[Tensor, "v g m"],
    mask: Bool[Tensor, " offset"] | None = None,
    diagonal: bool = False,
) -> Float[Tensor, "batch head e v height width"]:
    """See :func:`e2vit.kernels.attend`. Half precision is computed in float32."""
    dtype, (batch, heads, d, queries, height, width) = q.dtype, q.shape
    floats = [q, k, value, position, element]
    if dtype not in TINY:
        floats = [x.float() for x in floats]
    with torch.autocast(q.device.type, enabled=False):
        q, k, value, position, element = floats
        outputs, poses, side = len(table), k.shape[3], k.shape[-1] - width + 1
        excluded = outside(side, height, width, device=q.device)
        if mask is not None:
            excluded = excluded | ~mask[:, None, None]
        row = heads * width * side**2 * (poses * (d + value.shape[2] + queries + 2 * outputs) + queries * outputs)
        images, rows = max(1, min(batch, TILE // row)), max(1, TILE // (row * batch))
        turned = element[:, table]
        results = []
        for first in range(0, batch, images):
            some = slice(first, first + images)
            tiles = []
            for top in range(0, height, rows):
                keys = slice(top, min(top + rows, height) + side - 1)
                arguments = (
                    q[some, ..., top : top + rows, :],
                    k[some, ..., keys, :],
                    value[some, ..., keys, :],
                    position,
                    turned,
                    excluded[:, top : top + rows],
                    diagonal,
                )
                tiles.append(
                    checkpoint(_tile, *arguments, use_reentrant=False, preserve_rng_state=False)
                    if torch.is_grad_enabled()
                    else _tile(*arguments)
                )
            results.append(torch.cat(tiles, -2))
        return torch.cat(results).to(dtype)


def _tile(q, k, value, position, turned, excluded, diagonal):
    """Attention of some rows. turned: (some_heads, v, g, m, d), the element embedding of each triple."""
    side, heads = k.shape[-1] - q.shape[-1] + 1, q.shape[1]
    position, turned = position.expand(heads, -1, -1, -1), turned.expand(heads, -1, -1, -1, -1)
    content = einsum(q, _windows(k, side), "b h d g y x, b h d m y x o -> b h y x g m o")
    content = content.masked_fill(rearrange(excluded, "o y x -> y x 1 1 o"), -torch.inf)
    if diagonal:
        place = einsum(q, position, "b h d v y x, h v o d -> b h y x v o")[..., None, :]
        pose = einsum(q, turned.diagonal(dim1=1, dim2=2), "b h d v y x, h m d v -> b h y x v m")[..., None, :]
        content = content[..., None, :, :]  # from here on: each output pose v has one query pose
    else:
        place = einsum(q, position, "b h d g y x, h v o d -> b h y x v g o")
        pose = einsum(q, turned, "b h d g y x, h v g m d -> b h y x v g m")
        content = content[..., None, :, :, :]
    # content (v or 1, g, m, o), place (v, g, o), pose (v, g, m)
    A, B, C = (_below_one(content, (-2, -1)), _below_one(place, (-1,)), _below_one(pose, (-1,)))
    joint = torch.matmul(A, B.unsqueeze(-1)).squeeze(-1)  # Σ_o A B for each (v, g, m)
    total = (joint * C).sum(-1, keepdim=True)
    if total.detach().min() > TINY[q.dtype]:
        R = C / total
        weight = sum((A[..., g, :, :] * R[..., g, :, None]) * B[..., g, None, :] for g in range(B.shape[-2]))
    else:
        scores = content + place[..., None, :] + pose[..., None]
        weight = scores.flatten(-2).softmax(-1).unflatten(-1, scores.shape[-2:]).sum(-3)
    return einsum(weight, _windows(value, side), "b h y x v m o, b h e m y x o -> b h e v y x")


def _below_one(x, axes):
    """exp(x − the maximum of x over the axes). The maximum cancels later, so no gradient goes through it."""
    return (x - x.detach().amax(axes, keepdim=True)).exp()


def _windows(x, side):
    """(…, y, x, offset): the window of each pixel, a view of the maps until a product needs it."""
    return x.unfold(-2, side, 1).unfold(-2, side, 1).flatten(-2)
