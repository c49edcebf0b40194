"""Local group attention: one function, computed by interchangeable backends with one result.

    reference  the formula in plain torch, one tile at a time: any device and precision, dropout, second derivatives
    numba      a kernel for the CPU, compiled at first use; needs the package numba
    triton     fused kernels for CUDA, forward and backward; not yet timed on a GPU

Each backend is a module with a function ``attend(q, k, value, position, element, table, mask)``.
"""

import warnings
from contextlib import nullcontext
from functools import lru_cache
from importlib import import_module
from types import ModuleType

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from e2vit.kernels import reference
from e2vit.kernels.reference import exporting

BACKENDS = {"reference": "reference", "numba": "cpu.kernel", "triton": "cuda.kernel"}
DEVICES = {"numba": "cpu", "triton": "cuda"}  # where a compiled kernel runs
# The compiled kernel that was faster than the reference in a benchmark record of this kind of device.
TIMED = {"cpu": "numba"}  # data/results/benchmarks/attention.json; there is no record of a GPU
_loaded: dict[str, ModuleType] = {"reference": reference}
FEW_SCORES = 300_000  # up to here the reference takes milliseconds, and nothing need be compiled


def attend(
    q: Float[Tensor, "batch head d g height width"],
    k: Float[Tensor, "batch head d m padded_height padded_width"],
    value: Float[Tensor, "batch head e m padded_height padded_width"],
    position: Float[Tensor, "*position_head v offset d"],
    element: Float[Tensor, "*element_head entry d"],
    table: Int64[Tensor, "v g m"],
    *,
    mask: Bool[Tensor, " offset"] | None = None,
    diagonal: bool = False,
    dropout: float = 0.0,
    backend: str = "auto",
) -> Float[Tensor, "batch head e v height width"]:
    """Σ_g Σ_{m,o} softmax_{(m,o)}(score[v,g,m,o](x)) value_m(x+o), with

    score[v,g,m,o](x) = q_g(x)·k_m(x+o) + q_g(x)·position[v,o] + q_g(x)·element[table[v,g,m]].

    q:        queries, already scaled.
    k, value: with a margin of side // 2 around the map, whatever it holds: keys in the margin never count.
    position: the embedding of each window offset, row by row, as pose v sees it; one for each head or for all.
    element:  the embeddings that ``table`` points into; one for each head or for all.
    mask:     the offsets that count; all of them when left out.
    diagonal: the query pose is the output pose (only g = v, no sum over g): |H| times cheaper.
    dropout:  the probability that a single attention weight is set to zero; the reference alone has it.
    backend:  a name from ``BACKENDS``, or "auto". "auto" takes the compiled kernel of the device where a benchmark
              record shows that it is faster and it can be imported and launched, else the reference: numba on a CPU,
              the reference on CUDA (no record yet) and anywhere else, and in whatever is exported.

    Half precision is computed in float32. Lifting is the case of g and m axes of length 1.
    """
    check(q, k, value, position, element, table, mask, diagonal)
    if backend == "auto":
        backend = "reference" if dropout else choose(q, k, position)
    elif backend not in BACKENDS:
        raise ValueError(f"backend is 'auto' or one of {', '.join(BACKENDS)}, not {backend!r}")
    elif q.device.type != DEVICES.get(backend, q.device.type):
        raise ValueError(f"backend {backend!r} runs on {DEVICES[backend]}, the tensors are on {q.device}")
    elif problem := _problem(backend, q.device.type, q.dtype):
        raise RuntimeError(f"backend {backend!r} can't be used here: {problem}")
    if dropout and backend != "reference":
        raise ValueError(f"dropout of attention weights is in the reference backend alone, not in {backend!r}")
    position = position if position.ndim == 4 else position[None]
    element = element if element.ndim == 3 else element[None]
    dtype, heads = q.dtype, q.shape[1]
    if dtype not in (torch.float32, torch.float64):
        q, k, value, position, element = (x.float() for x in (q, k, value, position, element))
    inputs = q, k, value, position, element, table
    extra = {"dropout": dropout} if dropout else {}
    autocast = torch.is_autocast_enabled(q.device.type)
    with torch.autocast(q.device.type, enabled=False) if autocast else nullcontext():
        if diagonal:
            inputs = poses_as_heads(*inputs)
        out = _loaded[backend].attend(*inputs, mask, **extra)
    if diagonal:
        out = rearrange(out, "b (head v) e 1 y x -> b head e v y x", head=heads)
    return out.to(dtype)


