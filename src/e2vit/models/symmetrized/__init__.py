"""Any classifier, made invariant afterwards: show it every view of an image and combine what it says.

    invariant = Symmetrized(model, cyclic(4))                                # mean of logits
    invariant = Symmetrized(model, dihedral(4), "learned_attention")         # to be fine-tuned

f is invariant when f(gx) = f(x) for every g. Averaging over the group, x ↦ (1/|G|) Σ_g f(gx), makes any f so: that is
the Reynolds operator, and every aggregate here generalizes it. The guarantee is exact for views that permute pixels
(quarter turns, mirrors). Views between the pixels are interpolated: then it is exact for the quarter turns in the
group, and approximate for the rest.
Sources: Yarotsky (2022) for the operator; Basu et al. (2023), Kaba et al. (2023), Puny et al. (2022) for its kin.
"""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.actions import act, moves_pixels_exactly, rotate
from e2vit.groups import FiniteGroup, check_group, cyclic
from e2vit.models.symmetrized import aggregates as plain
from e2vit.models.symmetrized import learned
from e2vit.models.symmetrized.splitting import Split, split

# name → aggregate: a function, or a class that is built for the group (and the feature width, if it takes features)
AGGREGATES: dict[str, Callable] = {
    "mean_logits": plain.mean_logits,
    "mean_probabilities": plain.mean_probabilities,
    "most_likely": plain.most_likely,
    "most_certain": plain.most_certain,
    "class_maximum": plain.class_maximum,
    "vote": plain.vote,
    "entropy_weighted": plain.entropy_weighted,
    "feature_mean": plain.feature_mean,
    "feature_sum": plain.feature_sum,
    "feature_max": plain.feature_max,
    "moments": learned.Moments,
    "learned_mean": learned.LearnedMean,
    "learned_attention": learned.LearnedAttention,
    "orbit_convolution": learned.OrbitConvolution,
    "bispectrum": learned.Bispectrum,
    "canonical_energy": plain.canonical_energy,
    "canonical_learned": learned.CanonicalLearned,
    "frame": learned.Frame,
}
CONTROLS: dict[str, Callable] = {"index_weighted": learned.IndexWeighted}  # not invariant, and meant to be so


@dataclass(frozen=True)
class SymmetrizedConfig:
    """A model of this library and how it is made invariant, for the list of experiments."""

    model: Any  # the configuration of the model
    group: FiniteGroup = cyclic(4)
    aggregate: str = "mean_logits"
    interpolation: str | None = None
    chunk: int | None = None

    def __post_init__(self):
        find_aggregate(self.aggregate)

    @property
    def attention_scores(self) -> int:
        """Scores of one image, all views together."""
        return self.group.order * self.model.attention_scores

    def tiny(self) -> "SymmetrizedConfig":
        """The same around a tiny model, with four views at most."""
        group = self.group if self.group.order <= 8 else cyclic(4)
        return replace(self, model=self.model.tiny(), group=group)


