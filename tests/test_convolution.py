"""Group convolutions commute with the group."""

import pytest
import torch

from e2vit.actions import act, equivariance_error, exact_elements
from e2vit.groups import cyclic, dihedral
from e2vit.layers.convolution import GroupBatchNorm, GroupConv, LiftingConv, SpatialPool, pool_elements
from e2vit.layers.filters import turned_basis
from e2vit.models import HybridViT, HybridViTConfig
from e2vit.testing import randomized
from e2vit_book.hybrid.turning import smooth_images, turning_error, with_nearest_filters

GROUPS = [cyclic(1), cyclic(2), cyclic(4), dihedral(1), dihedral(2), dihedral(4)]
MORE_GROUPS = [cyclic(3), cyclic(8), cyclic(12), cyclic(16), dihedral(8)]


def images(side: int = 9) -> torch.Tensor:
    return torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def lifted(group, side: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 3, group.order, side, side, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("group", GROUPS + MORE_GROUPS, ids=str)
@pytest.mark.parametrize("make", [LiftingConv, GroupConv])
@pytest.mark.parametrize("kernel, padding, stride", [(5, 2, 1), (3, 0, 2), (4, 0, 1), (1, 0, 1)])
def test_convolutions_commute_with_the_elements_that_keep_the_grid(group, make, kernel, padding, stride):
    layer, x = make(group, 3, 5, kernel, padding, stride), images() if make is LiftingConv else lifted(group)
    assert equivariance_error(randomized(layer), x, group, exact_elements(group)) < 1e-10


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4)], ids=str)
@pytest.mark.parametrize("layer", [GroupBatchNorm(3), SpatialPool(2), SpatialPool(2, "mean"), SpatialPool(4)], ids=str)
def test_norm_and_pools_commute_with_the_group(group, layer):
    assert equivariance_error(randomized(layer), lifted(group, 8), group) < 1e-10


@pytest.mark.parametrize("mode", ["max", "mean"])
def test_group_pooling_leaves_a_map_that_only_moves(mode):
    group = dihedral(4)
    assert equivariance_error(lambda x: pool_elements(x, mode), lifted(group), group) < 1e-10


def test_lifting_is_correlation_with_every_turned_filter():
    group, x = dihedral(4), images(5)
    layer = randomized(LiftingConv(group, 3, 2, 5))
    upright = layer.filters().unflatten(0, (2, 8))[:, 0]
    for g in range(group.order):
        turned = upright.flip(-1) if g >= 4 else upright
        turned = turned.rot90(g % 4, (-2, -1))
        expected = torch.einsum("ocij,bcij->bo", turned, x) + layer.bias
        assert (layer(x)[:, :, g, 0, 0] - expected).abs().max() < 1e-10


def test_group_convolution_agrees_with_the_sum_over_relative_poses():
    group = dihedral(4)
    x = lifted(group, 3)
    layer = randomized(GroupConv(group, 3, 2, 3, bias=False))
    for g in range(group.order):
        value = torch.zeros(2, 2, dtype=torch.float64)
        for m in range(group.order):
            r = int(group.product[group.inverse[g], m])
            base = layer.weight[:, :, r].unflatten(-1, (3, 3))
            turned = (base.flip(-1) if g >= 4 else base).rot90(g % 4, (-2, -1))
            value += torch.einsum("ocij,bcij->bo", turned, x[:, :, m])
        assert (layer(x)[:, :, g, 0, 0] - value).abs().max() < 1e-10


def test_absolute_poses_and_ordinary_convolutions_break_it():
    group = cyclic(4)
    layer = randomized(GroupConv(group, 3, 5, 3))
    layer.relative = torch.arange(4).expand(4, 4).contiguous()  # m in place of g⁻¹m
    assert equivariance_error(layer, lifted(group), group) > 1e-2
    plain = torch.nn.Conv2d(3, 5 * 4, 3).double()
    assert equivariance_error(lambda x: plain(x).unflatten(1, (5, 4)), images(), group) > 1e-2


def test_the_size_rule_is_enforced_and_names_sizes_that_work():
    with pytest.raises(ValueError, match="nearby sizes that work: 1, 3"):
        LiftingConv(cyclic(4), 3, 2, 1, stride=2)(images(2))
    with pytest.raises(ValueError, match="nearby sizes that work: 6, 8"):
        SpatialPool(2)(lifted(cyclic(4), 7))
    with pytest.raises(ValueError, match="kernel 5, padding 2, stride 2 on 28 pixels .* work: 27, 29"):
        LiftingConv(cyclic(4), 3, 2, 5, padding=2, stride=2)(images(28))


