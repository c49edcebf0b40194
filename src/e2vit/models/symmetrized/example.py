"""What must be known of a stranger's model before it is wrapped: which images it takes, and where its logits are."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SIDES = (64, 224, 32, 28, 96, 128, 256, 384, 448, 512, 299, 240, 192, 16)  # pixels, to be tried
NAMES = ("image_size", "img_size", "input_size", "in_channels", "channels", "in_chans")


@dataclass(frozen=True)
class Output:
    """Pick the tensor of logits out of what a model returns.

    where: a key, an index, or a function; when left out, the tensor itself or what is called ``logits``.
    """

    where: Any = None

    def __call__(self, result: Any) -> Tensor:
        if self.where is None and not isinstance(result, Tensor):
            named = result.get("logits") if isinstance(result, Mapping) else getattr(result, "logits", None)
            result = result if named is None else named
        elif callable(self.where):
            result = self.where(result)
        elif self.where is not None and not isinstance(result, Tensor):
            if isinstance(self.where, str) and hasattr(result, self.where) and not isinstance(result, Mapping):
                result = getattr(result, self.where)
            else:
                result = self._entry(result)
        if not isinstance(result, Tensor):
            raise ValueError(
                f"expected a tensor of logits from the model and got {type(result).__name__}: pass output=, a key, an "
                "index or a function that picks it"
            )
        return result

    def again(self, result: Any) -> Tensor:
        """The same for what a head returns, which may be the logits already."""
        return result if isinstance(result, Tensor) else self(result)

    def _entry(self, result: Any) -> Any:
        try:
            return result[self.where]
        except (KeyError, IndexError, TypeError):
            there = f"the keys {', '.join(map(str, result))}" if isinstance(result, Mapping) else "no such entry"
            raise ValueError(
                f"the model returns {type(result).__name__} with {there}, and output={self.where!r} is not among them"
            ) from None


AS_IT_IS = Output()


@contextmanager
def evaluated(*parts: Any) -> Iterator[None]:
    """Every module in evaluation mode for a moment, each then as it was."""
    modules = {m for part in parts if isinstance(part, nn.Module) for m in part.modules()}
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def kind_of(model: Callable, otherwise: Tensor | None = None) -> dict[str, Any]:
    """Device and floating type of the model's parameters, or of its buffers: keywords for ``Tensor.to``."""
    tensors = itertools.chain(model.parameters(), model.buffers()) if isinstance(model, nn.Module) else iter(())
    first = next((t for t in tensors if t.is_floating_point()), torch.empty(0) if otherwise is None else otherwise)
    return {"device": first.device, "dtype": first.dtype}


@torch.no_grad()
def find_example(model: Callable, given: Tensor | None = None) -> Tensor | None:
    """Two images that the model takes: those that are given, or random ones of the first shape that it accepts."""
    if given is not None:
        if given.ndim != 4 or len(given) < 2:
            raise ValueError(
                f"example is two images or more, (batch, channel, height, width), not {tuple(given.shape)}"
            )
        return given[:2].to(**kind_of(model, given))
    if not isinstance(model, nn.Module):
        return None
    for shape in dict.fromkeys(_shapes(model)):
        images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(**kind_of(model))
        try:
            model(images)
            return images
        except Exception:  # whatever a stranger's model raises for a shape that it does not take
            continue
    return None


def _shapes(model: nn.Module) -> Iterator[tuple[int, int, int]]:
    """Shapes to be tried: what the model declares first."""
    declared = {name: _declared(model, name) for name in NAMES}
    layers = list(model.modules())
    first = [layer.in_channels for layer in layers if isinstance(layer, nn.Conv2d)][:1]
    channels = [*declared["in_channels"], *declared["channels"], *declared["in_chans"], *first, 3, 1, 2, 4]
    sizes = [*declared["image_size"], *declared["img_size"], *declared["input_size"]]
    for c in dict.fromkeys(n for entry in [*first, *channels] for n in _ints(entry)[:1]):
        widths = [layer.in_features for layer in layers if isinstance(layer, nn.Linear)][:1]
        flat = [round((width / c) ** 0.5) for width in widths if round((width / c) ** 0.5) ** 2 * c == width]
        for size in [*sizes, *(flat if not first else []), *SIDES, *flat]:
            height, width = (*_ints(size), *_ints(size))[-2:]
            if height > 0 and width > 0:
                yield c, height, width


def _declared(model: nn.Module, name: str) -> list[Any]:
    """Values of that name in the model's configuration or in the model and its modules."""
    modules = list(model.modules())
    configs = [getattr(m, config, None) for config in ("config", "pretrained_cfg") for m in modules] + modules
    values = [c.get(name) if isinstance(c, Mapping) else getattr(c, name, None) for c in configs]
    return [v for v in values if _ints(v)]


def _ints(value: Any) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, list | tuple) and all(isinstance(v, int) for v in value) else ()
