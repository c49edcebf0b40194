"""A group is what its matrices are: elements in any order, and axes turned by any angle, in every layer and view."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import conjugated, on_maps, relabeled
from e2vit.actions import _resample, act, equivariance_error, exact_elements, invariance_error, moves_pixels_exactly
from e2vit.groups import FiniteGroup, cyclic, dihedral, from_matrices
from e2vit.layers import GroupConv, GroupSelfAttention, LiftingConv, LocalGroupSelfAttention
from e2vit.layers.pose import GroupLinear, PoseBlock
from e2vit.models import (
    GCNN,
    GCNNConfig,
    GroupAttentionNet,
    GroupAttentionNetConfig,
    HybridViT,
    HybridViTConfig,
    Symmetrized,
)
from e2vit.testing import randomized

GROUPS = st.builds(
    lambda group, degrees, seed: relabeled(conjugated(group, degrees), seed),
    st.sampled_from([cyclic(2), cyclic(3), cyclic(4), cyclic(8), dihedral(1), dihedral(2), dihedral(3), dihedral(4)]),
    st.sampled_from([0.0, 10.0, 22.5, 45.0, 90.0]),
    st.integers(0, 999),
)


LAYERS = {  # name → (group, side) → a layer from 4 channels, and whether it lifts
    "lifting": (lambda g, side: LiftingConv(g, 4, 3, min(side, 3)), True),
    "convolution": (lambda g, side: GroupConv(g, 4, 3, min(side, 3)), False),
    "global attention": (lambda g, side: GroupSelfAttention(g, 4, 1, 3), False),
    "lifting attention": (lambda g, side: GroupSelfAttention(g, 4, 1, 3, lifting=True), True),
    "local attention": (lambda g, side: LocalGroupSelfAttention(g, 4, 1, 3, window=min(side, 3)), False),
    "linear": (lambda g, side: GroupLinear(g, 4, 4), False),
    "pose block, bias": (lambda g, side: PoseBlock(g, side, 4, 1), False),
    "pose block, rotary": (lambda g, side: PoseBlock(g, side, 4, 1, position="rotary"), False),
    "pose block, within a pose": (lambda g, side: PoseBlock(g, side, 4, 1, attention="within_pose"), False),
}


def error(name: str, group: FiniteGroup, side: int, seed: int) -> float:
    """Over the elements that permute the pixels of the map: all of them where the map is one pixel."""
    make, lifts = LAYERS[name]
    layer = randomized(make(group, side), seed)
    x = torch.randn(2, 4, *(() if lifts else (group.order,)), side, side, dtype=torch.float64)
    elements = list(range(group.order)) if side == 1 else exact_elements(group)
    on_tokens = isinstance(layer, (GroupLinear, PoseBlock))
    return equivariance_error(on_maps(layer, side) if on_tokens else layer, x, group, elements)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_commutes_with_a_relabeled_and_conjugated_group(name):
    @settings(max_examples=15, deadline=None)
    @given(GROUPS, st.sampled_from([1, 3, 4]), st.integers(0, 99))
    def check(group, side, seed):
        if name == "local attention" and side == 4:
            side = 5
        assert error(name, group, side, seed) < 1e-10

    check()


def test_tables_of_another_order_break_it():
    """The control: the layer of one group, judged by the same group with its elements in another order."""
    group, other = dihedral(4), relabeled(dihedral(4), 3)
    layer = randomized(GroupConv(group, 4, 3, 3))
    assert equivariance_error(layer, torch.randn(2, 4, 8, 3, 3, dtype=torch.float64), other) > 1e-2


def test_a_group_of_the_same_name_gets_no_tables_of_the_other():
    """What is remembered for a group, such as offsets seen by its poses, is remembered for its matrices."""
    first, second = dihedral(4), from_matrices("D4", relabeled(dihedral(4), 3).matrices)
    for group in (first, second):
        assert error("local attention", group, 5, 0) < 1e-10


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4)], ids=str)
@pytest.mark.parametrize(
    ("model", "config"),
    [
        (HybridViT, lambda g: HybridViTConfig(g, image_size=8, stem=(2, 3), width=4, heads=1, depth=1)),
        (GCNN, lambda g: GCNNConfig(g, image_size=14, widths=(2, 2, 2))),
        (
            GroupAttentionNet,
            lambda g: GroupAttentionNetConfig(
                g, image_size=8, channels=8, heads=1, window=3, blocks=(1, 0), crops=(0,), position="stable"
            ),
        ),
    ],
    ids=["hybrid", "gcnn", "group attention"],
)
def test_every_model_is_invariant_to_a_relabeled_group(group, model, config):
    group = relabeled(group, 1)
    net = randomized(model(config(group)))
    side = net.config.image_size
    assert invariance_error(net, torch.randn(2, 1, side, side, dtype=torch.float64), group) < 1e-10


@settings(max_examples=30, deadline=None)
@given(GROUPS, st.sampled_from(["bilinear", "bicubic", "nearest"]))
def test_every_view_is_turned_by_the_matrix_of_its_element(group, interpolation):
    x = torch.randn(2, 1, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    views = Symmetrized(lambda images: images.flatten(1), group, interpolation=interpolation).views(x)
    assert torch.equal(views[:, 0], x)
    for g, matrix in enumerate(group.matrices):
        if moves_pixels_exactly(group, g):
            assert torch.equal(views[:, g], act(group, g, x))
        else:
            expected = _resample(x, matrix.expand(2, 2, 2), interpolation)
            close = (views[:, g] - expected).abs() < 1e-10
            # Where a nearest pixel is a tie, rounding decides.
            assert close.double().mean() > (0.9 if interpolation == "nearest" else 0.999)