class Symmetrized(nn.Module):
    """A classifier that sees the whole orbit of an image and combines its answers into invariant logits.

    model:     images → logits, any callable; a module's parameters become parameters of this one.
    aggregate: a name from AGGREGATES, or a callable (batch, element, class) → (batch, class); mark it with
               ``aggregates.combines("features")`` to be given (batch, element, d) and to return (batch, d).
    features, head: the two parts of the model, for aggregates of features; found by themselves for the models of this
               library, timm and torchvision (see ``splitting``).
    chunk:     the most views in one pass, which bounds the memory of inference; all at once when left out.
    interpolation: "bilinear", "bicubic" or "nearest", for groups that leave the square grid: choose it knowingly.
    fill:      the background that comes in at the corners of such views, a number or one for each channel. Turn before
               normalizing colors, or give the normalized background here.
    Error: ValueError, one sentence, when these do not fit, when the model returns no logits matrix, or when a view
    gives NaN (which an average would spread and a maximum hide).
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        group: FiniteGroup,
        aggregate: str | Callable = "mean_logits",
        features: Callable[[Tensor], Tensor] | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
        chunk: int | None = None,
        interpolation: str | None = None,
        fill: float | tuple[float, ...] = 0.0,
    ):
        super().__init__()
        check_group(group)
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk counts views and starts at 1, got {chunk}")
        if interpolation not in (None, "bilinear", "bicubic", "nearest"):
            raise ValueError(f"interpolation is bilinear, bicubic or nearest, not {interpolation!r}")
        off_grid = [g for g in range(group.order) if not moves_pixels_exactly(group, g)]
        if off_grid and interpolation is None:
            raise ValueError(
                f"{len(off_grid)} of the {group.order} elements of {group} leave the square grid: choose "
                'how to interpolate, for instance interpolation="bilinear"'
            )
        self.model, self.group, self.chunk = model, group, chunk
        self.interpolation, self.fill = interpolation, fill
        aggregate = find_aggregate(aggregate) if isinstance(aggregate, str) else aggregate
        self.combines = getattr(aggregate, "combines", "logits")
        wanted = self.combines == "features" or features is not None or head is not None
        self._split = split(model, features, head) if wanted else None
        if inspect.isclass(aggregate):
            aggregate = aggregate(group, self._split.width) if self.combines == "features" else aggregate(group)
        self.aggregate = aggregate
        known = set(self.modules())
        self.added = nn.ModuleList(
            part for part in (features, head) if isinstance(part, nn.Module) and part not in known
        )  # the caller's own parts, when the model does not hold them
        if isinstance(model, nn.Module):  # a model that was evaluated is not put back into training by its wrapper
            self.train(model.training)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class_"]:
        per_pass = len(images) if self.chunk is None else max(1, self.chunk // self.group.order)
        parts = images.split(max(1, per_pass))
        self._check_batch_norm(parts)
        return torch.cat([self._invariant(part) for part in parts])

    @property
    def parts(self) -> Split:
        """The model as features and a head. Error: ValueError for a model whose parts are not known."""
        return self._split or split(self.model)

    def views(self, images: Float[Tensor, "batch channel height width"]) -> Tensor:
        """gx for every element g: (batch, element, channel, height, width)."""
        return torch.stack([self._view(g, images) for g in range(self.group.order)], 1)

    def view_logits(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch element class_"]:
        """What the model says of every view."""
        return self._of_views(self.model, self.views(images), "logits")

    def view_features(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch element d"]:
        """The features of every view."""
        return self._of_views(self.parts.features, self.views(images), "features")

    def combine(self, seen: Tensor, views: Tensor | None = None) -> Float[Tensor, "batch class_"]:
        """The logits of the whole from those of its parts, which may have been computed and kept before.

        seen:  features (batch, element, d) for an aggregate of features, logits (batch, element, class) for the others.
        views: the images themselves, for an aggregate that looks at them.
        """
        if self.combines == "features":
            return self._checked(self._split.head(self.aggregate(seen)), len(seen), "logits")
        if self.combines == "images":
            return einsum(self.aggregate(views), seen, "batch element, batch element c -> batch c")
        return self._checked(self.aggregate(seen), len(seen), "logits")

    def _invariant(self, images: Tensor) -> Tensor:
        if self.combines == "features":
            return self.combine(self.view_features(images))
        if self.combines == "logits":
            return self.combine(self.view_logits(images))
        views = self.views(images)
        weights = self.aggregate(views)
        # Views without weight need no pass; in training they carry the slope.
        wanted = torch.ones_like(weights, dtype=torch.bool) if self.training else weights != 0
        logits = self._passes(self.model, views[wanted], "logits")
        image = wanted.nonzero()[:, 0]
        self._refuse_nan(logits, image, wanted.nonzero()[:, 1])
        summed = logits.new_zeros(len(images), logits.shape[-1])
        return summed.index_add(0, image, weights[wanted][:, None].to(logits) * logits)

    def _of_views(self, f: Callable, views: Tensor, what: str) -> Tensor:
        seen = self._passes(f, views.flatten(0, 1), what)
        index = torch.arange(len(seen), device=seen.device)
        self._refuse_nan(seen, index // self.group.order, index % self.group.order)
        return rearrange(seen, "(batch element) d -> batch element d", element=self.group.order)

    def _passes(self, f: Callable, views: Tensor, what: str) -> Tensor:
        """f of many images, at most ``chunk`` at a time."""
        chunks = views.split(self.chunk or max(1, len(views)))
        return torch.cat([self._checked(f(part), len(part), what) for part in chunks])

    def _view(self, g: int, images: Tensor) -> Tensor:
        if moves_pixels_exactly(self.group, g):
            return act(self.group, g, images)
        background = torch.as_tensor(self.fill, device=images.device, dtype=images.dtype).reshape(-1, 1, 1)
        images = images - background
        if self.interpolation == "bilinear":
            return act(self.group, g, images) + background
        mirrored, degrees = self.group.mirror_and_degrees(g)
        return rotate(images.flip(-1) if mirrored else images, degrees, self.interpolation) + background

    def _check_batch_norm(self, parts: tuple[Tensor, ...]) -> None:
        norms = (m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        if self.training and min(map(len, parts)) < 2 and any(norm.training for norm in norms):
            raise ValueError(
                "batch norm in training needs two images or more in every pass, since the views of one "
                "image are no sample: call eval(), or take a larger batch or chunk"
            )

    @staticmethod
    def _checked(values: Any, count: int, what: str) -> Tensor:
        if isinstance(values, Tensor) and values.ndim == 2 and len(values) == count and values.is_floating_point():
            return values
        got = f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"expected {what} as a float matrix with {count} rows, one for each image, and got {got}")

    def _refuse_nan(self, seen: Tensor, image: Tensor, element: Tensor) -> None:
        bad = seen.isnan().any(-1)
        if bad.any():
            first = int(bad.nonzero()[0])
            g = int(element[first])
            mirrored, degrees = self.group.mirror_and_degrees(g)
            raise ValueError(
                f"the model gives NaN for view {g} of {self.group} ({'mirrored, ' * mirrored}turned by {degrees:g} "
                f"degrees) of image {int(image[first])} of this pass"
            )


def find_aggregate(name: str) -> Callable:
    """The aggregate of that name, controls included. Error: ValueError with the nearest names."""
    known = AGGREGATES | CONTROLS
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)[:3]
        raise ValueError(f"no aggregate is called {name!r}; did you mean {' or '.join(near)}?")
    return known[name]
