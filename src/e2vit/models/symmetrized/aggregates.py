"""Ways to combine what a model says about the views of one image: those without parameters.

Of an image x the views are gx for every element g of the group. Turning x by r turns view g into view gr, so the views
change places and nothing else: whatever ignores their order is invariant. l_g are the logits of view g, p_g their
softmax, z_g its features. Every aggregate returns logits (whose softmax are the probabilities) or features for the
head. Unless its docstring says otherwise, an aggregate is exactly invariant, to any order of the views, and costs |G|
passes of the model for an image; one of features adds one pass of the head. ``combines`` marks what an aggregate takes.
"""

import math
from collections.abc import Callable

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

ViewLogits = Float[Tensor, "batch element class_"]
ViewFeatures = Float[Tensor, "batch element d"]
Logits = Float[Tensor, "batch class_"]
Features = Float[Tensor, "batch d"]


def combines(what: str) -> Callable:
    """Marks an aggregate as one of logits, of features, or of images (it weights views before the model sees them)."""

    def mark(aggregate):
        aggregate.combines = what
        return aggregate

    return mark


@combines("logits")
def mean_logits(logits: ViewLogits) -> Logits:
    """(1/|G|) Σ_g l_g: test-time augmentation."""
    return reduce(logits, "batch element c -> batch c", "mean")


@combines("logits")
def mean_probabilities(logits: ViewLogits) -> Logits:
    """log (1/|G|) Σ_g p_g: the views as equally likely causes."""
    return logits.log_softmax(-1).logsumexp(1) - math.log(logits.shape[1])


@combines("logits")
def most_likely(logits: ViewLogits) -> Logits:
    """log Π_g p_g = Σ_g log p_g: the product rule, the views as independent witnesses.

    Its argmax is that of ``mean_logits``, since log p_g is l_g less a constant; its confidence is far higher. In log
    space, because the product itself underflows and then ties.
    """
    return reduce(logits.log_softmax(-1), "batch element c -> batch c", "sum")


@combines("logits")
def most_certain(logits: ViewLogits) -> Logits:
    """l_h for the view h whose largest probability is largest.

    Compared by its odds, l_h less the log-sum-exp of all other classes, since probabilities near 1 are rounded to 1.
    It jumps where two views are equally sure.
    Source: Basu et al. (2023), there called equizero.
    """
    best = logits.argmax(-1, keepdim=True)
    others = logits.scatter(-1, best, -math.inf).logsumexp(-1)
    return _best_view(logits, logits.gather(-1, best).squeeze(-1) - others)


@combines("logits")
def class_maximum(logits: ViewLogits) -> Logits:
    """log max_g p_g(c), for each class c from the view that likes it best; not the same as ``most_certain``."""
    return logits.log_softmax(-1).amax(1)


@combines("logits")
def vote(logits: ViewLogits) -> Logits:
    """log (n_c + mean_g p_g(c)) / (|G| + 1) with n_c the number of views whose class is c: the mean breaks ties.

    It jumps where a view changes its class.
    """
    votes = torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    return ((votes.sum(1) + logits.softmax(-1).mean(1)) / (logits.shape[1] + 1)).log()


@combines("logits")
def entropy_weighted(logits: ViewLogits) -> Logits:
    """log Σ_g w_g p_g with w = softmax over the views of −H(p_g): a view that hesitates counts less (H in nats)."""
    log_p = logits.log_softmax(-1)
    log_weights = (log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1).log_softmax(1)
    return (log_p + rearrange(log_weights, "batch element -> batch element 1")).logsumexp(1)


@combines("logits")
def canonical_energy(logits: ViewLogits) -> Logits:
    """l_h for the view h of lowest energy −log Σ_c exp l_g(c): the pose the classifier knows best is taken for upright.

    It jumps where two views have nearly the same energy. Behind a log-softmax all have: then it is ``mean_logits``.
    Source: the energy is that of Liu et al. (2020), the idea that of Kaba et al. (2023).
    """
    return _best_view(logits, logits.logsumexp(-1))


@combines("features")
def feature_mean(features: ViewFeatures) -> Features:
    """(1/|G|) Σ_g z_g, then the head: the Reynolds operator applied to the features."""
    return reduce(features, "batch element d -> batch d", "mean")


@combines("features")
def feature_sum(features: ViewFeatures) -> Features:
    """Σ_g z_g, then the head; behind a head that begins with a LayerNorm the same as ``feature_mean``."""
    return reduce(features, "batch element d -> batch d", "sum")


@combines("features")
def feature_max(features: ViewFeatures) -> Features:
    """max_g z_g, feature by feature, then the head."""
    return reduce(features, "batch element d -> batch d", "max")


def _best_view(logits: ViewLogits, score: Float[Tensor, "batch element"]) -> Logits:
    """The logits of the view of the largest score; the mean over views whose scores differ from it by rounding alone.

    The first of several equal views would be another one as soon as the image turns.
    """
    finite = logits.detach().abs().masked_fill(logits.isinf(), 0.0)
    slack = 16 * torch.finfo(logits.dtype).eps * finite.amax((1, 2))[:, None]
    chosen = (score >= score.amax(1, keepdim=True) - slack).to(logits)
    return weighted(chosen / chosen.sum(1, keepdim=True), logits)


def weighted(weights: Float[Tensor, "batch element"], seen: Float[Tensor, "batch element ..."]) -> Tensor:
    """Σ_g w_g l_g, where a weight of zero silences −∞ too, and −∞ of a view with weight stays."""
    w = weights.to(seen).reshape(*weights.shape, *[1] * (seen.ndim - 2))
    bounded = seen.clamp(min=torch.finfo(seen.dtype).min)
    return (w * bounded).sum(1).masked_fill((seen.isneginf() & (w != 0)).any(1), -math.inf)