def test_breaking_the_size_rule_would_break_equivariance():
    pool = torch.nn.functional.max_pool2d
    x = lifted(cyclic(4), 7)
    error = equivariance_error(lambda x: pool(x.flatten(1, 2), 2).unflatten(1, x.shape[1:3]), x, cyclic(4))
    assert error > 1e-2


def test_a_map_of_another_group_is_refused():
    with pytest.raises(ValueError, match="expected a lifted map"):
        GroupConv(cyclic(4), 3, 2, 3)(lifted(cyclic(2)))


def test_one_pose_is_an_ordinary_convolution():
    layer = randomized(LiftingConv(cyclic(1), 3, 5, 3, padding=1))
    weight = layer.weight.unflatten(-1, (3, 3))
    expected = torch.nn.functional.conv2d(images(), weight, layer.bias, padding=1)
    assert (layer(images())[:, :, 0] - expected).abs().max() < 1e-10


@pytest.mark.parametrize("group", MORE_GROUPS, ids=str)
@pytest.mark.parametrize("kernel", [1, 4, 5])
def test_pixel_permutations_turn_the_basis_bit_for_bit(group, kernel):
    basis = turned_basis(group, kernel).unflatten(-1, (kernel, kernel)).transpose(0, 1)[None]  # a lifted map
    for r in exact_elements(group):
        assert torch.equal(act(group, r, basis), basis)


def test_the_disc_basis_is_independent_and_smaller_than_the_pixels():
    basis = turned_basis(cyclic(8), 5)
    assert basis.shape == (8, 11, 25)
    assert torch.linalg.cond(basis[0].double()) < 10


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_smooth_filters_turn_by_45_degrees_at_most_half_as_badly_as_nearest_ones(pool):
    group = cyclic(8)
    torch.manual_seed(0)
    network = HybridViT(HybridViTConfig(group, stem=(4, 6, 8), pool=pool)).stem.double()
    error = turning_error(network, group, 1, 28)
    control = turning_error(with_nearest_filters(network, group), group, 1, 28)
    assert error < 0.2
    assert error < control / 2
    assert turning_error(network, group, 2, 28) < 1e-10  # a quarter turn


def test_one_layer_turns_by_45_degrees_within_a_few_percent():
    group = cyclic(8)
    torch.manual_seed(0)
    layer = LiftingConv(group, 1, 6, 5, 2).double()
    assert turning_error(layer, group, 1, 27) < 0.05
    assert turning_error(with_nearest_filters(layer, group), group, 1, 27) > 0.2


def test_smooth_images_turn_exactly():
    group = dihedral(4)
    for g in range(8):
        expected = act(group, g, smooth_images(group, 0, 3, 9))
        assert (smooth_images(group, g, 3, 9) - expected).abs().max() < 1e-12


def test_a_map_without_a_center_is_refused():
    with pytest.raises(ValueError, match="has no center pixel"):
        turning_error(LiftingConv(cyclic(8), 1, 2, 5, 2).double(), cyclic(8), 1, 28)


@pytest.mark.parametrize("group", [cyclic(4), cyclic(8)], ids=str)
def test_filters_begin_with_the_variance_that_a_rectifier_needs(group):
    """Two over the number of basis filters that are summed: channels, for GroupConv poses, and the basis."""
    torch.manual_seed(0)
    for layer, summed in ((LiftingConv(group, 6, 300, 3), 6), (GroupConv(group, 6, 300, 3), 6 * group.order)):
        expected = (2 / (summed * turned_basis(group, 3).shape[1])) ** 0.5
        assert abs(layer.weight.std().item() / expected - 1) < 0.05


def test_a_pool_takes_the_maximum_or_the_mean_of_each_window_and_keeps_the_poses():
    x = lifted(cyclic(4), 6)
    windows = x.unflatten(-1, (3, 2)).unflatten(-3, (3, 2))
    assert torch.equal(SpatialPool(2, "max")(x), windows.amax((-3, -1)))
    assert torch.equal(SpatialPool()(x), SpatialPool(2, "max")(x))
    torch.testing.assert_close(SpatialPool(2, "mean")(x), windows.mean((-3, -1)))
    assert torch.equal(pool_elements(x, "max"), x.amax(2)) and torch.equal(pool_elements(x, "mean"), x.mean(2))
