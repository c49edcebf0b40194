"""Taking a classifier apart, without editing it, into features and a head: images → (batch, d) → logits.

The protocol, tried in this order:
1. what the caller names: ``features`` (a callable) and ``head`` (a module or callable), both;
2. a model with a method ``features(images)`` and a module ``head``, as the models of this library have them;
3. timm: a model with ``forward_features``, ``forward_head`` and ``get_classifier``;
4. torchvision: a model whose last child is called fc, classifier, head or heads; the head is the last linear layer in
   it, and the features are what flows into that layer (seen by a hook, which leaves after the pass).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Split:
    """features: images → (batch, d); head: (batch, d) → logits."""

    features: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]

    @property
    def width(self) -> int:
        """Features that the head takes. Error: ValueError when there is no linear layer to read it from."""
        layers = self.head.modules() if isinstance(self.head, nn.Module) else []
        for layer in layers:
            if isinstance(layer, nn.Linear):
                return layer.in_features
        raise ValueError("the head holds no linear layer that tells the feature width: pass an aggregate that is built")


@dataclass(frozen=True)
class TimmFeatures:
    """The pooled features of a timm model, before its classifier."""

    model: nn.Module

    def __call__(self, images: Tensor) -> Tensor:
        return self.model.forward_head(self.model.forward_features(images), pre_logits=True)


@dataclass(frozen=True)
class InputOf:
    """What flows into one layer of a model when the model sees images."""

    model: nn.Module
    layer: nn.Module

    def __call__(self, images: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = self.layer.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
        try:
            self.model(images)
        finally:
            handle.remove()
        if len(seen) != 1:
            raise ValueError(
                f"the head of {type(self.model).__name__} runs {len(seen)} times a pass: pass features= "
                "and head= yourself"
            )
        return seen[0]


def split(model: Callable, features: Callable | None = None, head: Callable | None = None) -> Split:
    """The model in two parts, by the protocol above. Error: ValueError when it has no parts that are known."""
    if (features is None) != (head is None):
        raise ValueError("features and head belong together: pass both or neither")
    if features is not None:
        return Split(features, head)
    if not isinstance(model, nn.Module):
        name = getattr(model, "__name__", type(model).__name__)
        raise ValueError(
            f"{name} is a bare callable without features and a head: pass features= and head=, or choose "
            "an aggregate of logits"
        )
    own = getattr(model, "features", None)
    if callable(own) and not isinstance(own, nn.Module) and isinstance(getattr(model, "head", None), nn.Module):
        return Split(own, model.head)
    if all(hasattr(model, name) for name in ("forward_features", "forward_head", "get_classifier")):
        classifier = model.get_classifier()
        if isinstance(classifier, nn.Module):
            return Split(TimmFeatures(model), classifier)
    last = next(reversed(list(model.named_children())), None)
    if last and last[0] in ("fc", "classifier", "head", "heads"):
        linear = [layer for layer in last[1].modules() if isinstance(layer, nn.Linear)]
        if linear:
            return Split(InputOf(model, linear[-1]), linear[-1])
    raise ValueError(
        f"{type(model).__name__} has no features and head that are known (a method features and a module "
        "head; timm's forward_features; a last layer fc, classifier, head or heads): pass features= and "
        "head="
    )
