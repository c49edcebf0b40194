"""Local group attention, computed by interchangeable backends with one result.

    naive    every score in memory: the formula, and the released order of operations
    torch    no unfolding and no tensor with three pose axes and a window axis
    numba    one just-in-time compiled kernel for the CPU; needs the numba package
    triton   one fused kernel for CUDA, forward and backward; scores stay in registers

Each backend is a module with a function ``attend(q, k, value, position, element, table, mask, diagonal)``.
"""

import warnings
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec

from jaxtyping import Bool, Float, Int64
from torch import Tensor

MODULES = {"naive": "reference", "torch": "torch_path", "numba": "cpu.kernel", "triton": "cuda.kernel"}
FEW_SCORES = 300_000  # up to here the written-out formula takes milliseconds, and nothing need be compiled


def attend(
    q: Float[Tensor, "batch head d g height width"],
    k: Float[Tensor, "batch head d m padded_height padded_width"],
    value: Float[Tensor, "batch head e m padded_height padded_width"],
    position: Float[Tensor, "v offset d"] | Float[Tensor, "head v offset d"],
    element: Float[Tensor, "entry d"] | Float[Tensor, "head entry d"],
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
    position: the embedding of each window offset, row by row, as pose v sees it; shared by the heads or not.
    element:  the embeddings that ``table`` points into; shared by the heads or not.
    mask:     the offsets that count; all of them when left out.
    diagonal: the query pose is the output pose (only g = v, no sum over g): |H| times cheaper.
    dropout:  of single attention weights; the naive backend alone has it.
    backend:  a name from ``MODULES``, or "auto" to choose by device and size.

    Lifting is the case of g and m axes of length 1.
    """
    check(q, k, value, position, element, table, mask, diagonal)
    if backend == "auto":
        backend = "naive" if dropout else choose(q, k, position)
    if backend not in MODULES:
        raise ValueError(f"backend is 'auto' or one of {', '.join(MODULES)}, not {backend!r}")
    if dropout and backend != "naive":
        raise ValueError(f"dropout of attention weights is in the naive backend alone, not in {backend}")
    position = position if position.ndim == 4 else position[None]
    element = element if element.ndim == 3 else element[None]
    extra = {"dropout": dropout} if dropout else {}
    module = import_module(f"e2vit.kernels.{MODULES[backend]}")
    return module.attend(q, k, value, position, element, table, mask, diagonal, **extra)


def choose(q: Tensor, k: Tensor, position: Tensor) -> str:
    """The fastest backend at hand for the device of q and this number of scores."""
    batch, heads, _, queries, height, width = q.shape
    scores = batch * heads * queries * height * width * k.shape[3] * position.shape[-3] * position.shape[-2]
    if q.device.type == "cpu" and scores <= FEW_SCORES:
        return "naive"
    wanted = {"cuda": "triton", "cpu": "numba"}.get(q.device.type, "torch")
    if wanted != "torch" and not _at_hand(wanted):
        _warn_once(wanted)
        wanted = "torch"
    return wanted if _at_hand(wanted) else "naive"


@lru_cache
def _at_hand(name: str) -> bool:
    present = find_spec(f"e2vit.kernels.{MODULES[name]}") is not None
    return present and (name == "torch" or find_spec(name) is not None)


@lru_cache
def _warn_once(name: str) -> None:
    warnings.warn(f"{name} is not installed: attention takes a slower path", stacklevel=4)


def check(q, k, value, position, element, table, mask, diagonal) -> None:
    """One clear ValueError when the tensors do not fit together, before any work is done."""
    floats = {"q": q, "k": k, "value": value, "position": position, "element": element}
    for name, x in floats.items():
        if x.dtype != q.dtype:
            raise ValueError(f"{name} is {x.dtype} but q is {q.dtype}: attention takes one dtype")
    for name, x in {**floats, "table": table, "mask": mask}.items():
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
    if diagonal and not poses == g == m:
        raise ValueError(f"diagonal attention needs as many output poses as query poses, got {poses} and {g}")
