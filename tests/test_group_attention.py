"""Group self-attention: the formula in another form, exactness of every table on every group, borders, bad input."""

import math
from functools import partial, wraps
from itertools import product

import pytest
import torch

from e2vit.actions import equivariance_error, exact_elements
from e2vit.groups import cayley_index, cyclic, dihedral, gevit_index, gsa_index, is_diagonal_invariant
from e2vit.layers import GroupSelfAttention, LocalGroupSelfAttention
from e2vit.layers.position import AbsolutePosition
from e2vit.testing import randomized

QUARTER_TURNS = [cyclic(2), cyclic(4), dihedral(1), dihedral(2), dihedral(4)]
EXACT, BROKEN = 1e-10, 1e-2


def local(group, **settings):
    settings = {"channels": 3, "heads": 2, "head_dim": 5, "window": 3, "backend": "reference", **settings}
    return randomized(LocalGroupSelfAttention(group, **settings))


def whole(group, **settings):
    return randomized(GroupSelfAttention(group, channels=3, heads=2, head_dim=5, **settings))


def lifted(group, size=5, batch=1):
    return torch.randn(batch, 3, group.order, size, size, generator=torch.Generator().manual_seed(3)).double()


def error(layer, group, size=5):
    return equivariance_error(layer, lifted(group, size), group, exact_elements(group))


def backwards(layer):
    """The layer with its poses counted backwards, as GSA-Nets do."""
    inverse = layer.group.inverse
    return lambda x: layer(x[:, :, inverse] if x.ndim == 5 else x)[:, :, inverse]


def by_hand(layer, x, reach):
    """The layer for one image and one head, number by number. reach: of the window; the keys are those on the map."""
    group, d = layer.group, layer.out.weight.shape[1]
    poses_in, (height, width) = x.shape[1], x.shape[2:]
    bias, weight = layer.qkv.bias, layer.qkv.weight

    def project(part, g, row, column):
        rows = slice(part * d, (part + 1) * d)
        return weight[rows] @ x[:, g, row, column] + bias[rows]

    out = torch.zeros(layer.out.weight.shape[0], group.order, height, width, dtype=x.dtype)
    for v, row, column in product(range(group.order), range(height), range(width)):
        total = torch.zeros(d, dtype=x.dtype)
        for g in [v] if layer.diagonal else range(poses_in):
            q, terms = project(0, g, row, column) * layer.scale, []
            for m, to_row, to_column in product(range(poses_in), range(height), range(width)):
                x_offset, y_offset = to_column - column, row - to_row
                if max(abs(x_offset), abs(y_offset)) > reach:
                    continue
                offset = group.matrices[group.inverse[v]] @ torch.tensor([x_offset, y_offset]).double() / reach
                score = q @ project(1, m, to_row, to_column) + q @ layer.position(offset[None, None])[0, 0]
                if not layer.lifting:
                    element = layer.element[layer.table[v, g, m]]
                    score = score + q[-len(element) :] @ element
                terms.append((score.item(), project(2, m, to_row, to_column)))
            largest = max(score for score, _ in terms)
            sum_of_weights = sum(math.exp(score - largest) for score, _ in terms)
            total = total + sum(math.exp(score - largest) / sum_of_weights * value for score, value in terms)
        out[:, v, row, column] = layer.out.weight @ total + layer.out.bias
    return out


@pytest.mark.parametrize(
    "settings",
    [{}, {"query_pose": "diagonal"}, {"index": gevit_index, "position": "released"}, {"lifting": True}],
    ids=["stable", "diagonal", "released", "lifting"],
)
@torch.no_grad()
def test_the_layer_is_its_formula(settings):
    group, settings = cyclic(3), {"channels": 2, "heads": 1, "head_dim": 4, "out_channels": 5, **settings}
    x = torch.randn(1, 2, *[] if settings.get("lifting") else [3], 3, 4).double()
    for layer, reach in ((local(group, **settings), 1), (randomized(GroupSelfAttention(group, **settings)), 3)):
        given = x[0, :, None] if layer.lifting else x[0]
        assert (layer(x)[0] - by_hand(layer, given, reach)).abs().max() < EXACT


@pytest.mark.parametrize("group", QUARTER_TURNS, ids=str)
@pytest.mark.parametrize("settings", [{}, {"position": "released"}, {"window": 5, "window_shape": "disc"}], ids=str)
def test_the_layer_with_the_cayley_table_commutes_with_the_group(group, settings):
    assert error(local(group, **settings), group) < EXACT


def test_an_eighth_turn_breaks_it():
    group = cyclic(8)
    assert equivariance_error(local(group), lifted(group, 9), group, [1]) > BROKEN


@pytest.mark.parametrize("group", [*QUARTER_TURNS, cyclic(1), cyclic(8), dihedral(8)], ids=str)
@pytest.mark.parametrize("index", [gsa_index, gevit_index, cayley_index], ids=lambda index: index.__name__)
def test_a_layer_is_exact_where_its_table_is_constant_on_diagonal_orbits(group, index):
    """The smaller error of both ways to count the poses counts."""
    layer = local(group, index=index, channels=2, heads=1, head_dim=3)
    x = torch.randn(1, 2, group.order, 4, 4).double()
    found = min(equivariance_error(f, x, group, exact_elements(group)) for f in (layer, backwards(layer)))
    exact = {gsa_index: group.order == 1, gevit_index: not group.has_mirrors or group.order == 2, cayley_index: True}
    assert is_diagonal_invariant(index(group), group) == exact[index]
    assert found < EXACT if exact[index] else found > BROKEN


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4)], ids=str)
@pytest.mark.parametrize("index", [gsa_index, gevit_index], ids=lambda index: index.__name__)
def test_the_fault_is_in_the_element_index_alone(group, index):
    layer = local(group, index=index)
    torch.nn.init.zeros_(layer.element)
    assert equivariance_error(backwards(layer) if index is gsa_index else layer, lifted(group), group) < EXACT


