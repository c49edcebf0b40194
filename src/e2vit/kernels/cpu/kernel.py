"""Local group attention on the CPU: one kernel compiled by numba at first use, forward and backward.

Each (image, head) is one piece of work; threads take pieces, as many as torch may use. Nothing of the size of the
scores is ever in memory: a piece is computed eight pixels at a time (``weights``), and computed again in the backward.
"""

import hashlib
import inspect
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numba import njit
from torch import Tensor

from e2vit.kernels.cpu import products
from e2vit.kernels.cpu import program as pieces
from e2vit.kernels.cpu import scores as weights
from e2vit.kernels.cpu import simd as lanes


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
    return _Attention.apply(q, k, value, position, element, table, mask)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, value, position, element, table, mask):
        ctx.save_for_backward(q, k, value, position, element)
        ctx.rest = table, mask
        batch, heads, _, _, height, width = q.shape
        out = q.new_empty(batch, heads, value.shape[2], len(table), height, width)
        _spread(pieces.forward, batch * heads, _arguments(q, k, value, position, element, table, mask), [out])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout):
        q, k, value, position, element = ctx.saved_tensors
        table, mask = ctx.rest
        batch, heads = q.shape[:2]
        dq, dk, dvalue = (torch.empty(x.shape, dtype=x.dtype) for x in (q, k, value))
        arguments = _arguments(q, k, value, position, element, table, mask)
        offsets = len(arguments[4])
        dposition = q.new_empty(batch, heads, len(table), offsets, q.shape[2])
        delement = q.new_empty(batch, heads, *element.shape[1:])
        results = [dout.contiguous(), dq, dk, dvalue, dposition, delement]
        _spread(pieces.backward, batch * heads, arguments, results)
        dposition, delement = dposition.sum(0), delement.sum(0)
        if len(position) == 1:
            dposition = dposition.sum(0, keepdim=True)
        if len(element) == 1:
            delement = delement.sum(0, keepdim=True)
        if mask is not None:
            every = torch.zeros_like(position)
            every[:, :, mask] = dposition
            dposition = every
        return dq, dk, dvalue, dposition, delement, None, None, None


def _arguments(q, k, value, position, element, table, mask) -> tuple:
    """What both compiled functions take: flat arrays, the offsets that count, and the lengths of the axes."""
    heads, (height, width), side = q.shape[1], q.shape[-2:], k.shape[-1] - q.shape[-1] + 1
    counts = np.ones(side**2, bool) if mask is None else mask.numpy()
    chosen = np.flatnonzero(counts)
    first = np.searchsorted(chosen, np.arange(side + 1) * side)  # where each row of the window begins among them
    position = position.detach()[:, :, torch.from_numpy(chosen)].mT  # some_heads v d offset
    sizes = (len(table), q.shape[3], k.shape[3], q.shape[2], element.shape[1])
    shape = (heads, len(position), len(element), value.shape[2], height, width, side)
    flat = [x.detach().contiguous().view(-1).numpy() for x in (q, k, value, position)]
    return (
        *flat,
        chosen,
        first,
        element.detach().contiguous().view(-1).numpy(),
        table.contiguous().numpy(),
        sizes,
        shape,
    )


def _spread(function, count: int, arguments: tuple, results: list[Tensor]) -> None:
    """Run the compiled ``function`` on all ``count`` pieces, in as many threads as torch may use."""
    results = [x.view(-1).numpy() for x in results]
    threads = min(torch.get_num_threads(), count)
    work = lambda lo, hi: _kept(function)(*arguments, *results, lo, hi)  # noqa: E731
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


@cache
def _kept(function):
    """The function compiled, and kept on disk outside the checkout under a name that changes with its source."""
    function = inspect.unwrap(function)
    source = b"".join(Path(module.__file__).read_bytes() for module in (lanes, products, weights, pieces))
    before, name = numba.config.CACHE_DIR, "e2vit-" + hashlib.sha256(source).hexdigest()[:12]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    try:
        for folder in (before or home, tempfile.gettempdir()):
            numba.config.CACHE_DIR = os.path.join(folder, name)
            try:
                return njit(nogil=True, no_cfunc_wrapper=True, cache=True)(function)
            except (RuntimeError, OSError):  # no folder that can be written to
                continue
        return njit(nogil=True)(function)
    finally:
        numba.config.CACHE_DIR = before
