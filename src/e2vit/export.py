"""A trained model as a file that runs in a web page or anywhere else: ONNX, checked against torch.

The file holds no path and no trace of how it was made. The operators are those that ONNX Runtime Web has.
Needs the packages onnx, onnxscript and onnxruntime: pip install "e2vit[export]".
"""

import copy
import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from e2vit.experiments import Experiment, run
from e2vit.layers.attention import LocalGroupSelfAttention

OPSET = 18  # new enough for the exporter, old enough for ONNX Runtime Web


class ExportError(RuntimeError):
    """A model that could not be exported, or whose file computes something else, with the reason in one sentence."""


def export(model: nn.Module, images: Tensor, path: Path, tolerance: float = 1e-5) -> float:
    """Writes a model that maps ``images`` to ``logits``, for any number of images. Returns its largest deviation.

    images: examples (batch, channel, height, width); at least 2, so that the batch stays an open axis.
    tolerance: largest |ONNX − torch| / max |torch| on the examples, on batches of other sizes, and on black images.
    Error: ExportError when a package is missing, an operator is unknown, or the file disagrees with torch; nothing is
    written then.
    """
    if len(images) < 2:
        raise ValueError(f"an export needs at least 2 example images, got {len(images)}")
    onnx = _packages()[0]
    images = images.detach().cpu().float()
    model = _exportable(model, images)
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                model,
                (images,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as reason:  # whatever the exporter raises, the reader needs its last line
        last = str(reason.__cause__ or reason).strip().splitlines()[-1]
        raise ExportError(f"{type(model).__name__} can't be exported: {last}") from reason
    assert program is not None
    proto = program.model_proto
    _forget_origins(proto, type(model).__name__)
    onnx.checker.check_model(proto)
    content = proto.SerializeToString()
    deviation = max(_deviation(content, model, batch) for batch in (images, images[:1], images.repeat(2, 1, 1, 1)))
    # A normalization makes rounding large where an image is black; there only what is not finite counts.
    if math.isinf(_deviation(content, model, torch.zeros_like(images))):
        deviation = math.inf
    if deviation > tolerance:
        raise ExportError(
            f"the exported {type(model).__name__} deviates from torch by {deviation:.1e}, more than {tolerance:.0e}"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return deviation


def export_run(experiment: Experiment, path: Path, seed: int = 0, results: Path | None = None) -> float:
    """The trained model of an experiment, from its record. Returns the largest deviation from torch."""
    model = run(experiment, "report", seed, results=results).model
    config: Any = model.config
    size = config.in_channels, config.image_size, config.image_size
    return export(model, torch.rand(2, *size, generator=torch.Generator().manual_seed(0)), path)


@torch.no_grad()
def _exportable(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy for tracing: group attention by the formula written out, without kernels and without a branch on values.

    It has seen the images once, so that what a model caches, such as the offsets of a window, is no part of the trace.
    """
    model = copy.deepcopy(model).cpu().float().eval()
    for module in model.modules():
        if isinstance(module, LocalGroupSelfAttention):
            module.backend = "reference"
    model(images)
    return model


def _packages() -> tuple[ModuleType, ...]:
    """onnx, onnxruntime, and onnxscript, through which torch's exporter works."""
    try:
        return tuple(importlib.import_module(name) for name in ("onnx", "onnxruntime", "onnxscript"))
    except ImportError as reason:
        raise ExportError(f'the export needs the package {reason.name}: pip install "e2vit[export]"') from None


def _forget_origins(proto, name: str) -> None:
    """Removes what the exporter writes about this machine: source lines, stack traces, doc strings."""
    proto.doc_string, proto.producer_name, proto.producer_version = "", "", ""
    del proto.metadata_props[:]
    graphs = [proto.graph]
    proto.graph.name = name
    for function in proto.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        _forget_nodes(function.node, graphs)
    while graphs:
        graph = graphs.pop()
        graph.doc_string = ""
        del graph.metadata_props[:]
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.doc_string = ""
            del value.metadata_props[:]
        _forget_nodes(graph.node, graphs)


def _forget_nodes(nodes, graphs: list) -> None:
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
        graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]


@torch.no_grad()
def _deviation(content: bytes, model: nn.Module, images: Tensor) -> float:
    """max |ONNX − torch| / max |torch| of finite numbers; infinite where one of both is not finite and they differ."""
    onnxruntime = _packages()[1]
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    expected = model(images)
    found = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    same = (found == expected) | (found.isnan() & expected.isnan())
    difference = (found - expected).abs().masked_fill(same, 0.0).nan_to_num(nan=math.inf).max().item()
    size = expected.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).abs().max().item()
    return difference / max(size, torch.finfo(expected.dtype).tiny)
