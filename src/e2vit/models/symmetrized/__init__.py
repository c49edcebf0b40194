"""Any model, made invariant or equivariant afterwards: run it on every view of an image and combine the outputs.

    invariant = Symmetrized(model, cyclic(4))                                # mean of logits
    invariant = Symmetrized(model, dihedral(4), "learned_attention")         # to be fine-tuned
    equivariant = Symmetrized(model, dihedral(4), output="out", output_action="maps")    # segmentation

f is invariant when f(gx) = f(x) for every g. Averaging over the group, x ↦ (1/|G|) Σ_g f(gx), makes any f so: that is
the Reynolds operator, and every aggregate here generalizes it. Outputs that turn with the image are turned back before
they are combined: x ↦ (1/|G|) Σ_g g⁻¹ f(gx) is equivariant. The guarantee is exact for views that permute pixels
(quarter turns, mirrors). Views between the pixels are interpolated: then it is exact for the quarter turns in the
group, and approximate for the rest.
Sources: Yarotsky (2022) for the operator; Basu et al. (2023), Kaba et al. (2023), Puny et al. (2022) for its kin.
"""

from dataclasses import dataclass, replace
from typing import Any

from e2vit.groups import FiniteGroup, cyclic
from e2vit.models.symmetrized.catalog import AGGREGATES, CONTROLS, find_aggregate
from e2vit.models.symmetrized.wrapper import Symmetrized

__all__ = ["AGGREGATES", "CONTROLS", "Symmetrized", "SymmetrizedConfig", "find_aggregate"]


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

    def tiny(self) -> "SymmetrizedConfig":
        """The same around a tiny model, with four views at most."""
        group = self.group if self.group.order <= 8 else cyclic(4)
        return replace(self, model=self.model.tiny(), group=group)

    @property
    def attention_scores(self) -> int:
        """Scores for one image: those of the model, once for each view."""
        return self.group.order * self.model.attention_scores
