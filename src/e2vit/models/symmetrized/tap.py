"""Read and replace what flows into a layer of a model, in one thread: a mode of ``torch.overrides``, not a hook."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from e2vit.models.symmetrized.example import Output


class Tap(TorchFunctionMode):
    """Reads what flows into the linear layers with the given weights, and replaces their inputs or their outputs.

    calls: every (input, weight) of a linear layer, in the order of execution, when no weights are given.
    """

    def __init__(self, weights: tuple[Tensor, ...] = (), inputs: Tensor | None = None, outputs: Any = None):
        super().__init__()
        self.weights, self.inputs, self.outputs = weights, inputs, outputs
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.batch_norm and self.inputs is not None and not self.calls:
            kwargs = kwargs | {"training": False}  # before the head nothing is learned from the example
        if func not in (F.linear, F.conv2d) or len(args) < 2 or not self._wanted(func, args):
            return func(*args, **kwargs)
        self.calls.append((args[0], args[1]))
        if self.inputs is not None:
            x = self.inputs if func is F.linear else self.inputs[:, :, None, None]
            args = (x.to(args[0].dtype), *args[1:])
        y = func(*args, **kwargs)
        return y if self.outputs is None else self.outputs(y)

    def _wanted(self, func: Callable, args: tuple) -> bool:
        if self.weights:
            return any(args[1] is weight for weight in self.weights)
        return func is F.linear or tuple(args[1].shape[2:]) == tuple(args[0].shape[2:]) == (1, 1)


@dataclass(frozen=True)
class InputOf:
    """images → what flows into the linear layers with these names, (batch, d)."""

    model: nn.Module
    names: tuple[str, ...]

    def __call__(self, images: Tensor) -> Float[Tensor, "batch d"]:
        tap = Tap(weights(self.model, self.names))
        with tap:
            self.model(images)
        if not tap.calls:
            raise ValueError(
                f"{type(self.model).__name__} no longer runs its layer {self.names[0]}: wrap the model again"
            )
        return tap.calls[0][0].flatten(1)


@dataclass(frozen=True)
class Rest:
    """(batch, d) → what the model returns when this flows into the linear layers with these names.

    It costs one pass of the model on one image, of which everything before these layers is thrown away.
    """

    model: nn.Module
    names: tuple[str, ...]
    shape: tuple[int, ...]  # of an image
    output: Output

    def __call__(self, features: Float[Tensor, "batch d"]) -> Tensor:
        with Tap(weights(self.model, self.names), inputs=features):
            return self.output(self.model(features.new_zeros(1, *self.shape)))

    def parameters(self) -> list[nn.Parameter]:
        """Those that the result depends on and that are trained."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        width = weights(self.model, self.names)[0].shape[1]
        with torch.enable_grad():
            y = self(trained[0].new_zeros(1, width))
            slopes = torch.autograd.grad(y.sum(), trained, allow_unused=True)
        return [p for p, slope in zip(trained, slopes, strict=True) if slope is not None]


def weights(model: nn.Module, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """The weights of the linear layers with these names."""
    return tuple(model.get_parameter(f"{name}.weight") for name in names)


@dataclass(frozen=True)
class Whole:
    """images → the output of a model without a head."""

    model: nn.Module
    output: Output

    def __call__(self, images: Tensor) -> Tensor:
        return self.output(self.model(images))
