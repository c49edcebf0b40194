"""Every backend of local group attention against the formula, written as loops, and against each other."""

import importlib.metadata
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import warnings
from functools import partial
from itertools import product
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from conftest import require
from e2vit import kernels
from e2vit.kernels import DEVICES, TIMED, attend, reference

require(importlib.util.find_spec("numba") is not None, "numba")
numba_kernel, simd = (importlib.import_module(f"e2vit.kernels.cpu.{name}") for name in ("kernel", "simd"))
caching = importlib.import_module("numba.core.caching")
CASES = {  # output poses, query poses, key poses, window, a disc of offsets, diagonal, own tables for each head
    "group": (3, 2, 5, 3, False, False, False),
    "blocks": (8, 4, 12, 5, False, False, True),
    "lifting": (4, 1, 1, 5, False, False, False),
    "disc": (2, 3, 2, 5, True, False, True),
    "diagonal": (3, 3, 3, 3, False, True, True),
    "pixel": (2, 2, 2, 1, False, False, False),
}
TINY = {"batch": 1, "head": 2, "d": 3, "e": 2, "height": 2, "width": 3}
LIMIT = {torch.float64: 1e-10, torch.float32: 1e-4}


def whole(*inputs, **options):
    """The reference in one tile."""
    return attend(*inputs, **options, backend="reference")


def tiled(*inputs, **options):
    """The reference in the smallest tiles, one row of one image."""
    with patch.object(reference, "TILE", 1):
        return attend(*inputs, **options, backend="reference")


BACKENDS = {"numba": partial(attend, backend="numba"), "tiled": tiled}


def drawn(generator, batch, head, d, e, outputs, queries, poses, side, height, width, own, entries):
    """q, k, value, position and element in double precision, and a table. own: heads with tables of their own."""

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    padded = (height + side - 1, width + side - 1)
    q, k = random(batch, head, d, queries, height, width), random(batch, head, d, poses, *padded)
    value = random(batch, head, e, poses, *padded)
    tables = [random(own, outputs, side**2, d), random(own, entries, d)]
    return [q, k, value, *tables], torch.randint(0, entries, (outputs, queries, poses), generator=generator)