def poses_as_heads(
    q: Float[Tensor, "batch head d v height width"],
    k: Float[Tensor, "batch head d m padded_height padded_width"],
    value: Float[Tensor, "batch head e m padded_height padded_width"],
    position: Float[Tensor, "some_heads v offset d"],
    element: Float[Tensor, "some_heads entry d"],
    table: Int64[Tensor, "v v m"],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Arguments that make diagonal attention of ordinary attention: each output pose becomes a head of its own.

    Its one query pose is q_v, keys and values are repeated, and m itself points to the embedding of table[v,v,m].
    """
    heads, outputs, poses = q.shape[1], len(table), k.shape[3]
    v = torch.arange(outputs, device=q.device)
    k, value = (repeat(x, "b head d m y x -> b (head v) d m y x", v=outputs) for x in (k, value))
    position = rearrange(position.expand(heads, -1, -1, -1), "head v o d -> (head v) 1 o d")
    element = rearrange(element[:, table[v, v]].expand(heads, -1, -1, -1), "head v m d -> (head v) m d")
    q = rearrange(q, "b head d v y x -> b (head v) d 1 y x")
    return q, k, value, position, element, torch.arange(poses, device=q.device)[None, None]


def choose(q: Tensor, k: Tensor, position: Tensor) -> str:
    """The backend that "auto" stands for, given the device of q and the number of scores."""
    wanted = TIMED.get(q.device.type)
    if wanted is None or exporting():
        return "reference"
    batch, heads, _, queries, height, width = q.shape
    scores = batch * heads * queries * height * width * k.shape[3] * position.shape[-3] * position.shape[-2]
    if scores <= FEW_SCORES:
        return "reference"
    problem = _problem(wanted, q.device.type, q.dtype)
    if problem:
        _warn_once(wanted, problem)
    return "reference" if problem else wanted


@torch.compiler.assume_constant_result
def _problem(backend: str, device: str, dtype: torch.dtype) -> str | None:
    """Why the backend can't be used, or None."""
    return None if backend == "reference" else _trial(backend, device, dtype)


@lru_cache
def _trial(backend: str, device: str, dtype: torch.dtype) -> str | None:
    """Import the backend and run it once on four pixels. A GPU without a compiler, for example, shows at the launch."""
    options = {"device": device, "dtype": dtype if dtype == torch.float64 else torch.float32}
    maps, offset = torch.ones(1, 1, 1, 1, 2, 2, **options), torch.ones(1, 1, 1, 1, **options)
    table = torch.zeros(1, 1, 1, dtype=torch.int64, device=device)
    try:
        module = _loaded[backend] = import_module(f"e2vit.kernels.{BACKENDS[backend]}")
        module.attend(maps, maps, maps, offset, offset[0], table)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


@lru_cache
def _warn_once(backend: str, problem: str) -> None:
    warnings.warn(f"{backend} can't be used ({problem}): attention takes the slower reference path", stacklevel=4)


def check(q, k, value, position, element, table, mask, diagonal) -> None:
    """One clear ValueError when the tensors do not fit together, before any work is done."""
    floats = {"q": q, "k": k, "value": value, "position": position, "element": element}
    for name, x in {**floats, "table": table, "mask": mask}.items():
        if name in floats and x.dtype != q.dtype:
            raise ValueError(f"{name} is {x.dtype} but q is {q.dtype}: attention takes one dtype")
        if x is not None and x.device != q.device:
            raise ValueError(f"{name} is on {x.device} but q is on {q.device}: attention takes one device")
    side, d, g, m = k.shape[-1] - q.shape[-1] + 1, q.shape[2], q.shape[3], k.shape[3]
    if side % 2 == 0 or side < 1 or k.shape[-2] - q.shape[-2] + 1 != side:
        raise ValueError(f"a map of {tuple(q.shape[-2:])} and keys of {tuple(k.shape[-2:])} make no odd square window")
    poses, offsets = position.shape[-3:-1]
    expected = {
        "k": (k.shape[:3], q.shape[:3]),
        "value": ((*value.shape[:2], *value.shape[3:]), (*k.shape[:2], *k.shape[3:])),
        "position": ((offsets, position.shape[-1]), (side**2, d)),
        "element": (element.shape[-1:], (d,)),
        "table": (table.shape, (poses, g, m)),
        "mask": ((side**2,) if mask is None else mask.shape, (side**2,)),
    }
    for name, (has, needs) in expected.items():
        if tuple(has) != tuple(needs):
            raise ValueError(f"the axes of {name} are {tuple(has)}, the other tensors need {tuple(needs)}")
    if diagonal and poses != g:
        raise ValueError(f"diagonal attention needs as many output poses as query poses, got {poses} and {g}")
