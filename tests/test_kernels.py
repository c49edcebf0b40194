"""Every backend of local group attention against the formula, written as loops, and against each other."""

import importlib.metadata
import importlib.util
import math
import os
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from conftest import require
from e2vit.kernels import attend, reference

require(importlib.util.find_spec("numba") is not None, "numba")
numba_kernel = importlib.import_module("e2vit.kernels.cpu.kernel")
CASES = {  # output poses, query poses, key poses, window, a disc of offsets, diagonal, own tables for each head
    "group": (3, 2, 5, 3, False, False, False),
    "blocks": (5, 4, 6, 5, False, False, True),
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


def tensors(name, dtype=torch.float64, scale=1.0, batch=2, head=3, d=7, e=6, height=4, width=11):
    """q, k, value, position, element, and the table and options of one case. scale: of the scores."""
    outputs, queries, poses, side, disc, diagonal, own = CASES[name]
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    padded, heads = (height + side - 1, width + side - 1), head if own else 1
    q, k = random(batch, head, d, queries, height, width) * scale, random(batch, head, d, poses, *padded)
    value = random(batch, head, e, poses, *padded)
    position, element = random(heads, outputs, side**2, d), random(heads, 9, d)
    table = torch.randint(0, 9, (outputs, queries, poses), generator=generator)
    reach = torch.arange(side) - side // 2
    mask = (reach[:, None] ** 2 + reach**2 <= (side // 2) ** 2).flatten() if disc else None
    return [q, k, value, position, element], {"table": table, "mask": mask, "diagonal": diagonal}


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


@pytest.mark.parametrize("scale", [20, 200])
@pytest.mark.parametrize("backend", BACKENDS)
def test_factors_whose_maxima_lie_far_apart_do_no_harm(backend, scale):
    """Scores beyond ±50, then beyond ±500: the product of the factors' maxima is no score, and sums underflow."""
    inputs, options = tensors("group", scale=scale)
    expected = with_gradients(whole, inputs, options)
    assert largest_error(with_gradients(BACKENDS[backend], inputs, options), expected) < 1e-10
    single = [x.float() for x in inputs]
    rounded = whole(*(x.double() for x in single), **options)
    assert largest_error([BACKENDS[backend](*single, **options)], [rounded]) < 1e-5 * scale


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_those_of_finite_differences(backend):
    inputs, options = tensors("disc", **TINY)
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda *x: BACKENDS[backend](*x, **options), inputs, fast_mode=True)


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


def test_no_folder_to_keep_the_compiled_kernel_in_is_no_error(monkeypatch, tmp_path):
    nowhere = tmp_path / "file"
    nowhere.write_text("not a folder")
    monkeypatch.setattr(numba_kernel.numba.config, "CACHE_DIR", str(nowhere))
    monkeypatch.setattr(numba_kernel.tempfile, "gettempdir", lambda: str(nowhere))
    numba_kernel._kept.__wrapped__(numba_kernel.pieces.forward)
    assert nowhere.is_file() and numba_kernel.numba.config.CACHE_DIR == str(nowhere)


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
    here = Path(__file__).parent
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    result = subprocess.run(
        [sys.executable, "-c", TRITON_CASES], capture_output=True, text=True, env=environment, cwd=here
    )  # whose conftest.py this file imports
    assert result.returncode == 0, result.stderr
