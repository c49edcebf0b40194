"""Every aggregate ships: as an ONNX file with a free batch size, and compiled as one graph."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import e2vit
from conftest import require
from e2vit.export import export
from e2vit.groups import cyclic, dihedral
from e2vit.models import Symmetrized
from e2vit.models.symmetrized import AGGREGATES

for package in ("onnx", "onnxscript", "onnxruntime"):
    require(importlib.util.find_spec(package) is not None, package)


def images() -> torch.Tensor:
    return torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(9))


def wrapped(name: str, group, **options) -> Symmetrized:
    """Around a small classifier that ends in a log-softmax, every parameter moved."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(27, 5), nn.LogSoftmax(1))
    model = Symmetrized(model, group, name, example=images(), **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("name", AGGREGATES)
def test_an_exported_aggregate_agrees_with_torch_for_any_batch(name, tmp_path):
    export(wrapped(name, dihedral(4)), images(), tmp_path / "model.onnx", 1e-5)


def test_interpolated_views_are_exported(tmp_path):
    model = wrapped("feature_mean", cyclic(8), interpolation="bilinear")
    export(model, images(), tmp_path / "model.onnx", 1e-5)


COMPILED = """
import sys, torch
sys.path.insert(0, {here!r})
from test_export_symmetrized import AGGREGATES, dihedral, images, wrapped
for name in AGGREGATES:
    torch._dynamo.reset()
    model = wrapped(name, dihedral(4))
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
    with torch.no_grad():
        for x in (images(), images().repeat(3, 1, 1, 1)):
            assert (compiled(x) - model(x)).abs().max() < 1e-5, name
print("compiled", len(AGGREGATES))
"""


def test_every_aggregate_is_compiled_as_one_graph():
    """In a process of its own: the checkers of shapes, which tests add, are no part of a graph."""
    source, here = str(Path(e2vit.__file__).parents[1]), str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {source!r})\n" + COMPILED.format(here=here)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["compiled", str(len(AGGREGATES))], done.stderr[-2000:]
