"""Local group attention on CUDA: fused Triton kernels, forward and backward; scores never leave the registers.

One program is one warp and 32 pixels of one head, so that every sum over features stays inside a thread. The
normalizer of each (v, g, pixel) is kept from the forward; scores are computed again wherever they are needed.
Float64 takes the reference. Not yet timed on a GPU.
``TRITON_INTERPRET=1``, set before the import, runs the same kernels on the CPU, slowly.
"""

import torch
import triton
from einops import einsum
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from e2vit.kernels import reference
from e2vit.kernels.cuda.program import PIXELS, backward_keys, backward_queries, forward
from e2vit.kernels.operator import operator


def attend(
    q: Float[Tensor, "batch head d g height width"],
    k: Float[Tensor, "batch head d m padded_height padded_width"],
    value: Float[Tensor, "batch head e m padded_height padded_width"],
    position: Float[Tensor, "some_heads v offset d"],
    element: Float[Tensor, "some_heads entry d"],
    table: Int64[Tensor, "v g m"],
    mask: Bool[Tensor, " offset"] | None = None,
) -> Float[Tensor, "batch head e v height width"]:
    """See :func:`e2vit.kernels.attend`."""
    if q.dtype == torch.float64:
        return reference.attend(q, k, value, position, element, table, mask)
    return _run(q, k, value, position, element, table, mask)


def _prepared(q, k, value, position, element, table, mask) -> tuple[Tensor, ...]:
    """What every kernel reads first. The product of each query with each element embedding, (batch, head, g, entry,
    height, width), is computed here once."""
    pose = einsum(q, element.expand(q.shape[1], -1, -1), "b head d g y x, head entry d -> b head g entry y x")
    counted = torch.ones(position.shape[2], dtype=torch.bool, device=q.device) if mask is None else mask
    floats = (x.contiguous() for x in (q, k, value, position, pose))
    return *floats, table.int().contiguous(), counted.nonzero().flatten().int()


def _forward(q, k, value, position, element, table, mask):
    inputs = _prepared(q, k, value, position, element, table, mask)
    batch, heads, _, queries, height, width = q.shape
    out = q.new_empty(batch, heads, value.shape[2], len(table), height, width)
    logsum = q.new_empty(batch, heads, len(table), queries, height, width)
    sizes, constants = _sizes(*inputs)
    grid = batch * heads * triton.cdiv(height * width, PIXELS), len(table)
    forward[grid](*inputs, out, logsum, *sizes, **constants)
    return out, logsum


def _backward(dout, logsum, q, k, value, position, element, table, mask):
    inputs = _prepared(q, k, value, position, element, table, mask)
    batch, heads, _, queries, height, width = q.shape
    sizes, constants = _sizes(*inputs)
    dq, dk, dvalue, dpose = (torch.zeros_like(x) for x in (*inputs[:3], inputs[4]))
    dposition = q.new_zeros(heads, *position.shape[1:])
    tiles = batch * heads * triton.cdiv(height * width, PIXELS)
    inputs = *inputs, dout, logsum, torch.empty_like(logsum)
    blocks = triton.cdiv(queries, constants["GROUP"])
    backward_queries[(tiles, blocks)](*inputs, dq, dposition, dpose, *sizes, **constants)
    backward_keys[(tiles, k.shape[3])](*inputs, dk, dvalue, *sizes, **constants)
    dq += einsum(dpose, element.expand(heads, -1, -1), "b head g entry y x, head entry d -> b head d g y x")
    delement = einsum(dpose, q, "b head g entry y x, b head d g y x -> head entry d")
    dposition, delement = (
        x if len(given) > 1 else x.sum(0, keepdim=True) for x, given in ((dposition, position), (delement, element))
    )
    return dq, dk, dvalue, dposition, delement


_run = operator("window_attention_cuda", _forward, _backward, keeps=True)


def _sizes(q, k, value, position, pose, table, offsets) -> tuple[tuple, dict]:
    """The numbers that every kernel takes, and those that it is compiled for."""
    heads, d, queries, height, width = q.shape[1:]
    side = k.shape[-1] - width + 1
    position_head = position[0].numel() if len(position) > 1 else 0
    sizes = heads, len(table), queries, k.shape[3], pose.shape[3], height, width, side, len(offsets), position_head
    power, e, poses = triton.next_power_of_2, value.shape[2], k.shape[3]
    constants = {
        "D": d,
        "E": e,
        "D_PAD": power(d),
        "E_PAD": power(e),
        "M_PAD": power(poses),
        "GROUP": min(4, power(queries)),
        "num_warps": 1,
    }
    return sizes, constants
