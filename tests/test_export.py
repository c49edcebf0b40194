"""Exported models compute what torch computes, and their files tell nothing about where they were made."""

import importlib.util
import inspect
import os

import pytest
import torch
from torch import nn

from conftest import require
from e2vit.export import ExportError, export
from e2vit.groups import cyclic, dihedral
from e2vit.models import (
    GCNN,
    GCNNConfig,
    GroupAttentionNet,
    GroupAttentionNetConfig,
    HybridViT,
    HybridViTConfig,
    OcticViT,
    OcticViTConfig,
    PooledHybrid,
    PooledHybridConfig,
    ViT,
    ViTConfig,
)

for package in ("onnx", "onnxscript", "onnxruntime"):
    require(importlib.util.find_spec(package) is not None, package)
require("dynamic_shapes" in inspect.signature(torch.onnx.export).parameters, "a torch that exports by tracing (2.5)")
onnx, onnxruntime = importlib.import_module("onnx"), importlib.import_module("onnxruntime")

MODELS = {
    "vit": lambda: ViT(ViTConfig().tiny()),
    "hybrid": lambda: HybridViT(HybridViTConfig(attention="within_pose").tiny()),
    "hybrid, rotary": lambda: HybridViT(HybridViTConfig(position="rotary", depth=1).tiny()),
    "pooled hybrid": lambda: PooledHybrid(PooledHybridConfig().tiny()),
    "octic": lambda: OcticViT(OcticViTConfig().tiny()),
    "gcnn": lambda: GCNN(GCNNConfig(group=cyclic(4)).tiny()),
    "group attention": lambda: GroupAttentionNet(
        GroupAttentionNetConfig(group=dihedral(4), window_shape="disc").tiny()
    ),
}


def images() -> torch.Tensor:
    return torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(9))


def perturbed(model: nn.Module) -> nn.Module:
    """Every parameter moved a little, so that nothing that starts at zero hides."""
    generator = torch.Generator().manual_seed(10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_file_agrees_with_torch_and_keeps_the_machine_to_itself(make, tmp_path):
    path, model = tmp_path / "model.onnx", perturbed(make())
    assert export(model, images(), path) < 1e-5
    content = path.read_bytes()
    for trace in (b"site-packages", b"e2vit/", b".py", b"Traceback", os.getcwd().encode(), b"/home/", b"/tmp/"):
        assert trace not in content
    proto = onnx.load(path)
    assert {entry.domain for entry in proto.opset_import} <= {"", "ai.onnx"}
    assert proto.graph.input[0].name == "images" and proto.graph.output[0].name == "logits"
    session = onnxruntime.InferenceSession(content)
    views = torch.stack([images()[0].rot90(k, (-2, -1)) for k in range(4)])
    logits = session.run(None, {"images": views.numpy()})[0]
    assert logits.shape == (4, 10)
    turns = abs(logits - logits[0]).max() / abs(logits).max()
    if isinstance(model, ViT):
        assert turns > 1e-2
    else:
        assert turns < 1e-5  # still invariant to quarter turns


class Noise(nn.Module):
    """Computes something else each time: no file can agree with it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.weight * torch.randn_like(x).flatten(1)[:, :10]


def test_a_file_that_disagrees_is_not_written(tmp_path):
    with pytest.raises(ExportError, match="deviates from torch|can't be exported"):
        export(Noise(), images(), tmp_path / "noise.onnx")
    assert not (tmp_path / "noise.onnx").exists()


def test_one_example_is_not_enough(tmp_path):
    with pytest.raises(ValueError, match="at least 2 example images"):
        export(MODELS["vit"](), images()[:1], tmp_path / "model.onnx")
