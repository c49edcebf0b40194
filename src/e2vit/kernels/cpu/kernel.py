"""Local group attention on the CPU: one kernel compiled by numba at first use, forward and backward.

Each (image, head) is one piece of work; threads take pieces, as many as torch may use. The score tensor is never in
memory: a piece is computed a few pixels at a time (``scores``), and computed again in the backward.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from e2vit.kernels.cpu import program
from e2vit.kernels.cpu.simd import WIDTH
from e2vit.kernels.operator import operator

EXCLUDED = -1e30  # the score of a key beyond the border; finite, so that no infinity meets another


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
    return _run(q, k, value, position, element, table, mask)


def _forward(q, k, value, position, element, table, mask):
    out = _blocks(q.new_empty(*q.shape[:2], value.shape[2], len(table), *q.shape[-2:]))
    _spread(program.forward, len(out), _arguments(q, k, value, position, element, table, mask), [out])
    return _maps(out, *q.shape[:2], q.shape[-1]), q.new_empty(0)


def _backward(dout, kept, q, k, value, position, element, table, mask):
    arguments = _arguments(q, k, value, position, element, table, mask)
    blocks, keys, values, embeddings = arguments[:4]
    (batch, heads), columns = q.shape[:2], k.shape[-1]
    dq, dk, dvalue = torch.empty_like(blocks), torch.zeros_like(keys), torch.zeros_like(values)
    dposition = q.new_empty(len(dq), len(table), embeddings.shape[-1], q.shape[2])
    delement = q.new_empty(len(dq), *element.shape[1:])
    _spread(program.backward, len(dq), arguments, [_blocks(dout), dq, dk, dvalue, dposition, delement])
    dposition, delement = (
        x.unflatten(0, (batch, heads)).sum(0) if len(given) > 1 else x.sum(0, keepdim=True)
        for x, given in ((dposition, position), (delement, element))
    )
    if mask is not None:
        every = torch.zeros_like(position)
        every[:, :, mask] = dposition
        dposition = every
    dk, dvalue = (
        rearrange(x[:, :, :-1, :columns], "(b h) y (m d) x -> b h d m y x", b=batch, m=k.shape[3]).contiguous()
        for x in (dk, dvalue)
    )
    return _maps(dq, batch, heads, q.shape[-1]), dk, dvalue, dposition, delement


_run = operator("window_attention_cpu", _forward, _backward, keeps=False)


def _blocks(x: Float[Tensor, "batch head d pose height width"]) -> Float[Tensor, "piece height block pose d lane"]:
    """Blocks of neighboring pixels in a row, zeros behind its end."""
    return rearrange(
        F.pad(x, (0, -x.shape[-1] % WIDTH)), "b h d g y (c lane) -> (b h) y c g d lane", lane=WIDTH
    ).contiguous()


def _maps(blocks: Tensor, batch: int, heads: int, width: int) -> Float[Tensor, "batch head d pose height width"]:
    x = rearrange(blocks, "(b h) y c g d lane -> b h d g y (c lane)", b=batch, h=heads)
    return x[..., :width].contiguous()


def _planes(x: Tensor, width: int, border: float) -> Float[Tensor, "piece padded_height plane stride"]:
    """Rows of (pose, feature) planes, long enough for whole blocks, and behind them one plane that is ``border`` where
    the map has no pixel and zero elsewhere."""
    side = x.shape[-1] - width + 1
    rows = rearrange(x, "b h d m y x -> (b h) y (m d) x")
    planes = x.new_zeros(*rows.shape[:2], rows.shape[2] + 1, -(-width // WIDTH) * WIDTH + side - 1)
    planes[:, :, :-1, : x.shape[-1]] = rows
    planes[:, :, -1] = border
    margin = side // 2
    planes[:, margin : rows.shape[1] - margin, -1, margin : margin + width] = 0
    return planes


def _arguments(q, k, value, position, element, table, mask) -> tuple:
    """What both compiled functions take: arrays, the offsets that count, and the lengths of the axes."""
    heads, (height, width), side = q.shape[1], q.shape[-2:], k.shape[-1] - q.shape[-1] + 1
    chosen = np.flatnonzero(np.ones(side**2, bool) if mask is None else mask.numpy())
    first = np.searchsorted(chosen, np.arange(side + 1) * side)  # where each row of the window begins among them
    position = position[:, :, torch.from_numpy(chosen)].mT.contiguous()  # some_heads v d offset
    sizes = (len(table), q.shape[3], k.shape[3], q.shape[2], element.shape[1])
    shape = (heads, len(position), len(element), value.shape[2], height, width, side)
    planes = _planes(k, width, EXCLUDED), _planes(value, width, 0)
    return _blocks(q), *planes, position, element.contiguous(), table.contiguous().numpy(), chosen, first, sizes, shape


def _spread(function, count: int, arguments: tuple, results: list[Tensor]) -> None:
    """Run the compiled ``function`` on all ``count`` pieces, in as many threads as torch may use."""
    flat = [x.view(-1).numpy() if isinstance(x, Tensor) else x for x in (*arguments, *results)]
    threads = min(torch.get_num_threads(), count)
    work = lambda lo, hi: function(*flat, lo, hi)  # noqa: E731
    bounds = np.linspace(0, count, min(4 * threads, count) + 1 if threads > 1 else 2).astype(int).tolist()
    pool = _pool(torch.get_num_threads(), os.getpid())
    for done in [pool.submit(work, lo, hi) for lo, hi in pairwise(bounds)]:
        done.result()


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """process: a forked process has no threads of its parent and needs its own.

    Its threads round numbers below the smallest normal one to zero. Products of exponentials fall there often, and many
    processors take a hundred times as long for such numbers: a training step of the C4 network took ten times as long.
    """
    return ThreadPoolExecutor(threads, initializer=torch.set_flush_denormal, initargs=(True,))
