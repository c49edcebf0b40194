"""Positional encodings: what a pose sees, what an encoding can tell apart, and what a disc is."""

import math

import pytest
import torch

from e2vit.actions import exact_elements
from e2vit.groups import cyclic, dihedral
from e2vit.layers.position import (
    AbsolutePosition,
    PositionAsReleased,
    StablePosition,
    plane_waves,
    seen_offsets,
    window_mask,
    window_offsets,
)
from e2vit.testing import randomized

CPU = torch.device("cpu")


def seen(group, rows, columns=None, forward=False):
    return seen_offsets(group, rows, columns or rows, forward, torch.float64, CPU)


def test_offsets_run_row_by_row_with_y_upwards():
    offsets = window_offsets(3, 5) * 2
    assert offsets[0].tolist() == [-2, 1] and offsets[1].tolist() == [-1, 1] and offsets[-1].tolist() == [2, -1]
    assert window_offsets(1).tolist() == [[0, 0]]


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4), dihedral(2), cyclic(8), dihedral(8)], ids=str)
def test_a_turned_pose_sees_a_turned_offset_as_before(group):
    """(rv)⁻¹(ro) = v⁻¹o for every r that permutes the offsets."""
    offsets, own = window_offsets(5), seen(group, 5)
    for r in exact_elements(group):
        moved = torch.cdist(offsets @ group.matrices[r].T, offsets).argmin(1)  # where r takes each offset
        assert (own[group.product[r]][:, moved] - own).abs().max() < 1e-15


def test_seen_the_other_way_it_is_not_as_before():
    group, offsets = cyclic(4), window_offsets(5)
    own, moved = seen(group, 5, forward=True), torch.cdist(offsets @ group.matrices[1].T, offsets).argmin(1)
    assert (own[group.product[1]][:, moved] - own).abs().max() > 0.1
    assert torch.equal(own, seen(group, 5)[group.inverse])  # it is the same but for the names of the poses


def test_half_an_eighth_turn_is_no_longer_on_the_grid():
    turned = seen(cyclic(8), 5)[1] * 2
    assert (turned - turned.round()).abs().max() > 0.1


@pytest.mark.parametrize("encoding", [StablePosition(7), PositionAsReleased(7, 2)])
def test_an_encoding_is_a_function_of_the_offset_alone(encoding):
    encoding, group = randomized(encoding), dihedral(4)
    whole, single = encoding(seen(group, 5)), encoding(seen(group, 5)[3:4, 7:8])
    assert whole.shape == (8, 25, 7) and (whole[3, 7] - single[0, 0]).abs().max() < 1e-12


def test_the_released_form_leaves_the_channels_of_the_elements_empty():
    features = randomized(PositionAsReleased(10, 3))(seen(cyclic(4), 3))
    assert (features[..., :6] != 0).all() and (features[..., 6:] == 0).all()


def test_the_released_form_starts_as_the_sign_of_an_offset():
    """Its input is one number times weights: normalized, only the sign is left."""
    features = PositionAsReleased(10, 3).double()(seen(cyclic(1), 9))[0].unflatten(0, (9, 9))
    assert (features[5:, :] - features[8:, :]).abs().max() < 1e-6  # rows 1 to 4 below look the same
    assert (features[4, 4] - features[8, 8]).abs().max() > 0.1


def test_the_stable_form_starts_with_all_offsets_apart_and_small_gradients():
    torch.manual_seed(0)
    encoding = StablePosition(10)
    features = encoding(seen(cyclic(1), 9).float())[0]
    assert torch.pdist(features).min() > 1e-2
    features.square().mean().backward()
    assert max(p.grad.abs().max() for p in encoding.parameters()) < 10


def test_a_disc_keeps_what_lies_within_half_its_side():
    kept = window_mask(5, "disc").reshape(5, 5)
    assert kept.sum() == 21 and not kept[0, 0] and kept[0, 1] and torch.equal(kept, kept.T)
    assert window_mask(5, "square") is None
    distances = window_offsets(9).norm(dim=-1) * 4
    assert distances[window_mask(9, "disc")].max() <= 4.5 < distances[~window_mask(9, "disc")].min()


def test_waves_have_the_published_wavelengths():
    table = plane_waves(8, 6, 5, 10_000)
    assert table[0, 3, 4].item() == pytest.approx(math.sin(3)) and table[3, 3, 4].item() == pytest.approx(
        math.cos(3 / 100), abs=1e-6
    )
    assert table[4, 3, 2].item() == pytest.approx(math.sin(2))


def test_absolute_positions_tell_places_apart():
    position = randomized(AbsolutePosition(4, 5, 6))
    image, lifted = torch.zeros(2, 4, 5, 6).double(), torch.zeros(2, 4, 3, 5, 6).double()
    assert torch.pdist(position(image)[0].flatten(1).T).min() > 1e-3
    assert torch.equal(position(lifted)[:, :, 1], position(image))
    with pytest.raises(ValueError, match=r"\(4, 5, 6\), not \(4, 6, 5\)"):
        position(image.mT)


def test_stable_positions_divide_by_no_tiny_number():
    assert StablePosition(4).norm.eps == 1e-5


def test_the_released_networks_begin_as_wide_as_they_were_released():
    """He et al. (2015): normal weights with the standard deviation √(2 / inputs), biases of zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        position = PositionAsReleased(800, 400)
    for network in (position.row, position.column):
        assert network[3].weight.std().item() == pytest.approx((2 / 16) ** 0.5, rel=0.05)
        assert network[0].bias.eq(0).all() and network[3].bias.eq(0).all()
