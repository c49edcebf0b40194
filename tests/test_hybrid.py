"""The hybrid is exactly invariant, and every block of it exactly equivariant."""

import math
from dataclasses import replace

import pytest
import torch
from einops import rearrange

from conftest import on_maps
from e2vit.actions import equivariance_error, exact_elements, invariance_error
from e2vit.groups import cyclic, dihedral
from e2vit.layers.convolution import pool_elements
from e2vit.layers.pose import GroupLinear, PoseAttention
from e2vit.layers.position import PoseRotary, RelativeBias
from e2vit.models import HybridViT, HybridViTConfig
from e2vit.models.pooled_hybrid import PooledHybrid, PooledHybridConfig
from e2vit.testing import randomized
from e2vit_book.hybrid.measure import stage_errors

SMALL = HybridViTConfig(image_size=12, in_channels=2, classes=5, stem=(2, 3), kernel=3, width=6, heads=3, depth=2)
VARIANTS = {
    "joint": {"attention": "joint"},
    "within a pose": {},
    "rotary": {"position": "rotary"},
    "joint rotary": {"position": "rotary", "attention": "joint"},
    "no position": {"position": "none"},
    "mean": {"readout": "mean"},
    "mean pool": {"pool": "mean"},
    "pooled": {"poses": "pooled"},
    "stem alone": {"depth": 0},
    "patches": {"patch": 4, "stem": (5,), "attention": "joint"},
}


def images(side: int = 12) -> torch.Tensor:
    return torch.randn(3, 2, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def lifted(group, d: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(2, d, group.order, side, side, dtype=torch.float64, generator=generator)


def test_absolute_poses_in_the_bias_and_untied_poses_in_a_linear_map_break_it():
    group = cyclic(4)
    attention, linear = randomized(PoseAttention(group, 5, 6, 3, "joint")), randomized(GroupLinear(group, 6, 6))
    attention.bias.relative = torch.arange(4).expand(4, 4).contiguous()  # m in place of g⁻¹m
    linear.relative = torch.arange(16).reshape(4, 4) % 4
    for layer in (attention, linear):
        assert equivariance_error(on_maps(layer, 5), lifted(group, 6, 5), group) > 1e-2


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4), cyclic(8), cyclic(16)], ids=str)
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_the_stem_is_equivariant_and_every_variant_invariant(group, changes):
    model = randomized(HybridViT(replace(SMALL, group=group, **{"attention": "within_pose", **changes})))
    elements = exact_elements(group)
    assert equivariance_error(model.stem, images(), group, elements) < 1e-10
    for f in (model.features, model):
        assert invariance_error(f, images(), group, elements) < 1e-10


@pytest.mark.parametrize("change", [{"group": cyclic(1)}, {"position": "absolute"}], ids=["group", "position"])
def test_the_trivial_group_and_absolute_positions_break_it(change):
    assert invariance_error(randomized(HybridViT(replace(SMALL, **change))), images(), cyclic(4)) > 1e-2


@pytest.mark.parametrize("attention", ["joint", "within_pose"])
def test_training_on_a_cpu_and_evaluation_compute_the_same(attention):
    layer = randomized(PoseAttention(cyclic(4), 5, 6, 3, attention))
    x = rearrange(lifted(cyclic(4), 6, 5), "batch d pose row column -> batch pose (row column) d")
    assert (layer.train()(x) - layer.eval()(x)).abs().max() < 1e-10


def test_rotary_positions_see_only_relative_places():
    """Tokens moved by one place inside a larger empty map leave the scores among themselves as they were."""
    rotary = randomized(PoseRotary(cyclic(4), 5, 2, 6, joint=False))
    x = torch.randn(1, 4, 2, 1, 6, dtype=torch.float64).expand(-1, -1, -1, 25, -1)
    q, k = rotary(x, x)
    scores = (q @ k.transpose(-2, -1)).unflatten(-1, (5, 5)).unflatten(-3, (5, 5))
    assert (scores[..., :4, :4, :4, :4] - scores[..., 1:, 1:, 1:, 1:]).abs().max() < 1e-10


