"""The aggregates by name."""

import difflib
from collections.abc import Callable

from e2vit.models.symmetrized import aggregates as plain
from e2vit.models.symmetrized import learned

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


def find_aggregate(name: str) -> Callable:
    """The aggregate of that name, controls included. Error: ValueError with the nearest names."""
    known = AGGREGATES | CONTROLS
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)[:3]
        raise ValueError(f"no aggregate is called {name!r}; did you mean {' or '.join(near)}?")
    return known[name]
