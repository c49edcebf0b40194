"""Tests of equivariance: redrawn parameters, an assertion, and a report on any model."""

import copy
from collections.abc import Callable, Iterator
from math import isqrt
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from e2vit.actions import act, act_tokens, equivariance_error, exact_elements, moves_pixels_exactly
from e2vit.groups import FiniteGroup, check_group
from e2vit.models.classifier import ImageClassifier
from e2vit.models.symmetrized.example import Output, evaluated


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Return the module in float64 and evaluation mode with every parameter and running statistic redrawn.

    A branch that is initialized to zero would hide a broken symmetry.
    """
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator, dtype=torch.float64) + 0.5)
            elif name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator, dtype=torch.float64))
    return module


def assert_equivariant(f: Callable[[Tensor], Tensor], x: Tensor, group: FiniteGroup, tolerance: float = 1e-10) -> None:
    """Assert that f commutes with every element of the group on x, to a relative error of at most ``tolerance``."""
    error = equivariance_error(f, x, group)
    assert error <= tolerance, f"{f} does not commute with {group}: relative error {error:.3g}, tolerance {tolerance:g}"


@torch.no_grad()
def check(model: Callable[[Tensor], Any], images: Tensor, group: FiniteGroup, output: Any = None) -> dict[str, Any]:
    """Print how far the output of a model changes when its images are moved by each element, and return the numbers.

    model:  images → logits, or an object with ``.logits``; or → maps (batch, channel, height, width), which should move
            with the images. It is evaluated in evaluation mode.
    images: (batch, channel, height, width), floats.
    output: where the result holds that tensor, as in ``Symmetrized``: a key, an index or a function.
    Returns ``elements``, one row for each: ``turn``, ``exact`` (pixels are permuted, not interpolated), ``change``
    (max |f(gx) − f(x)| / max |f(x)|) and ``answers`` (the fraction of images whose largest logit is another one);
    ``exact`` and ``interpolated``, the largest change of both kinds; and ``breaks_at``, for the models of this library
    the first layer, in the order of execution, where equivariance breaks, or None.
    """
    check_group(group)
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images are floats (batch, channel, height, width), not {images.dtype} {tuple(images.shape)}")
    tensor = Output(output)
    with evaluated(model):
        before = tensor(model(images))
        rows = [_row(group, g, before, tensor(model(act(group, g, images)))) for g in range(group.order)]
    largest = {
        exact: max((row["change"] for row in rows if row["exact"] is exact), default=0.0) for exact in (True, False)
    }
    broken = _first_broken_layer(model, images, group) if isinstance(model, ImageClassifier) else None
    print(f"{'element':8}{'turn':18}{'pixels':14}{'change':>9}{'answers changed':>18}")
    for g, row in enumerate(rows):
        pixels, answers = "exact" if row["exact"] else "interpolated", row["answers"]
        print(
            f"{g:<8}{row['turn']:18}{pixels:14}{row['change']:9.1e}{'–' if answers is None else f'{answers:.1%}':>18}"
        )
    if isinstance(model, ImageClassifier):
        print(f"equivariance first breaks at layer {broken!r}" if broken else "every layer is equivariant")
    return {"elements": rows, "exact": largest[True], "interpolated": largest[False], "breaks_at": broken}


def _row(group: FiniteGroup, g: int, before: Tensor, after: Tensor) -> dict[str, Any]:
    expected = act(group, g, before) if before.ndim == 4 else before
    mirrored, degrees = group.mirror_and_degrees(g)
    return {
        "turn": "mirror, " * mirrored + f"{degrees:.4g}°",
        "exact": moves_pixels_exactly(group, g),
        "change": _relative(after, expected),
        "answers": (after.argmax(-1) != before.argmax(-1)).double().mean().item() if before.ndim == 2 else None,
    }


def _relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=torch.finfo(found.dtype).tiny)).item()


def _first_broken_layer(model: ImageClassifier, images: Tensor, group: FiniteGroup) -> str | None:
    """The first layer that breaks equivariance: its input moves as the group acts, its output does not.

    If there is none, although the group does not act on the output of the model, the first layer with such an input.
    Only for elements that permute pixels, in double precision, where an error above 1e-9 is not a rounding error.
    """
    model, seen = copy.deepcopy(model).double().cpu().eval(), {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: (*inputs[:1], output)}))

    def passes(images: Tensor) -> dict[str, tuple[Tensor, ...]]:
        seen.clear()
        model(images)
        return {name: tensors for name, tensors in seen.items() if all(isinstance(x, Tensor) for x in tensors)}

    images, own = images.double().cpu(), getattr(model.config, "group", group)
    before, breaking, broken = passes(images), set(), set()
    for g in exact_elements(group):
        same = (own.matrices - group.matrices[g]).abs().amax((1, 2)) < 1e-9  # this element in the group of the model
        element = (own, int(same.int().argmax())) if same.any() else (group, g)
        for name, tensors in passes(act(group, g, images)).items():
            *input_moves, output_moves = (
                min(_relative(after, moved) for moved in _moved(*element, x)) <= 1e-9
                for after, x in zip(tensors, before[name], strict=True)
            )
            if not output_moves:
                broken.add(name)
                breaking |= {name} if name and all(input_moves) else set()
    return next((name for name in before if name in (breaking or broken)), None)


def _moved(group: FiniteGroup, g: int, x: Tensor) -> Iterator[Tensor]:
    """The output of a layer after each action of the group that its shape allows."""
    yield x  # pooled, or no function of the image
    square = x.ndim > 3 and x.shape[-1] == x.shape[-2]
    if square:
        yield act(group, g, x.flatten(0, -4)).reshape(x.shape)
    if square and x.ndim == 5 and x.shape[2] == group.order:
        yield act(group, g, x)
        yield act(group, g, x[:, :, group.inverse])[:, :, group.inverse]  # the released GSA-Nets call v what is v⁻¹
    if x.ndim in (3, 4) and isqrt(x.shape[-2]) ** 2 == x.shape[-2]:
        if x.ndim == 3:
            yield act_tokens(group, g, x)
        elif x.shape[1] == group.order:
            tokens = rearrange(x, "batch pose token d -> batch (pose token) d")
            yield act_tokens(group, g, tokens, lifted=True).reshape(x.shape)
