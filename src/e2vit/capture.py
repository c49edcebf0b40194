"""See inside a model: the attention maps and features of its layers, recorded while it runs.

    with capture(model) as seen:
        model(images)
    seen.attention["blocks.0.attention"]    # (batch, head, query, key); the row of each query sums to one
    seen.features["blocks.0"]               # the output of the layer

A model needs nothing for this: hooks record the running layer and are removed when the block closes. Attention is found

- in torch's fused attention, which never forms the weights: each call is seen from outside (a torch function mode), and
  softmax(q kᵀ · scale + mask) is computed from its arguments; nn.MultiheadAttention likewise;
- in an nn.Softmax inside a layer;
- in a layer with a method ``weights(x)``, as group self-attention has it; these maps are large.

So it works on the models of this library, timm and torchvision, and on others that use one of the three.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Layers(dict[str, Tensor]):
    """Layer name → tensor. Error: KeyError with the names that were recorded."""

    def __missing__(self, name: str) -> Tensor:
        raise KeyError(f"nothing was recorded for a layer {name!r}; there are: {', '.join(self) or 'none'}")


@dataclass(frozen=True)
class Seen:
    """What was recorded, detached from the graph. If a layer runs twice, its last output is kept.

    attention: (batch, head, query, key) for most; see each layer's ``weights`` for those with more axes.
    """

    attention: Layers = field(default_factory=Layers)
    features: Layers = field(default_factory=Layers)


@contextmanager
def capture(model: nn.Module, layers: Iterable[str] | None = None) -> Iterator[Seen]:
    """Record every layer of the model, or the named ones, as long as the block is open.

    layers: names as in ``model.named_modules()``; the model itself is called "".
    Error: KeyError for a layer that the model does not have, with the names of those it has.
    """
    modules = dict(model.named_modules())
    wanted = set(modules if layers is None else [layers] if isinstance(layers, str) else layers)
    if unknown := sorted(wanted - set(modules)):
        has = ", ".join(filter(None, modules))
        raise KeyError(f"{type(model).__name__} has no layer {unknown[0]!r}; it has: {has}")
    recorder, handles = _Recorder(modules, wanted), []
    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: recorder.running.append(name)))
        handles.append(module.register_forward_hook(partial(recorder.leave, name), with_kwargs=True, always_call=True))
    try:
        with recorder:
            yield recorder.seen
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


class _Recorder(TorchFunctionMode):
    """Records the output of each layer, and the calls of torch functions that compute attention under its name."""

    def __init__(self, modules: dict[str, nn.Module], wanted: set[str]):
        super().__init__()
        self.modules, self.wanted, self.seen = modules, wanted, Seen()
        self.running: list[str] = []  # the names of the layers that are running, the innermost last

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            self._note(lambda: fused_weights(*args, **kwargs))
        elif func is F.multi_head_attention_forward:
            asked = {**kwargs, "training": False, "need_weights": True, "average_attn_weights": False}
            self._note(lambda: func(*args, **asked)[1])
        return result

    def leave(self, name: str, module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        while self.running and self.running.pop() != name:  # after an error, the hooks of inner layers did not run
            pass
        output = output[0] if isinstance(output, (tuple, list)) and output else output
        if not isinstance(output, Tensor):
            return
        if isinstance(module, nn.Softmax):
            self._note(lambda: output)
        if name in self.wanted:
            self.seen.features[name] = output.detach().clone()  # a copy: a later layer may work in place
            weights: Any = getattr(module, "weights", None)
            if callable(weights):
                with torch.no_grad():
                    self.seen.attention[name] = weights(*args, **kwargs)  # type: ignore[assignment]

    def _note(self, weights: Callable[[], Tensor]) -> None:
        """Attention of the running layer, unless that computes its ``weights`` itself or only chains other layers."""
        if not self.running or self.running[-1] not in self.wanted:
            return
        name = self.running[-1]
        layer = self.modules[name]
        if not isinstance(layer, nn.Sequential) and not callable(getattr(layer, "weights", None)):
            with torch.no_grad():
                self.seen.attention[name] = weights().detach().clone()
