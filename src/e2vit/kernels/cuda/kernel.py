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
    elements = element.expand(q.shape[1], -1, -1)
    pose = einsum(q, elements, "batch head d g y x, head entry d -> batch head g entry y x")
    counted = torch.ones(position.shape[2], dtype=torch.bool, device=q.device) if mask is None else mask
    offsets = counted.nonzero().flatten().int()
    return _Attention.apply(q, k, value, position, pose, table.int().contiguous(), offsets)


class _Attention(torch.autograd.Function):
    """pose: (batch, head, g, entry, height, width), the product of each query with each element embedding."""

    @staticmethod
    def forward(ctx, q, k, value, position, pose, table, offsets):
        q, k, value, position, pose = (x.contiguous() for x in (q, k, value, position, pose))
        batch, heads, _, queries, height, width = q.shape
        out = q.new_empty(batch, heads, value.shape[2], len(table), height, width)
        logsum = torch.empty(batch, heads, len(table), queries, height, width, device=q.device)
        sizes, constants = _sizes(q, k, value, position, pose, table, offsets)
        grid = batch * heads * triton.cdiv(height * width, PIXELS), len(table)
        forward[grid](q, k, value, position, pose, table, offsets, out, logsum, *sizes, **constants)
        ctx.save_for_backward(q, k, value, position, pose, table, offsets, logsum)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout):
        q, k, value, position, pose, table, offsets, logsum = ctx.saved_tensors
        batch, heads, _, queries, height, width = q.shape
        sizes, constants = _sizes(q, k, value, position, pose, table, offsets)
        dout, mean = dout.contiguous(), torch.empty_like(logsum)
        dq, dk, dvalue = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(value)
        dpose = torch.zeros_like(pose)
        dposition = torch.zeros(heads, *position.shape[1:], device=q.device)
        tiles = batch * heads * triton.cdiv(height * width, PIXELS)
        inputs = q, k, value, position, pose, table, offsets, dout, logsum, mean
        blocks = triton.cdiv(queries, constants["GROUP"])
        backward_queries[(tiles, blocks)](*inputs, dq, dposition, dpose, *sizes, **constants)
        backward_keys[(tiles, k.shape[3])](*inputs, dk, dvalue, *sizes, **constants)
        dposition = dposition if len(position) > 1 else dposition.sum(0, keepdim=True)
        return dq, dk, dvalue, dposition, dpose, None, None


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
