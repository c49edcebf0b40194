"""Group axioms, for every cyclic and dihedral group that hypothesis thinks of."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import conjugated, relabeled, untyped
from e2vit.groups import cayley_index, cyclic, dihedral, from_matrices, is_diagonal_invariant, relative_elements

groups = st.one_of(st.integers(1, 16).map(cyclic), st.integers(1, 8).map(dihedral))
few = settings(max_examples=20, deadline=None)


@few
@given(groups)
def test_the_axioms_hold(group):
    elements = torch.arange(group.order)
    product, inverse = group.product, group.inverse
    assert torch.equal(product[0], elements) and torch.equal(product[:, 0], elements)
    assert (product[elements, inverse] == 0).all() and (product[inverse, elements] == 0).all()
    assert torch.equal(product[product], product[:, product])  # (gh)m = g(hm) for all g, h, m at once


@few
@given(groups)
def test_matrices_are_an_orthogonal_representation(group):
    m = group.matrices
    assert torch.allclose(m @ m.transpose(1, 2), torch.eye(2, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(torch.einsum("gij,hjk->ghik", m, m), m[group.product], atol=1e-12)
    assert m.dtype == torch.float64


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 7, 12, 16])
def test_orders_and_element_numbering(n):
    turn = cyclic(n).matrices[1 % n]
    angle = torch.tensor(2 * torch.pi / n, dtype=torch.float64)
    assert torch.allclose(
        turn @ torch.tensor([1.0, 0.0], dtype=torch.float64), torch.stack([angle.cos(), angle.sin()]), atol=1e-12
    )
    both = dihedral(n)
    assert (cyclic(n).order, both.order, both.rotations, both.has_mirrors) == (n, 2 * n, n, True)
    assert torch.allclose(both.matrices[:n], cyclic(n).matrices)
    for k in range(n):
        assert both.product[k, n] == n + k  # rotation ∘ mirror


def test_quarter_turns_have_whole_entries():
    for group in (cyclic(4), dihedral(4), cyclic(2), dihedral(1)):
        assert torch.equal(group.matrices, group.matrices.round())


@few
@given(groups)
def test_the_cayley_index_is_constant_on_diagonal_orbits(group):
    table = cayley_index(group)
    assert table.shape == (group.order,) * 3 and is_diagonal_invariant(table, group)
    assert torch.equal(table[0], relative_elements(group))


def test_an_index_of_absolute_elements_breaks_it():
    group = dihedral(4)
    absolute = torch.arange(group.order).expand(group.order, group.order, -1)
    assert not is_diagonal_invariant(absolute, group)


@pytest.mark.parametrize(
    "message, matrices",
    [
        ("not a group", cyclic(8).matrices[:3]),
        ("identity", cyclic(4).matrices.roll(1, 0)),
        ("stands twice", cyclic(2).matrices.repeat(2, 1, 1)),
        ("not all orthogonal", torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [0.0, -1.0]]]).double()),
        ("not all orthogonal", 2 * torch.eye(2)[None].double()),
    ],
    ids=["no product", "shifted", "twice", "a mirror along a slanted axis", "a stretch"],
)
def test_matrices_that_form_no_group_are_refused(message, matrices):
    with pytest.raises(ValueError, match=message):
        from_matrices("refused", matrices)


@pytest.mark.parametrize(
    "group", [cyclic(1), cyclic(4), cyclic(7), cyclic(12), dihedral(1), dihedral(4), dihedral(6)], ids=str
)
def test_single_precision_makes_the_same_group(group):
    single = from_matrices("single", group.matrices.float())
    assert single == group and single.matrices.dtype == torch.float64
    assert (single.matrices - group.matrices).abs().max() < 1e-15
    tilted = conjugated(group, 10.0)
    assert (from_matrices("tilted", tilted.matrices.float()).matrices - tilted.matrices).abs().max() < 1e-6


def test_groups_are_equal_by_their_matrices_and_never_by_their_names():
    group = dihedral(4)
    assert from_matrices("another name", group.matrices) == group
    assert hash(from_matrices("another name", group.matrices)) == hash(group)
    for other in (conjugated(group, 45 / 2), relabeled(group, 3), cyclic(8)):
        assert from_matrices("D4", other.matrices) != group
    assert group != "D4" and {group: 1, conjugated(group, 45 / 2): 2}[group] == 1


@few
@given(groups, st.integers(0, 99), st.sampled_from([0.0, 10.0, 45.0, 90.0]))
def test_the_turn_and_the_mirror_of_an_element_are_read_from_its_matrix(group, seed, degrees):
    group = relabeled(conjugated(group, degrees), seed)
    for g, matrix in enumerate(group.matrices):
        mirrored, turn = group.mirror_and_degrees(g)
        angle = torch.tensor(turn, dtype=torch.float64).deg2rad()
        rotation = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
        flip = torch.tensor([-1.0 if mirrored else 1.0, 1.0], dtype=torch.float64)
        assert (rotation * flip - matrix).abs().max() < 1e-12 and 0 <= turn < 360
    assert cyclic(8).mirror_and_degrees(2) == (False, 90.0)


@pytest.mark.parametrize("n", [0, -3, True, 4.0, "C4"])
def test_an_impossible_order_is_named(n):
    cyclic(1), dihedral(4)  # equal to True and 4.0, and remembered
    for make in (cyclic, dihedral):
        with untyped(), pytest.raises(ValueError, match="at least 1"):
            make(n)
