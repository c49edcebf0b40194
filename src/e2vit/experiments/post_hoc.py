"""Experiments of the post-hoc chapter: every aggregate on every base, in up to three regimes."""

from dataclasses import replace

from e2vit.experiments.experiment import Experiment
from e2vit.experiments.recipes import C16, D4
from e2vit.models import SymmetrizedConfig
from e2vit.models.symmetrized import AGGREGATES, CONTROLS
from e2vit.training.fine_tuning import FineTuneConfig

# One of each kind of aggregate when every weight moves: averaging before and after the head, the most certain view,
# learned weights of either kind, one that uses the order of the views, one that rotates the image first.
FINE_TUNED = (
    "mean_logits",
    "most_certain",
    "feature_mean",
    "learned_mean",
    "learned_attention",
    "orbit_convolution",
    "canonical_learned",
)
# A model that is equivariant already, with the help that the plain one gets: its last layer trained on the views.
HELPED = ("feature_mean", "learned_attention", "orbit_convolution")


def post_hoc(bases: list[Experiment]) -> list[Experiment]:
    """Every aggregate on every base, in up to three regimes: post_hoc/<setting>/<regime>/<method>.

    Within a setting all start from the same checkpoint, see the same views and choose among the same learning rates.
    Aggregates with parameters of their own start as the feature mean, so they need fine-tuning. 10,000 test images with
    16 views each are 160,000 passes: enough to see half a percent. Methods are compared in pairs on the same images by
    McNemar's test. A last layer is trained with three seeds, since the features of the views are computed once; moving
    every weight costs 16 times an ordinary run, so there a few aggregates stand for all, one seed each, in four epochs.
    """
    settings = {  # name -> base, group, interpolation, augmentation when every weight moves
        "rotated": ("rotmnist/vit", C16, "bilinear", "rotation"),
        "upright": ("rotmnist_upright/vit", C16, "bilinear", "none"),
        "tenth": ("rotmnist/vit-tenth", C16, "bilinear", "rotation"),
        "aerial": ("rsscn7/vit", D4, None, "none"),
        "upright_hybrid": ("rotmnist_upright/hybrid-c4", C16, "bilinear", "none"),
    }
    training = {
        "none": FineTuneConfig("none", test_images=10_000),
        "head": FineTuneConfig("head", epochs=10, rates=(3e-4, 1e-3, 3e-3), test_images=10_000),
        "all": FineTuneConfig("all", epochs=4, rates=(3e-5, 1e-4, 3e-4), test_images=10_000),
    }
    untrained = [name for name, aggregate in AGGREGATES.items() if not isinstance(aggregate, type) or name == "frame"]
    methods = {"none": untrained, "head": [*AGGREGATES, *CONTROLS], "all": FINE_TUNED}
    of_name = {base.name: base for base in bases}
    return [
        Experiment(
            f"post_hoc/{setting}/{regime}/{method}",
            f"{base} made invariant by {method.replace('_', ' ')}; fine-tuned: {regime}",
            SymmetrizedConfig(of_name[base].model, group, method, interpolation, chunk=1600),
            replace(training[regime], augment=augment) if regime == "all" else training[regime],
            data=of_name[base].data,
            fraction=of_name[base].fraction,
            base=base,
            setting=setting,
            regime=regime,
            method=method,
            network=of_name[base].network,
            seeds=3 if regime == "head" else 1,
        )
        for regime in methods
        for setting, (base, group, interpolation, augment) in settings.items()
        for method in methods[regime]
        if setting != "upright_hybrid" or (regime == "head" and method in HELPED)
    ]
