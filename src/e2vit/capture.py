"""See inside a model: the attention maps and features of its layers, recorded while it runs.

    with capture(model) as seen:
        model(images)
    seen.attention["blocks.0.attention"]    # (batch, head, query, key); each query's row adds up to one
    seen.features["blocks.0"]               # what the layer gave back

Nothing in a model knows of this: hooks tell which layer is running, and they are gone when the block closes. Attention
is found where it is made:

- torch's fused attention never forms the weights, so every call of it is seen from outside (a torch function mode), and
  softmax(q kᵀ · scale + mask) is computed from what it was given. The same goes for nn.MultiheadAttention.
- A softmax written out: an nn.Softmax inside a layer, or any softmax over the last of four axes.
- A layer with a method ``weights(x)``, as group self-attention has it, is asked; these maps are large.

So it works on the models of this library, on timm, on torchvision and on most others.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)


class Layers(dict[str, Tensor]):
    """Layer name → tensor. Error: KeyError that names the layers there are."""

    def __missing__(self, name: str) -> Tensor:
        raise KeyError(f"nothing was recorded for a layer {name!r}; there are: {', '.join(self) or 'none'}")


@dataclass(frozen=True)
class Seen:
    """What was recorded, detached from the graph. A layer that runs twice leaves what it gave the last time.

    attention: (batch, head, query, key) for most; see each layer's ``weights`` for those with more axes.
    """

    attention: Layers = field(default_factory=Layers)
    features: Layers = field(default_factory=Layers)


@contextmanager
def capture(model: nn.Module, layers: Iterable[str] | None = None) -> Iterator[Seen]:
    """Records every layer of the model, or the named ones, as long as the block is open.

    layers: names as in ``model.named_modules()``; the model itself is called "".
    Error: KeyError for a layer that the model does not have, with the names of those it has.
    """
    modules = dict(model.named_modules())
    wanted = set(modules if layers is None else [layers] if isinstance(layers, str) else layers)
    if unknown := sorted(wanted - set(modules)):
        has = ", ".join(filter(None, modules))
        raise KeyError(f"{type(model).__name__} has no layer {unknown[0]!r}; it has: {has}")
    seen, running = Seen(), []
    handles = []
    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(_entering(name, module, running)))
        leaving = _leaving(name, running, seen, name in wanted)
        handles.append(module.register_forward_hook(leaving, with_kwargs=True, always_call=True))
    try:
        with _AttentionMode(running, seen.attention, wanted):
            yield seen
    finally:
        for handle in handles:
            handle.remove()


def fused_weights(
    query: Float[Tensor, "*heads query d"],
    key: Float[Tensor, "*key_heads key d"],
    value: Float[Tensor, "*key_heads key e"],
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Tensor, "*heads query key"]:
    """The weights that ``F.scaled_dot_product_attention`` uses and does not return, without dropout."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1)


def _entering(name: str, module: nn.Module, running: list[tuple[str, nn.Module]]) -> Callable:
    return lambda *_: running.append((name, module))


def _leaving(name: str, running: list[tuple[str, nn.Module]], seen: Seen, wanted: bool) -> Callable:
    def leave(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        while running and running.pop()[0] != name:  # also after an error below, which skipped other hooks
            pass
        output = output[0] if isinstance(output, (tuple, list)) and output else output
        if not wanted or not isinstance(output, Tensor):
            return
        seen.features[name] = output.detach().clone()  # a copy: a later layer may work in place
        if _tells_its_weights(module):
            with torch.no_grad():
                seen.attention[name] = module.weights(*args, **kwargs)

    return leave


def _tells_its_weights(module: nn.Module) -> bool:
    """Whether the layer has a method ``weights`` that takes what its forward takes."""
    return inspect.ismethod(getattr(module, "weights", None))


class _AttentionMode(TorchFunctionMode):
    """Looks at the calls of torch functions that make attention, and notes them under the layer that is running."""

    def __init__(self, running: list[tuple[str, nn.Module]], attention: Layers, wanted: set[str]):
        super().__init__()
        self.running, self.attention, self.wanted = running, attention, wanted

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            self._note(self.running, lambda: fused_weights(*args, **kwargs))
        elif func is F.multi_head_attention_forward:
            asked = {**kwargs, "training": False, "need_weights": True, "average_attn_weights": False}
            self._note(self.running, lambda: func(*args, **asked)[1])
        elif func in SOFTMAX:
            self._note_softmax(result, kwargs.get("dim", args[1] if len(args) > 1 else None))
        return result

    def _note_softmax(self, result: Tensor, dim: int | None) -> None:
        if self.running and isinstance(self.running[-1][1], nn.Softmax):
            owners = self.running[:-1]
            if owners and not isinstance(owners[-1][1], nn.Sequential):
                self._note(owners, lambda: result)
        elif result.ndim == 4 and dim in (-1, 3):
            self._note(self.running, lambda: result)

    def _note(self, running: list[tuple[str, nn.Module]], weights: Callable[[], Tensor]) -> None:
        name, module = running[-1] if running else ("", None)
        if module is not None and name in self.wanted and not _tells_its_weights(module):
            with torch.no_grad():
                self.attention[name] = weights().detach().clone()
