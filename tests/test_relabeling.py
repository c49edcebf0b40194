"""A group is what its matrices are, in every model and view; for the layers see the random cases."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_random_cases import GROUPS

from conftest import relabeled
from e2vit.actions import _resample, act, equivariance_error, moves_pixels_exactly
from e2vit.groups import dihedral, from_matrices
from e2vit.layers import GroupConv, LocalGroupSelfAttention
from e2vit.models import Symmetrized
from e2vit.testing import randomized


def test_tables_of_another_order_break_it():
    """The control: the layer of one group, judged by the same group with its elements in another order."""
    group, other = dihedral(4), relabeled(dihedral(4), 3)
    layer = randomized(GroupConv(group, 4, 3, 3))
    assert equivariance_error(layer, torch.randn(2, 4, 8, 3, 3, dtype=torch.float64), other) > 1e-2


def test_a_group_of_the_same_name_gets_no_tables_of_the_other():
    """What is remembered for a group, such as offsets seen by its poses, is remembered for its matrices."""
    first, second = dihedral(4), from_matrices("D4", relabeled(dihedral(4), 3).matrices)
    for group in (first, second):
        layer = randomized(LocalGroupSelfAttention(group, 4, 1, 3, window=3))
        assert equivariance_error(layer, torch.randn(2, 4, 8, 5, 5, dtype=torch.float64), group) < 1e-10


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
