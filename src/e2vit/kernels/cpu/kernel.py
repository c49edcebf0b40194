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
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from e2vit.kernels.cpu import program
from e2vit.kernels.cpu.simd import WIDTH
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
    return _run(q, k, value, position, element, table, mask)


def _forward(q, k, value, position, element, table, mask):
    out = q.new_empty(*q.shape[:2], value.shape[2], len(table), *q.shape[-2:])
    _spread(program.forward, _arguments(q, k, value, position, element, table, mask), [out, *[q.new_empty(0)] * 5])
    return out, q.new_empty(0)


def _backward(dout, kept, q, k, value, position, element, table, mask):
    arguments = _arguments(q, k, value, position, element, table, mask)
    maps = [torch.empty_like(x) for x in arguments[:3]]
    dposition = q.new_empty(*q.shape[:2], len(table), q.shape[2], len(arguments[6]))
    delement = q.new_empty(*q.shape[:2], *element.mT.shape[1:])
    _spread(program.backward, arguments, [dout.contiguous(), *maps, dposition, delement])
    dposition, delement = (
        (x.sum(0) if len(given) > 1 else x.flatten(0, 1).sum(0, keepdim=True)).mT.contiguous()
        for x, given in ((dposition, position), (delement, element))
    )
    if mask is not None:
        every = torch.zeros_like(position)
        every[:, :, mask] = dposition
        dposition = every
    return *maps, dposition, delement


_run = operator("window_attention_cpu", _forward, _backward, keeps=False)


def _arguments(q, k, value, position, element, table, mask) -> tuple:
    """What both compiled functions take: arrays, the offsets that count, and the lengths of the axes."""
    heads, (height, width), side = q.shape[1], q.shape[-2:], k.shape[-1] - q.shape[-1] + 1
    chosen = np.flatnonzero(np.ones(side**2, bool) if mask is None else mask.numpy())
    first = np.searchsorted(chosen, np.arange(side + 1) * side)  # where each row of the window begins among them
    tables = _table(position[:, :, torch.from_numpy(chosen)].mT), _table(element.mT[:, None])
    sizes = (len(table), q.shape[3], k.shape[3], q.shape[2], element.shape[1])
    shape = (heads, len(position), len(element), value.shape[2], height, width, side)
    rows = (0,) * (1 if any(axis % 4 for axis in table.shape) else 4)  # poses done at once
    maps = (x.contiguous() for x in (q, k, value))
    return *maps, *tables, table.contiguous().numpy(), chosen, first, sizes, shape, rows


def _table(numbers: Float[Tensor, "some_heads pose d column"]) -> Float[Tensor, "some_heads plane column lane"]:
    """Each number WIDTH times, and behind them a plane of zeros: what ``products`` reads."""
    planes = F.pad(numbers.flatten(1, 2), (0, 0, 0, 1))
    return planes[..., None].repeat(1, 1, 1, WIDTH)


def _spread(function, arguments: tuple, results: list[Tensor]) -> None:
    """Run the compiled ``function`` on all (image, head), in as many threads as torch may use."""
    flat = [x.view(-1).numpy() if isinstance(x, Tensor) else x for x in (*arguments, *results)]
    count = arguments[0].shape[:2].numel()
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