def test_the_bias_sees_waves_that_no_offset_goes_through_twice():
    """The slowest wave makes a quarter of its way along the map, so each offset has features of its own."""
    features = RelativeBias(cyclic(4), 5, 2, joint=False).features
    right = features[0].unflatten(0, (9, 9))[
        4, 5
    ]  # one place to the right, as pose 0 sees it: four sines, four cosines
    assert right[0].item() == pytest.approx(math.sin(math.pi / 2 / 5)) and right[4].item() == pytest.approx(
        math.cos(math.pi / 2 / 5)
    )
    assert all(torch.pdist(of_pose).min() > 0.1 for of_pose in features)


def test_rotary_waves_begin_between_a_quarter_turn_and_a_tenth_of_it_in_a_token():
    sizes = PoseRotary(cyclic(4), 5, 2, 12, joint=False).frequency.norm(dim=-1)
    assert (sizes[:, 0] - math.pi / 2).abs().max() < 1e-5 and (sizes[:, -1] - math.pi / 20).abs().max() < 1e-5


@pytest.mark.parametrize("readout", ["mean", "mean_max"])
@pytest.mark.parametrize("attention", ["joint", "within_pose"])
@pytest.mark.parametrize("position", ["bias", "rotary"])
def test_a_checkpoint_holds_parameters_and_no_tables(position, attention, readout):
    model = HybridViT(replace(SMALL, position=position, attention=attention, readout=readout))
    tables = set(model.state_dict()) - {name for name, _ in model.named_parameters()}
    assert all("running_" in name or "num_batches" in name for name in tables), tables


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4)], ids=str)
@pytest.mark.parametrize("changes", [{}, {"patch": 4, "stem": (4,)}], ids=["convolutions", "patches"])
def test_the_earlier_hybrids_are_invariant_too(group, changes):
    front = replace(SMALL, group=group, **changes)
    model = randomized(PooledHybrid(PooledHybridConfig(front, channels=8, heads=2, layers=1, window=3)))
    assert invariance_error(model, images(), group) < 1e-10


def test_the_earlier_hybrids_lose_the_relative_pose():
    """Two poses change places: the map without poses does not notice, the tokens with poses do."""
    group = cyclic(4)
    x = torch.randn(2, 3, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    shuffled = x[:, :, [1, 0, 2, 3]]
    assert (pool_elements(x, "mean") - pool_elements(shuffled, "mean")).abs().max() < 1e-10
    ours = randomized(HybridViT(replace(SMALL, group=group)))
    tokens = [rearrange(y, "batch d pose row column -> batch pose (row column) d") for y in (x, shuffled)]
    a, b = (ours.blocks[0](ours.embed(y)).sum((1, 2)) for y in tokens)
    assert (a - b).abs().max() > 1e-2


def test_the_stages_are_exact_and_absolute_positions_are_seen_where_they_enter():
    elements = [1, 2, 3]
    errors = stage_errors(randomized(HybridViT(SMALL)), images(), cyclic(4), elements)
    assert max(errors.values()) < 1e-10
    broken = stage_errors(randomized(HybridViT(replace(SMALL, position="absolute"))), images(), cyclic(4), elements)
    assert broken["tokens"] > 1e-2
    assert max(error for name, error in broken.items() if name.startswith("stem")) < 1e-10


@pytest.mark.parametrize("mode", ["joint", "within_pose"])
def test_queries_ask_and_keys_answer(mode):
    """Equal keys get equal weights, whatever the queries are; equal queries still choose among keys."""
    layer = randomized(PoseAttention(cyclic(1), 3, 4, 2, mode, "rotary"))
    x = torch.randn(2, 1, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.rotary.frequency.zero_()
        weight = layer.qkv.weight if mode == "joint" else layer.qkv.weight[0].T  # (out, in), a view
        weight[4:8] = 0  # keys
    spread = layer(x).std(2).max()
    assert spread < 1e-12
    layer = randomized(layer, seed=1)
    with torch.no_grad():
        layer.rotary.frequency.zero_()
        weight[:4] = 0  # queries: all see the same, too, but not the mean
    assert layer(x).std(2).max() < 1e-12
    weights = layer(x).mean(2) - layer.out(layer.qkv(x)[..., 8:].mean(2, keepdim=True)).squeeze(2)
    assert weights.abs().max() > 1e-3


def test_a_group_linear_map_keeps_the_size_of_its_input():
    torch.manual_seed(0)
    x = torch.randn(50, 8, 10, 40)
    assert abs(GroupLinear(cyclic(8), 40, 30)(x).std().item() - 1) < 0.05
