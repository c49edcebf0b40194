"""Group axioms, for every cyclic and dihedral group that hypothesis thinks of."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_matrices_that_form_no_group_are_refused():
    eighth = cyclic(8).matrices[:3]
    with pytest.raises(ValueError, match="no group"):
        from_matrices("eighth", eighth)
    with pytest.raises(ValueError, match="identity"):
        from_matrices("shifted", cyclic(4).matrices.roll(1, 0))
    with pytest.raises(ValueError, match="stands twice"):
        from_matrices("twice", cyclic(2).matrices.repeat(2, 1, 1))


@pytest.mark.parametrize("n", [0, -3, True])
def test_an_impossible_order_is_named(n):
    for make in (cyclic, dihedral):
        with pytest.raises(ValueError, match="at least 1"):
            make(n)