def tensors(name, dtype=torch.float64, batch=2, head=3, d=7, e=6, height=4, width=11):
    """q, k, value, position, element, and the table and options of one case."""
    outputs, queries, poses, side, disc, diagonal, own = CASES[name]
    sizes = batch, head, d, e, outputs, queries, poses, side, height, width, head if own else 1, 9
    inputs, table = drawn(torch.Generator().manual_seed(1), *sizes)
    reach = torch.arange(side) - side // 2
    mask = (reach[:, None] ** 2 + reach**2 <= (side // 2) ** 2).flatten() if disc else None
    return [x.to(dtype) for x in inputs], {"table": table, "mask": mask, "diagonal": diagonal}


def formula(q, k, value, position, element, table, mask, diagonal):
    """The definition, one number at a time."""
    batch, heads, d, queries, height, width = q.shape
    side, poses = k.shape[-1] - width + 1, k.shape[3]
    out = torch.zeros(batch, heads, value.shape[2], len(table), height, width, dtype=q.dtype)
    for b, head, v, y, x in product(*map(range, (batch, heads, len(table), height, width))):
        for g in [v] if diagonal else range(queries):
            query, weights = q[b, head, :, g, y, x], {}
            for m, down, right in product(range(poses), range(side), range(side)):
                o, row, column = down * side + right, y + down - side // 2, x + right - side // 2
                if 0 <= row < height and 0 <= column < width and (mask is None or mask[o]):
                    key = k[b, head, :, m, y + down, x + right] + position[head % len(position), v, o]
                    key = key + element[head % len(element), table[v, g, m]]
                    weights[m, down, right] = math.exp(float(query @ key))
            for (m, down, right), weight in weights.items():
                out[b, head, :, v, y, x] += weight / sum(weights.values()) * value[b, head, :, m, y + down, x + right]
    return out


def with_gradients(function, inputs, options):
    """The result and the gradient of every input, for one fixed random gradient of the result."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*inputs, **options)
    slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return [out, *torch.autograd.grad(out, inputs, slope.to(out.dtype))]


def largest_error(found, expected):
    """Largest difference, relative to the largest number of each tensor where that is above 1."""
    return max(
        ((a.double() - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("name", ["disc", "lifting", "diagonal"])
def test_the_reference_is_the_formula(name):
    inputs, options = tensors(name, **TINY)
    assert largest_error([whole(*inputs, **options)], [formula(*inputs, **options)]) < 1e-12


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_agree_with_their_gradients(backend, name):
    inputs, options = tensors(name)
    expected = with_gradients(whole, inputs, options)
    for dtype in (torch.float64, torch.float32):
        found = with_gradients(BACKENDS[backend], [x.to(dtype) for x in inputs], options)
        assert found[0].dtype == dtype
        assert largest_error(found, expected) < LIMIT[dtype]


@pytest.mark.parametrize("backend", BACKENDS)
def test_first_and_second_derivatives_are_those_of_finite_differences(backend):
    inputs, options = tensors("disc", **TINY)
    inputs = [x.requires_grad_() for x in inputs]
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda *x: BACKENDS[backend](*x, **options), inputs, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_is_computed_in_float32(backend):
    inputs, options = tensors("group", dtype=torch.bfloat16)
    found = BACKENDS[backend](*inputs, **options)
    assert found.dtype == torch.bfloat16
    assert largest_error([found], [whole(*(x.double() for x in inputs), **options)]) < 1e-2


def test_another_table_breaks_it():
    inputs, options = tensors("group")
    other = {**options, "table": options["table"].roll(1, 0)}
    assert largest_error([BACKENDS["numba"](*inputs, **options)], [whole(*inputs, **other)]) > 1e-2


def test_the_number_of_threads_changes_no_bit():
    inputs, options = tensors("blocks")
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(with_gradients(BACKENDS["numba"], inputs, options))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_no_folder_to_keep_the_compiled_kernel_in_is_no_error(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert simd.entry(numba_kernel.program.forward.py_func).py_func is numba_kernel.program.forward.py_func


def large(dtype=torch.float32):
    """A problem with more scores than ``FEW_SCORES``."""
    return tensors("group", dtype, head=6, height=15, width=20)


COMPILED = """
import torch
from functools import partial
from test_kernels import attend, large, largest_error, whole, with_gradients
for backend in ("auto", "reference"):
    inputs, options = large()
    compiled = torch.compile(partial(attend, **options, backend=backend), fullgraph=True, backend="aot_eager")
    found = with_gradients(lambda *x, **_: compiled(*x), inputs, options)
    assert largest_error(found, with_gradients(whole, inputs, options)) < 1e-4, backend
"""


def run(script, **environment):
    """Run a script that imports this file, in a process of its own."""
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, **environment}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=here)
    assert done.returncode == 0, done.stderr


def test_a_compiled_graph_holds_the_kernel():
    """In a process without shape checks, which torch.compile can't follow."""
    run(COMPILED)


class Layer(torch.nn.Module):
    def __init__(self, backend):
        super().__init__()
        self.options = large()[1] | {"backend": backend}

    def forward(self, *inputs):
        return attend(*inputs, **self.options)


@pytest.mark.parametrize("backend", ["auto", "numba"])
def test_an_exported_graph_takes_any_number_of_images(backend):
    (q, k, value, *rest), options = large()
    free = [{0: torch.export.Dim("batch")}] * 3
    program = torch.export.export(Layer(backend), (q, k, value, *rest), dynamic_shapes=((*free, {}, {}),))
    operators = {str(node.target) for node in program.graph.nodes}
    assert ("e2vit.window_attention_cpu.default" in operators) == (backend == "numba")
    five = [torch.cat([x, x, x[:1]]) for x in (q, k, value)]
    assert largest_error([program.module()(*five, *rest)], [whole(*five, *rest, **options)]) < 1e-5


def forgotten():
    kernels._trial.cache_clear()
    kernels._warn_once.cache_clear()


@pytest.mark.parametrize("fault", ["import", "launch"])
def test_a_kernel_that_fails_gives_way_to_the_reference_with_one_warning(monkeypatch, fault):
    def fail(*inputs):
        raise OSError("libkernel.so is missing\nand more lines")

    if fault == "import":
        monkeypatch.setitem(sys.modules, "e2vit.kernels.cpu.kernel", None)
    else:
        monkeypatch.setattr(numba_kernel, "attend", fail)
    forgotten()
    inputs, options = large()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results = [attend(*inputs, **options) for _ in range(2)]
        assert all(torch.equal(x, whole(*inputs, **options)) for x in results)
        reason = "ModuleNotFoundError: import of" if fault == "import" else r"OSError: libkernel.so is missing\)"
        assert len(caught) == 1 and re.search(f"numba can't be used .{reason}", str(caught[0].message))
        with pytest.raises(RuntimeError, match=f"backend 'numba' can't be used here: {reason[:6]}"):
            attend(*inputs, **options, backend="numba")
    finally:
        monkeypatch.undo()
        forgotten()


def test_auto_takes_a_kernel_where_a_record_shows_that_it_is_faster():
    folder = Path(__file__).parents[1] / "data" / "results" / "benchmarks"
    for device, name in (("cpu", "attention.json"), ("cuda", "attention-cuda.json")):
        rows = json.loads((folder / name).read_text())["measurements"] if (folder / name).exists() else []
        faster = [
            backend
            for backend in DEVICES
            if any(row.get("ratio", {}).get(backend, {}).get("seconds", 0) > 1 for row in rows)
        ]
        assert [TIMED[x] for x in (device,) if x in TIMED] == faster
    inputs, options = large()
    assert torch.equal(attend(*inputs, **options), attend(*inputs, **options, backend="numba"))
    assert not torch.equal(attend(*inputs, **options), whole(*inputs, **options))


TRITON_CASES = """
import torch
from test_kernels import CASES, LIMIT, largest_error, tensors, whole, with_gradients
from e2vit.kernels.cuda import kernel as triton_kernel
torch.set_num_threads(1)
CASES |= {"lifting": (2, 1, 1, 3, False, False, False), "group": (1, 5, 2, 3, True, False, True),
          "poses": (3, 2, 2, 3, False, False, True)}
for name, width in (("lifting", 12), ("group", 4), ("poses", 4)):
    sizes = {"batch": 1, "head": 2 if width == 4 else 1, "d": 3, "e": 5, "height": 3, "width": width}
    inputs, options = tensors(name, torch.float32, **sizes)
    expected = with_gradients(whole, [x.double() for x in inputs], options)
    del options["diagonal"]
    assert largest_error(with_gradients(triton_kernel.attend, inputs, options), expected) < LIMIT[torch.float32], name
"""


def test_triton_agrees_in_its_interpreter():
    """In a process of its own: whether Triton interprets is decided when it is imported."""
    require(importlib.util.find_spec("triton") is not None, "Triton, which comes with torch on Linux alone,")
    known = tuple(map(int, importlib.metadata.version("triton").split(".")[:2])) >= (3, 1)
    require(known, "a Triton whose interpreter knows NumPy 2 (3.1 or newer)")
    run(TRITON_CASES, TRITON_INTERPRET="1")