@wraps(gsa_index)
def wrapped(group):
    return gsa_index(group)


@pytest.mark.parametrize("lifting", [True, False])
@pytest.mark.parametrize("index", [partial(gsa_index), wrapped, lambda group: gsa_index(group)])
def test_a_wrapped_table_gives_the_same_layer(index, lifting):
    group, x = cyclic(4), lifted(cyclic(4))[:, :, 0] if lifting else lifted(cyclic(4))
    expected = local(group, index=gsa_index, lifting=lifting)(x)
    assert torch.equal(local(group, index=index, lifting=lifting)(x), expected)
    assert (local(group, index=index, lifting=lifting, forward_offsets=False)(x) - expected).abs().max() > BROKEN


@pytest.mark.parametrize("group", QUARTER_TURNS, ids=str)
@pytest.mark.parametrize("index", [gsa_index, cayley_index], ids=lambda index: index.__name__)
def test_lifting_is_exact_in_all(group, index):
    for make, settings in ((local, {"position": "stable"}), (whole, {})):
        layer = make(group, lifting=True, index=index, **settings)
        x = torch.randn(2, 3, 4, 4).double()
        assert equivariance_error(backwards(layer) if index is gsa_index else layer, x, group) < EXACT


def test_a_window_over_the_whole_map_is_the_global_layer():
    group = dihedral(2)
    narrow, wide = local(group, window=7, small_maps=True), whole(group)
    x = lifted(group, 4)
    assert (narrow(x) - wide(x)).abs().max() < EXACT


def test_attention_weights_are_distributions():
    group, x = cyclic(3), lifted(cyclic(3), 7)
    windows = (local(group, window=window) for window in (3, 5, 7))
    for layer in (*windows, whole(group), local(group, query_pose="diagonal")):
        weights = layer.weights(x)
        axes = (4, 5) if isinstance(layer, LocalGroupSelfAttention) else (5, 6)
        assert weights.shape[:4] == (1, 2, 3, 1 if layer.diagonal else 3)
        assert (weights.sum(axes) - 1).abs().max() < EXACT and weights.min() >= 0
    assert local(group).weights(x)[..., 0, 0, 0].abs().max() == 0  # above and left of the first pixel there is no key


def moved(f, x):
    """How far f is from commuting with a step to the right, far from the border."""
    difference = f(x.roll(1, -1)) - f(x).roll(1, -1)
    return (difference[..., 3:-3, 3:-3].abs().max() / f(x).abs().max()).item()


def test_relative_positions_keep_translations_and_absolute_ones_break_them():
    x = torch.randn(1, 3, 1, 9, 9).double()
    layer, absolute = local(cyclic(1)), randomized(AbsolutePosition(3, 9, 9))
    assert moved(layer, x) < EXACT
    assert moved(lambda x: layer(absolute(x)), x) > BROKEN


def test_relative_positions_alone_break_rotations():
    """With the trivial group, poses of the input become channels that a turn does not permute."""
    layer = local(cyclic(1))
    x = torch.randn(1, 3, 1, 5, 5).double()
    turned = lambda x: x.rot90(1, (-2, -1))  # noqa: E731
    assert (layer(turned(x)) - turned(layer(x))).abs().max() > BROKEN


def test_dropout_of_weights_acts_in_training_alone():
    layer, x = local(cyclic(4), dropout=0.5), lifted(cyclic(4))
    assert torch.equal(layer(x), layer(x))
    assert not torch.equal(layer.train()(x), layer(x))


def test_half_precision_by_autocast():
    layer, x = local(cyclic(4)).float(), lifted(cyclic(4)).float()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16 and (out - layer(x)).abs().max() < 0.05 * layer(x).abs().max()


def test_released_tables_are_the_published_ones():
    """Some rows, as the public code builds them."""
    assert gsa_index(cyclic(4))[1, :2].tolist() == [[1, 2, 3, 0], [0, 1, 2, 3]]
    assert gevit_index(cyclic(4))[1, :2].tolist() == [[3, 2, 1, 0], [1, 0, 3, 2]]
    assert gsa_index(dihedral(4))[5, [0, 4]].tolist() == [[7, 4, 5, 6, 1, 2, 3, 0], [3, 0, 1, 2, 5, 6, 7, 4]]
    assert gevit_index(dihedral(4))[5, [0, 4]].tolist() == [[7, 4, 5, 6, 1, 2, 3, 0], [1, 2, 3, 0, 7, 4, 5, 6]]
    assert gevit_index(dihedral(1)).tolist() == [[[0, 1], [0, 1]], [[1, 0], [1, 0]]]


def test_offsets_seen_during_inference_serve_in_training():
    layer, x = local(cyclic(3), window=5), lifted(cyclic(3), 6)
    with torch.inference_mode():
        layer(x)
    layer(x).sum().backward()
