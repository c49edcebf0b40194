"""Take a classifier apart, without editing it, into features and a head: images → (batch, d) → logits.

The features are the input of the last linear layer in the order of execution, found by running the model once on two
images. The head is that layer and whatever the model computes after it. Several last layers that read the same vector
count as one. The layer is found again by its name in every pass, so one that is replaced later is used.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from e2vit.models.symmetrized.example import AS_IT_IS, Output, evaluated, find_example
from e2vit.models.symmetrized.tap import InputOf, Rest, Tap, Whole, weights

WAY_OUT = "pass features= and head= yourself, or choose an aggregate of logits"


@dataclass(frozen=True)
class Split:
    """features: images → (batch, d); head: (batch, d) → logits; width: d, None where it is not known."""

    features: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]
    width: int | None
    model: Callable | None = None  # that was taken apart
    layers: tuple[nn.Module, ...] = ()  # that begin the head

    def fits(self, model: Callable) -> bool:
        """Whether it is this model that was taken apart, with these layers."""
        if not isinstance(self.features, InputOf) or not isinstance(model, nn.Module):
            return self.model is None or self.model is model
        there = [model.get_submodule(name) for name in self.features.names]
        return self.model is model and all(a is b for a, b in zip(there, self.layers, strict=True))


def split(
    model: Callable,
    features: Callable[[Tensor], Tensor] | None = None,
    head: Callable[[Tensor], Tensor] | None = None,
    example: Tensor | None = None,
    output: Output = AS_IT_IS,
) -> Split:
    """The model in two parts, by the protocol above, or those that the caller names.

    example: two images or more; the shape of an image is found by trying when they are left out.
    Error: ValueError when there are no such parts, or when together they are not the model.
    """
    name = getattr(model, "__name__", type(model).__name__)
    if (features is None) != (head is None):
        raise ValueError("features and head belong together: pass both or neither")
    if features is None and not isinstance(model, nn.Module):
        raise ValueError(f"{name} is a bare callable without features and a head: {WAY_OUT}")
    if features is None and isinstance(model, nn.Module) and any(p.is_inference() for p in model.parameters()):
        raise ValueError(f"{name} was built in inference mode, without gradients to find its head by: {WAY_OUT}")
    with evaluated(model, features, head):
        images = find_example(model, example)
        if features is not None and head is not None:
            return _named(model, features, head, images, output)
        assert isinstance(model, nn.Module)
        if images is None:
            raise ValueError(f"no shape of images was found that {name} takes: pass example=, two images")
        found = _found(model, images, output)
        if found is None:
            raise ValueError(
                f"{name} is not a function of what flows into its last linear layer, a vector for each image: {WAY_OUT}"
            )
        _check(found, model, torch.cat([images, images[:1].flip(-1)]), output)
    return found


def _named(model: Callable, features: Callable, head: Callable, images: Tensor | None, output: Output) -> Split:
    layers = head.modules() if isinstance(head, nn.Module) else []
    width = next((layer.in_features for layer in layers if isinstance(layer, nn.Linear)), None)
    if images is None:
        return Split(features, head, width)
    with torch.no_grad():
        named = Split(features, head, features(images).shape[-1])
    _check(named, model, images, output)
    return named


def _found(model: nn.Module, images: Tensor, output: Output) -> Split | None:
    """Error-free only for a model that depends on the images through the input of its last linear layer alone."""
    empty: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _, inputs: empty.append(inputs[0]))
        for module in model.modules()
        if type(module) is nn.Identity
    ]
    try:
        with torch.no_grad(), Tap() as tap:
            whole = model(images)
    finally:
        for handle in handles:
            handle.remove()
    if tap.calls and (tap.calls[-1][0].ndim == 2 or tap.calls[-1][0].shape[2:] == (1, 1)):
        x = tap.calls[-1][0]
        owners = {id(module.weight): name for name, module in model.named_modules() if isinstance(module, LAYERS)}
        last = [weight for input_, weight in tap.calls if input_ is x]  # several heads may read the same features
        names = tuple(owners[id(weight)] for weight in last if id(weight) in owners)
        runs = sum(any(weight is w for w in last) for _, weight in tap.calls)
        if len(names) == len(last) == runs:
            probed, given = _probe(model, images, names, output)
            other, _ = _probe(model, images.flip(-1).roll(1, 0) * 0.5, names, output)
            if probed is not None and other is not None and torch.allclose(probed, other, rtol=1e-3, equal_nan=True):
                layer = model.get_submodule(names[0])
                nothing_follows = (
                    len(names) == 1
                    and isinstance(layer, nn.Linear)
                    and probed.dtype == given[0].dtype
                    and torch.equal(probed, given[0])
                )
                rest = layer if nothing_follows else Rest(model, names, tuple(images.shape[1:]), output)
                layers = tuple(model.get_submodule(name) for name in names)
                return Split(InputOf(model, names), rest, x.shape[1], model, layers)
    whole = output(whole)
    if whole.ndim == 2 and any(whole is x for x in empty):  # a head that was taken off: features come out
        return Split(Whole(model, output), nn.Identity(), whole.shape[1], model)
    return None


LAYERS = (nn.Linear, nn.Conv2d)


def _probe(
    model: nn.Module, images: Tensor, names: tuple[str, ...], output: Output
) -> tuple[Tensor | None, list[Tensor]]:
    """What the model returns when random numbers come out of these layers, and the numbers.

    None when images reach the output on another way: then it has a gradient with respect to them. Random numbers, since
    a head may start at zero; of both signs and of two sizes, so that whatever follows the layer changes some.
    """
    given: list[Tensor] = []
    sizes = torch.tensor([1.0, -100.0], device=images.device, dtype=images.dtype)

    def replace(y: Tensor) -> Tensor:
        numbers = torch.rand(y.shape, generator=torch.Generator().manual_seed(len(given))) + 0.1
        signs = torch.ones(y.shape[1]).cumsum(0) % 2 * 2 - 1
        numbers = (numbers.flatten(1) * signs).reshape(y.shape).to(y)
        given.append(numbers * sizes.to(y).repeat(len(y) // 2 + 1)[: len(y)].reshape(-1, *[1] * (y.ndim - 1)))
        return given[-1]

    with torch.inference_mode(False), torch.enable_grad(), Tap(weights(model, names), outputs=replace):
        leaf = images.detach().clone().requires_grad_()
        y = output(model(leaf * 1))
        if y.requires_grad and torch.autograd.grad(y.sum(), leaf, allow_unused=True)[0] is not None:
            return None, given
    return y.detach(), given


@torch.no_grad()
def _check(parts: Split, model: Callable, images: Tensor, output: Output) -> None:
    """Error: ValueError when head(features(images)) is not what the model returns, up to rounding."""
    expected, found = output(model(images)), output.again(parts.head(parts.features(images)))
    slack = torch.finfo(expected.dtype).eps ** 0.5
    finite = expected[expected.isfinite()].abs()
    size = finite.max().item() if finite.numel() else 1.0
    if found.shape != expected.shape or not torch.allclose(found, expected, 0.0, slack * size, equal_nan=True):
        raise ValueError(
            f"features and head together do not reproduce {getattr(model, '__name__', type(model).__name__)}: pass "
            "features= and head= that do, or choose an aggregate of logits"
        )
