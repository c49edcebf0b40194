"""The index tables of the released networks, once more in plain numbers, and what they refuse."""

import pytest
import torch

from e2vit.groups import FiniteGroup, cyclic, dihedral, from_matrices, gevit_index, gsa_index

FAMILIES = [cyclic(1), cyclic(2), cyclic(3), cyclic(4), cyclic(8), dihedral(1), dihedral(2), dihedral(3), dihedral(4)]


def parts(element: int, group: FiniteGroup) -> tuple[int, int]:
    """Mirrored or not, and the turn."""
    return divmod(element, group.rotations)


def gsa(v: int, g: int, m: int, group: FiniteGroup) -> int:
    n = group.rotations
    (v_mirror, _), (g_mirror, _), (m_mirror, _) = (parts(each, group) for each in (v, g, m))
    if not group.has_mirrors:
        return (m - g + v) % n
    together = v_mirror ^ g_mirror
    shift = g - v if together else g + v
    return n + (m + shift) % n if together ^ m_mirror else (m - shift) % n


def gevit(v: int, g: int, m: int, group: FiniteGroup) -> int:
    n = group.rotations
    (v_mirror, _), (g_mirror, _), (m_mirror, _) = (parts(each, group) for each in (v, g, m))
    if not group.has_mirrors:
        return (2 * g - v - m) % n
    if n == 1:
        return v ^ m
    shift = g - v if g_mirror else g + v
    return n * (v_mirror ^ g_mirror ^ m_mirror) + (m + shift if m_mirror else m - shift) % n


@pytest.mark.parametrize("group", FAMILIES, ids=str)
@pytest.mark.parametrize("table, formula", [(gsa_index, gsa), (gevit_index, gevit)])
def test_a_table_is_its_formula_number_by_number(group, table, formula):
    poses = range(group.order)
    expected = torch.tensor([[[formula(v, g, m, group) for m in poses] for g in poses] for v in poses])
    assert torch.equal(table(group), expected)


@pytest.mark.parametrize("table", [gsa_index, gevit_index])
def test_a_group_whose_elements_are_numbered_otherwise_has_no_released_table(table):
    with pytest.raises(ValueError, match="exist for C_n and D_n"):
        table(from_matrices("C4, numbered otherwise", cyclic(4).matrices[[0, 3, 1, 2]]))
    assert table(cyclic(4)).shape == (4, 4, 4)  # the control


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 8, 12, 16])
def test_cosines_that_are_simple_are_exact_and_the_others_untouched(n):
    """No product of rounded numbers: zeros, halves and ones are what they are, the rest is the cosine itself."""
    radians = torch.arange(n, dtype=torch.float64) * (2 * torch.pi / n)
    cos = cyclic(n).matrices[:, 0, 0]
    simple = (2 * radians.cos() - (2 * radians.cos()).round()).abs() < 1e-9
    assert torch.equal(cos[simple] * 2, (cos[simple] * 2).round())
    assert torch.equal(cos[~simple], radians.cos()[~simple])
    assert (cos - radians.cos()).abs().max() < 1e-15
