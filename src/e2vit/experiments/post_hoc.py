"""Experiments of the post-hoc chapter: every aggregate on every base, in up to three regimes."""

from e2vit.experiments.experiment import Experiment
from e2vit.experiments.recipes import C16, D4
from e2vit.models import SymmetrizedConfig
from e2vit.models.symmetrized import AGGREGATES, CONTROLS
from e2vit.training.fine_tuning import FineTuneConfig

# When every weight moves: averaging, learned weights, and one aggregate that uses the order of the views.
FINE_TUNED = ("mean_logits", "learned_attention", "orbit_convolution")
# A model that is equivariant already, with the help that the plain one gets: its last layer trained on the views.
HELPED = ("feature_mean", "learned_attention", "orbit_convolution")


def post_hoc(bases: list[Experiment]) -> list[Experiment]:
    """Every aggregate on every base, in up to two regimes, and a few in a third: post_hoc/<setting>/<regime>/<method>.

    Within a setting all start from the same checkpoint, see the same views and choose among the same learning rates.
    Aggregates with parameters of their own start as the feature mean, so they need fine-tuning. 10,000 test images with
    16 views each are 160,000 passes: enough to see half a percent. Methods are compared in pairs on the same images by
    McNemar's test. A last layer is trained with three seeds, since the features of the views are computed once; with
    one where the image is rotated first. The learned canonical pose is trained once, on the
    upright base. Moving every weight costs 16 times an ordinary run: one setting, one seed.
    """
    settings = {  # name -> base, group, interpolation
        "rotated": ("rotmnist/vit", C16, "bilinear"),
        "upright": ("rotmnist_upright/vit", C16, "bilinear"),
        "tenth": ("rotmnist/vit-tenth", C16, "bilinear"),
        "aerial": ("rsscn7/vit", D4, None),
        "upright_hybrid": ("rotmnist_upright/hybrid-c4", C16, "bilinear"),
    }
    training = {
        "none": FineTuneConfig("none", test_images=10_000),
        "head": FineTuneConfig("head", epochs=10, rates=(3e-4, 1e-3, 3e-3), test_images=10_000),
        "all": FineTuneConfig("all", epochs=4, rates=(3e-5, 1e-4, 3e-4), augment="rotation", test_images=10_000),
    }
    untrained = [name for name, aggregate in AGGREGATES.items() if not isinstance(aggregate, type) or name == "frame"]
    plain = ("rotated", "upright", "tenth", "aerial")
    methods = {  # regime -> settings, methods
        "none": [(plain, untrained)],
        "head": [
            (plain, [name for name in (*AGGREGATES, *CONTROLS) if name != "canonical_learned"]),
            (("upright",), ["canonical_learned"]),  # a network learns to turn images upright: where the base needs it
            (("upright_hybrid",), HELPED),
        ],
        "all": [(("tenth",), FINE_TUNED)],
    }
    of_name = {base.name: base for base in bases}
    return [
        Experiment(
            f"post_hoc/{setting}/{regime}/{method}",
            f"{base} made invariant by {method.replace('_', ' ')}; fine-tuned: {regime}",
            SymmetrizedConfig(of_name[base].model, group, method, interpolation, chunk=1600),
            training[regime],
            data=of_name[base].data,
            fraction=of_name[base].fraction,
            base=base,
            setting=setting,
            regime=regime,
            method=method,
            network=of_name[base].network,
            seeds=3 if regime == "head" and method not in ("frame", "canonical_learned") else 1,
        )
        for regime, parts in methods.items()
        for some, names in parts
        for setting in some
        for base, group, interpolation in [settings[setting]]
        for method in names
    ]
