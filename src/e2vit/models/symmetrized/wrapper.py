"""The wrapper: views in, outputs turned back where they turn with the image, one answer out."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.actions import _act_on_plane, exact_elements, moves_pixels_exactly
from e2vit.groups import FiniteGroup
from e2vit.models.symmetrized.aggregates import mean_logits, weighted
from e2vit.models.symmetrized.catalog import find_aggregate
from e2vit.models.symmetrized.example import Output, kind_of
from e2vit.models.symmetrized.motion import move_keypoints, move_vectors
from e2vit.models.symmetrized.splitting import Split, split

INTERPOLATIONS = (None, "bilinear", "bicubic", "nearest")
ACTIVATIONS = ("softmax", "sigmoid")
ACTIONS = (None, "maps", "vectors", "keypoints")


class Symmetrized(nn.Module):
    """A model that is run on the whole orbit of an image, and whose outputs are combined into invariant logits.

    model:     images → logits (batch, class) or (batch,), any callable; a module's parameters become parameters of
               this one, and nothing else about it changes.
    aggregate: a name from AGGREGATES, or a callable (batch, element, class) → (batch, class); mark it with
               ``aggregates.combines("features")`` to be given (batch, element, d) and to return (batch, d).
    features, head: the two parts of the model, for aggregates of features; when left out, the input of the last linear
               layer and what follows (see ``splitting``).
    chunk:     the most views in one pass, which bounds the memory of inference; all at once when left out, and in
               compiled or exported models.
    interpolation: "bilinear", "bicubic" or "nearest", for groups that leave the square grid: choose it knowingly.
    fill:      the background that comes in at the corners of such views, a number or one for each channel. Turn before
               normalizing colors, or give the normalized background here.
    output:    where the model's result holds the logits: a key, an index or a function. ``logits`` is found by itself.
    activation: "softmax"; or "sigmoid" for independent labels, each of which is combined as two classes with the logits
               ±l/2. A single logit always takes the sigmoid.
    output_action: how outputs turn with the image: "maps" (batch, channel, height, width); "vectors" (batch, …, 2), x
               to the right and y upwards; "keypoints" (batch, …, 2), column and row in pixels; or a function of group,
               element and output, such as ``e2vit.actions.act``. The wrapped model is equivariant then.
    example:   two images that the model takes, where their shape can't be found.
    Error: ValueError, one sentence, when these do not fit, when the model returns no logits, or when a view gives NaN
    (which an average would spread and a maximum hide; not checked in compiled or exported models).
    """

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        group: FiniteGroup,
        aggregate: str | Callable = "mean_logits",
        features: Callable[[Tensor], Tensor] | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
        chunk: int | None = None,
        interpolation: str | None = None,
        fill: float | tuple[float, ...] = 0.0,
        *,
        output: Any = None,
        activation: str = "softmax",
        output_action: str | Callable[[FiniteGroup, int, Tensor], Tensor] | None = None,
        example: Tensor | None = None,
    ):
        super().__init__()
        if not isinstance(group, FiniteGroup):
            raise TypeError(f"a group is an object such as cyclic(4) or dihedral(4), not {group!r}")
        if not callable(model):
            raise TypeError(f"a model is a callable from images to logits, not {model!r}")
        if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
            raise ValueError(f"chunk counts views, a whole number that starts at 1, got {chunk!r}")
        for name, value, allowed in (
            ("interpolation", interpolation, INTERPOLATIONS),
            ("activation", activation, ACTIVATIONS),
            ("output_action", output_action, ACTIONS),
        ):
            if value not in allowed and not (name == "output_action" and callable(value)):
                raise ValueError(f"{name} is one of {', '.join(filter(None, allowed))}, not {value!r}")
        off_grid = group.order - len(exact_elements(group))
        if off_grid and interpolation is None:
            raise ValueError(
                f"{off_grid} of the {group.order} elements of {group} leave the square grid: choose "
                'how to interpolate, for instance interpolation="bilinear"'
            )
        chosen: Any = find_aggregate(aggregate) if isinstance(aggregate, str) else aggregate
        self.combines = getattr(chosen, "combines", "logits")
        if output_action and (self.combines == "features" or (output_action != "maps" and chosen is not mean_logits)):
            raise ValueError(
                "outputs that turn with the image are averaged (mean_logits); maps may also be combined by another "
                "aggregate of logits or of images"
            )
        self.model, self.group, self.chunk = model, group, chunk
        self.interpolation, self.fill = interpolation, fill
        self.output, self.activation, self.output_action = Output(output), activation, output_action
        self.example, self._split = example, None
        self.inverse: list[int] = group.inverse.tolist()
        if self.combines == "features" or features is not None or head is not None:
            self._split = split(model, features, head, example, self.output)
        if inspect.isclass(chosen):
            make: Any = chosen
            chosen = make(group, self._width()) if self.combines == "features" else make(group)
            if isinstance(chosen, nn.Module):
                chosen.to(**kind_of(model)).train(getattr(model, "training", True))
        self.aggregate: Callable = chosen
        known = set(self.modules())
        self.added = nn.ModuleList(
            part for part in (features, head) if isinstance(part, nn.Module) and part not in known
        )  # the caller's own parts, when the model does not hold them
        self.training = getattr(model, "training", True)  # of this module alone: its parts stay as they are

    def forward(self, images: Tensor) -> Float[Tensor, "batch ..."]:
        """Logits of images (batch, channel, height, width)."""
        if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
            what = (
                f"{images.dtype} of shape {tuple(images.shape)}"
                if isinstance(images, Tensor)
                else type(images).__name__
            )
            raise ValueError(f"expected float images (batch, channel, height, width) and got {what}")
        parts: tuple[Tensor, ...] = (images,)
        if self.chunk is not None and not torch.compiler.is_compiling():
            parts = _even(images, max(1, self.chunk // self.group.order))
        self._check_batch_norm(parts)
        answers = [self._of_images(part) for part in parts]
        return torch.cat(answers) if len(answers) > 1 else answers[0]

    @property
    def parts(self) -> Split:
        """The model as features and a head. Error: ValueError for a model whose parts are not known."""
        if self._split is None or not self._split.fits(self.model):
            found = split(self.model, None, None, self.example, self.output)
            if self._split and self._split.width != found.width and isinstance(self.aggregate, nn.Module):
                raise ValueError(
                    f"the aggregate was built for {self._split.width} features, and the last layer of the model takes "
                    f"{found.width} now: wrap the model again"
                )
            self._split = found
        return self._split

    def views(self, images: Float[Tensor, "batch channel height width"]) -> Tensor:
        """gx for every element g: (batch, element, channel, height, width)."""
        return torch.stack([self._view(g, images) for g in range(self.group.order)], 1)

    def view_logits(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch element ..."]:
        """What the model says of every view, turned back where the output turns with the image."""
        seen = self._of_views(self._logits, self.views(images), "logits")
        if self.output_action is None:
            return seen
        back = [self._turned_back(g, seen[:, g], images.shape[-2:]) for g in range(self.group.order)]
        return torch.stack(back, 1)

    def view_features(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch element d"]:
        """The features of every view."""
        return self._of_views(self.parts.features, self.views(images), "features")

    def combine(
        self, seen: Float[Tensor, "batch element ..."], views: Tensor | None = None
    ) -> Float[Tensor, "batch ..."]:
        """The logits of the whole from those of its parts, which may have been computed and kept before.

        seen:  features (batch, element, d) for an aggregate of features, logits (batch, element, class) for the others.
        views: the images themselves, for an aggregate that looks at them.
        """
        if self.combines == "features":
            return self._checked(self.output.again(self.parts.head(self.aggregate(seen))), seen.shape[0], "logits")
        if self.combines == "images":
            return weighted(self.aggregate(views), seen)
        if self.output_action in (None, "maps"):
            return self._combined_by_class(seen)
        return seen.mean(1)

    def _combined_by_class(self, seen: Tensor) -> Tensor:
        """Every place of a map is combined by itself, and every label of its own as two classes."""
        x = (seen[..., None] if seen.ndim == 2 else seen.movedim(2, -1)).movedim(1, -2)  # batch *place element class
        labels = self.activation == "sigmoid" or x.shape[-1] == 1
        if labels:
            half = x.clamp(min=torch.finfo(x.dtype).min / 4).movedim(-1, -2) / 2  # a masked label is no NaN
            x = torch.stack([half, -half], -1)  # batch *place label element 2
        y = self.aggregate(x.flatten(0, -3))
        y = y.unflatten(0, x.shape[:-2]) if x.ndim > 3 else self._checked(y, seen.shape[0], "logits")
        y = y[..., 0] - y[..., 1] if labels else y
        return y[..., 0] if seen.ndim == 2 else y.movedim(-1, 1)

    def _of_images(self, images: Tensor) -> Tensor:
        if self.combines == "features":
            return self.combine(self.view_features(images))
        if self.combines == "logits":
            return self.combine(self.view_logits(images))
        seen = self.views(images)
        weights = self.aggregate(seen)
        if self.training or self.output_action or torch.compiler.is_compiling():
            return weighted(weights, self.view_logits(images))
        wanted = weights != 0  # views without weight need no pass
        logits = self._passes(self._logits, seen[wanted], "logits")
        self._refuse_nan(logits, *wanted.nonzero().unbind(1))
        return weighted(weights, logits.new_zeros(*weights.shape, *logits.shape[1:]).index_put((wanted,), logits))

    def _logits(self, images: Tensor) -> Tensor:
        return self.output(self.model(images))

    def _of_views(self, f: Callable, views: Tensor, what: str) -> Tensor:
        seen = self._passes(f, views.flatten(0, 1), what)
        if not torch.compiler.is_compiling():
            index = torch.arange(len(seen), device=seen.device)
            self._refuse_nan(seen, index // self.group.order, index % self.group.order)
        return seen.unflatten(0, views.shape[:2])

    def _passes(self, f: Callable, views: Tensor, what: str) -> Tensor:
        """f of many images, at most ``chunk`` at a time."""
        if self.chunk is None or torch.compiler.is_compiling() or views.shape[0] <= self.chunk:
            return self._checked(f(views), views.shape[0], what)
        return torch.cat([self._checked(f(part), len(part), what) for part in _even(views, self.chunk)])

    def _view(self, g: int, images: Tensor) -> Tensor:
        if moves_pixels_exactly(self.group, g):
            return _act_on_plane(self.group, g, images)
        background = torch.as_tensor(self.fill, device=images.device, dtype=images.dtype).reshape(-1, 1, 1)
        return _act_on_plane(self.group, g, images - background, self.interpolation or "bilinear") + background

    def _turned_back(self, g: int, seen: Tensor, size: tuple[int, ...]) -> Tensor:
        back = self.inverse[g]
        if self.output_action == "maps":
            return _act_on_plane(self.group, back, seen, self.interpolation or "bilinear")
        if self.output_action == "vectors":
            return move_vectors(self.group, back, seen)
        if self.output_action == "keypoints":
            return move_keypoints(self.group, back, seen, (size[0], size[1]))
        assert callable(self.output_action)
        return self.output_action(self.group, back, seen)

    def _width(self) -> int:
        if self.parts.width is None:
            raise ValueError(
                "the head holds no linear layer that tells the feature width: pass an aggregate that is built"
            )
        return self.parts.width

    def _check_batch_norm(self, parts: tuple[Tensor, ...]) -> None:
        norms = (m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        if self.training and min(map(len, parts)) == 1 and any(norm.training for norm in norms):
            raise ValueError(
                "batch norm in training needs two images or more in every pass, since the views of one "
                "image are no sample: call eval(), or take a larger batch or chunk"
            )

    def _checked(self, values: Any, count: int | torch.SymInt, what: str) -> Tensor:
        axes = {"maps": (4,), None: (1, 2)}.get(self.output_action, range(1, 9)) if what == "logits" else (2,)
        if (
            isinstance(values, Tensor)
            and values.is_floating_point()
            and values.ndim in axes
            and (torch.compiler.is_compiling() or len(values) == count)
        ):
            return values
        got = f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        kind = "maps" if self.output_action == "maps" else "a matrix"
        raise ValueError(f"expected {what} as {kind} of floats with {count} rows, one for each image, and got {got}")

    def _refuse_nan(self, seen: Tensor, image: Tensor, element: Tensor) -> None:
        bad = seen.isnan().flatten(1).any(-1) if seen.ndim > 1 else seen.isnan()
        if bad.any():
            first = int(bad.nonzero()[0])
            g = int(element[first])
            mirrored, degrees = self.group.mirror_and_degrees(g)
            raise ValueError(
                f"the model gives NaN for view {g} of {self.group} ({'mirrored, ' * mirrored}turned by {degrees:g} "
                f"degrees) of image {int(image[first])} of this pass"
            )


def _even(images: Tensor, most: int) -> tuple[Tensor, ...]:
    """Parts of nearly equal length, at most so long: a last part of one image would be no sample for a batch norm."""
    return images.tensor_split(max(1, math.ceil(len(images) / most)))
