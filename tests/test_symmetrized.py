"""The wrapper and its aggregates: exact invariance, what each formula says, and what is refused."""

import copy
import pickle

import pytest
import torch
from torch import nn

from conftest import conjugated, relabeled
from e2vit.actions import act, invariance_error
from e2vit.groups import cyclic, dihedral
from e2vit.models import Symmetrized, ViT, ViTConfig
from e2vit.models.symmetrized import AGGREGATES, CONTROLS
from e2vit.models.symmetrized.aggregates import combines
from e2vit.testing import randomized

GROUPS = [cyclic(4), dihedral(4)]
IN_ANY_ORDER = [conjugated(relabeled(group, 1), degrees) for group in GROUPS for degrees in (0.0, 45.0, 90.0)]
OF_LOGITS = [name for name, aggregate in AGGREGATES.items() if aggregate.combines == "logits"]
OF_ORBITS, OF_IMAGES = ("orbit_convolution", "bispectrum"), ("canonical_learned", "frame")


def images(count=3, channels=2, side=12):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, channels, side, side, generator=generator, dtype=torch.float64)


def small_vit(**changes):
    return ViT(ViTConfig(image_size=12, in_channels=2, classes=5, patch_size=3, width=12, depth=2, heads=3, **changes))


class Convolutional(nn.Module):
    """Not square, with batch norm, whose head begins with a LayerNorm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 7, 3), nn.BatchNorm2d(7), nn.GELU())
        self.head = nn.Sequential(nn.LayerNorm(7), nn.Linear(7, 5))

    def features(self, images):
        return self.stem(images).mean((-2, -1))

    def forward(self, images):
        return self.head(self.features(images))


@pytest.mark.parametrize("group", [*GROUPS, *IN_ANY_ORDER], ids=str)
@pytest.mark.parametrize("name", AGGREGATES)
def test_every_aggregate_makes_a_random_model_invariant(name, group):
    model = randomized(Symmetrized(small_vit(), group, name))
    assert invariance_error(model, images(), group) < 1e-10
    assert invariance_error(model.model, images(), group) > 1e-2
    assert model(images()).std(0).max() > 1e-3  # a constant would be invariant too


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_weights_for_places_in_the_list_of_views_break_it(group):
    (name,) = CONTROLS
    assert invariance_error(Symmetrized(randomized(small_vit()), group, name).double(), images(), group) > 1e-2


@pytest.mark.parametrize("name", AGGREGATES)
def test_sixteen_interpolated_views_are_exact_for_quarter_turns_alone(name):
    model = randomized(Symmetrized(small_vit(), cyclic(16), name, interpolation="bilinear"))
    assert invariance_error(model, images(), cyclic(4)) < 1e-10
    if name not in ("most_certain", "vote", "canonical_energy", "canonical_learned", "frame"):
        assert invariance_error(model, images(), cyclic(16)) > 1e-6


@pytest.mark.parametrize("name", OF_ORBITS)
@pytest.mark.parametrize("group", [cyclic(5), dihedral(3), dihedral(4)], ids=str)
def test_only_the_group_may_reorder_the_views_of_an_orbit_aggregate(name, group):
    aggregate = randomized(AGGREGATES[name](group, 6))
    features = torch.randn(3, group.order, 6, dtype=torch.float64)
    for r in range(group.order):  # view g of rx is view gr of x
        assert torch.allclose(aggregate(features[:, group.product[:, r]]), aggregate(features), atol=1e-10)
    order = torch.arange(group.order)
    order[[1, 2]] = order[[2, 1]]
    assert not torch.allclose(aggregate(features[:, order]), aggregate(features), atol=1e-3)


@pytest.mark.parametrize("name", sorted(AGGREGATES.keys() - {*OF_ORBITS, *OF_IMAGES}))
def test_the_other_aggregates_are_blind_to_the_order_of_the_views(name):
    model = randomized(Symmetrized(small_vit(), cyclic(4), name))
    seen = model.view_features(images()) if model.combines == "features" else model.view_logits(images())
    assert torch.allclose(model.combine(seen[:, [2, 0, 1, 3]]), model.combine(seen), atol=1e-10)


def test_the_logit_aggregates_say_what_their_formulas_say():
    logits = torch.randn(7, 4, 5, dtype=torch.float64) * 3
    p = logits.softmax(-1)
    combined = {name: AGGREGATES[name](logits).softmax(-1) for name in OF_LOGITS}
    assert torch.allclose(combined["mean_probabilities"], p.mean(1))
    product = p.prod(1)
    assert torch.allclose(combined["most_likely"], product / product.sum(-1, keepdim=True))
    weights = (p * p.log()).sum(-1).exp()
    expected = (p * weights[..., None]).sum(1)
    assert torch.allclose(combined["entropy_weighted"], expected / expected.sum(-1, keepdim=True))
    best = p.amax(1)
    assert torch.allclose(combined["class_maximum"], best / best.sum(-1, keepdim=True))
    for i in range(7):
        assert torch.allclose(combined["most_certain"][i], p[i, p[i].max(-1).values.argmax()])
        assert torch.allclose(combined["canonical_energy"][i], p[i, (-logits[i].exp().sum(-1).log()).argmin()])
        counts = torch.bincount(p[i].argmax(-1), minlength=5)
        assert torch.allclose(combined["vote"][i], (counts + p[i].mean(0)) / 5)


def test_mean_of_logits_and_product_of_probabilities_choose_the_same_class():
    logits = torch.randn(500, 16, 10, dtype=torch.float64) * 100
    assert torch.equal(AGGREGATES["mean_logits"](logits).argmax(-1), AGGREGATES["most_likely"](logits).argmax(-1))
    assert logits.softmax(-1).prod(1).max(-1).values.eq(0).any()  # the product itself underflows into ties
    assert not torch.equal(AGGREGATES["mean_logits"](logits).argmax(-1), AGGREGATES["most_certain"](logits).argmax(-1))


def test_the_surest_view_and_the_maximum_of_each_class_choose_the_same_class():
    logits = torch.randn(500, 16, 10, dtype=torch.float64) * 3
    surest, maximum = AGGREGATES["most_certain"](logits), AGGREGATES["class_maximum"](logits)
    assert torch.equal(surest.argmax(-1), maximum.argmax(-1))
    assert not torch.allclose(surest.softmax(-1), maximum.softmax(-1), atol=1e-2)


@pytest.mark.parametrize("name", ["most_certain", "canonical_energy"])
def test_views_of_equal_merit_are_averaged_whatever_their_order(name):
    """In single precision: probabilities round to 1, and behind a log-softmax every energy is 0 but for rounding."""
    generator = torch.Generator().manual_seed(3)
    sure = torch.eye(4)[None] * 60 + torch.rand(1, 4, 4, generator=generator) * 1e-6
    normalized = torch.randn(6, 4, 4, generator=generator).log_softmax(-1)
    for logits in (sure, normalized if name == "canonical_energy" else sure):
        combined = AGGREGATES[name](logits)
        assert torch.allclose(combined, AGGREGATES["mean_logits"](logits), atol=1e-5)
        assert torch.allclose(combined, AGGREGATES[name](logits[:, [2, 0, 3, 1]]), atol=1e-5)
    two = torch.tensor([[[20.0, 0, 0, 0], [0, 25, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]])  # both round to 1
    assert torch.equal(AGGREGATES[name](two), two[:, 1]), "the odds tell them apart"


def test_sum_is_mean_behind_a_layer_norm_alone():
    normalized = randomized(Convolutional())
    normalized.head[0].eps = 0.0
    own = {"features": normalized.features, "head": normalized.head}
    a, b = (Symmetrized(normalized, cyclic(4), name, **own)(images()) for name in ("feature_sum", "feature_mean"))
    assert torch.allclose(a, b, atol=1e-10)
    linear = randomized(small_vit())
    a, b = (Symmetrized(linear, cyclic(4), name)(images()) for name in ("feature_sum", "feature_mean"))
    assert not torch.allclose(a, b, atol=1e-2)


@pytest.mark.parametrize("name", ["moments", "learned_mean", "learned_attention", "orbit_convolution", "bispectrum"])
def test_learned_aggregates_start_as_the_mean(name):
    model = small_vit().double()
    started = Symmetrized(model, dihedral(4), name).double()(images())
    assert torch.allclose(started, Symmetrized(model, dihedral(4), "feature_mean")(images()), atol=1e-12)


def test_weights_and_attention_move_with_the_views():
    group = cyclic(4)
    model = randomized(Symmetrized(small_vit(), group, "learned_attention"))
    seen = []
    model.aggregate.normalize.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(images())
    for r in range(4):
        model(act(group, r, images()))
        assert torch.allclose(seen[-1], seen[0][..., group.product[:, r]], atol=1e-10)


@pytest.mark.parametrize("name", AGGREGATES)
def test_chunks_change_nothing_but_the_memory(name):
    model = randomized(Symmetrized(small_vit(), dihedral(4), name))
    whole = model(images(5))
    passes = []
    model.model.blocks[0].register_forward_hook(lambda module, inputs, output: passes.append(len(output)))
    for chunk in (1, 3, 8, 20):
        model.chunk = chunk
        assert torch.allclose(model(images(5)), whole, atol=1e-10)
        assert max(passes) <= chunk
        passes.clear()


def test_canonical_poses_cost_few_passes():
    for name, cost in (("canonical_learned", 1), ("frame", 2)):
        model, passes = randomized(Symmetrized(small_vit(), dihedral(4), name)), []
        model.model.head.register_forward_hook(lambda module, inputs, output, passes=passes: passes.append(len(output)))
        model(images(6))
        assert sum(passes) == 6 * cost


@pytest.mark.parametrize("name", [*AGGREGATES, *CONTROLS])
def test_every_parameter_can_be_trained(name):
    model = Symmetrized(small_vit(), cyclic(4), name).double().train()
    with torch.no_grad():  # the branches that start at zero would hide the slope of what lies before them
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    if isinstance(model.aggregate, nn.Module):
        assert all(p.grad.abs().sum() > 0 for p in model.aggregate.parameters())


@pytest.mark.parametrize("name", ["mean_logits", "learned_attention", "frame"])
def test_a_copy_and_a_saved_state_compute_the_same(name):
    model = randomized(Symmetrized(small_vit(), cyclic(4), name))
    fresh = Symmetrized(small_vit(), cyclic(4), name).double().eval()
    fresh.load_state_dict(model.state_dict())
    copies = fresh, copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        expected = model(images())
        next(model.parameters()).zero_()
    assert all(torch.equal(each(images()), expected) for each in copies)


def test_the_background_fills_the_corners():
    white = torch.ones(1, 3, 9, 9, dtype=torch.float64)
    for mode in ("bilinear", "bicubic", "nearest"):
        views = Symmetrized(lambda x: x.mean((-2, -1)), dihedral(8), interpolation=mode, fill=(1.0, 1.0, 1.0))
        assert torch.allclose(views.views(white), torch.ones(1, 16, 3, 9, 9, dtype=torch.float64))


@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "resnet10t", "convnext_atto"])
def test_a_timm_model_is_wrapped_in_one_line(architecture):
    timm = pytest.importorskip("timm")
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2} if "vit" in architecture else {}
    assert_wrapped(timm.create_model(architecture, pretrained=False, num_classes=6, **options), "learned_attention")


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small", "vit"])
def test_a_torchvision_model_is_wrapped_in_one_line(architecture):
    from torchvision import models

    if architecture == "vit":
        model = models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=6)
        nn.init.normal_(model.heads.head.weight)  # it starts at zero
    else:
        model = getattr(models, architecture)(num_classes=6)
    assert_wrapped(model, "moments")


def assert_wrapped(model, name):
    model, x = model.double().eval(), images(2, 3, 32)
    assert invariance_error(Symmetrized(model, dihedral(4)), x, dihedral(4)) < 1e-10
    invariant = Symmetrized(model, cyclic(4), name).double().eval()
    assert invariance_error(invariant, x, cyclic(4)) < 1e-10
    with torch.no_grad():  # the two parts, put together, are the model
        assert torch.allclose(invariant.parts.head(invariant.view_features(x)), invariant.view_logits(x), atol=1e-10)


@pytest.mark.parametrize("name", ["mean_logits", "vote", "feature_max", "canonical_learned"])
def test_nan_in_a_view_is_named(name):
    inner = randomized(small_vit())

    def features(x):  # break where the corner that view 1 brings up is dark
        return torch.where(x[:, :, 0, 0].mean(1, keepdim=True) < 0, torch.nan, inner.features(x))

    x = images()
    x[2, :, 0, -1] = -1.0  # a quarter turn brings the upper right corner to the upper left
    own = {"features": features, "head": inner.head} if name == "feature_max" else {}
    model = Symmetrized(lambda x: inner.head(features(x)), cyclic(4), name, **own, example=x.abs()).double()
    if name == "canonical_learned":
        model.train()  # so that every view is looked at
    with pytest.raises(ValueError, match="view 1 of C4 .turned by 90 degrees. of image 2"):
        model(x)


def test_a_callable_of_the_reader_is_an_aggregate():
    model = randomized(small_vit())

    @combines("features")
    def middle(features):
        return features.median(1).values

    for aggregate in (middle, lambda logits: logits.median(1).values):
        assert invariance_error(Symmetrized(model, cyclic(4), aggregate), images(), cyclic(4)) < 1e-10
