"""Index tables: those of the released networks as plain formulas, and which tables are equivariant at all."""

import pytest
import torch

from e2vit.actions import act
from e2vit.groups import (
    FiniteGroup,
    cyclic,
    dihedral,
    from_matrices,
    gevit_index,
    gsa_index,
    is_diagonal_invariant,
    is_equivariant_table,
    relative_elements,
)
from e2vit.layers import GroupSelfAttention
from e2vit.testing import randomized

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
@pytest.mark.parametrize(
    "group",
    [
        from_matrices("C4, numbered otherwise", cyclic(4).matrices[[0, 3, 1, 2]]),
        from_matrices("upside down", torch.eye(2).double() * torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]]])),
    ],
    ids=str,
)
def test_another_group_or_numbering_has_no_released_table(table, group):
    with pytest.raises(ValueError, match=f"exist for C_n and D_n.* not for {group}"):
        table(group)
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


def errors(tables: torch.Tensor, group: FiniteGroup, side: int) -> torch.Tensor:
    """The equivariance error of one layer of random parameters with each of the tables (table, v, g, m)."""
    every = torch.arange(group.order**3).reshape((group.order,) * 3) % (int(tables.max()) + 1)
    layer = randomized(GroupSelfAttention(group, 2, 1, 3, index=lambda group: every))
    x = torch.randn(1, 2, group.order, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def outputs(x):
        run = torch.vmap(lambda table: torch.func.functional_call(layer, {"table": table}, x))
        return run(tables)[:, 0]  # table channel element height width

    with torch.no_grad():
        y = outputs(x)
        differences = [
            (outputs(act(group, r, x)) - act(group, r, y)).abs().amax((1, 2, 3, 4)) for r in range(len(y[0, 0]))
        ]
    return torch.stack(differences).amax(0) / y.abs().amax((1, 2, 3, 4))


def sampled(group: FiniteGroup, count: int = 250) -> torch.Tensor:
    """Tables of four kinds, ``count`` each: random; rows constant in m; a function of g⁻¹v and g⁻¹m; the last with one
    whole orbit of rows made constant, each row by a constant of its own."""
    n, generator = group.order, torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randint(n, (count, *shape), generator=generator)  # noqa: E731
    relative = relative_elements(group)
    invariant = random(n, n)[:, relative.T[:, :, None], relative[None]]  # [v, g, m] → (g⁻¹v, g⁻¹m)
    orbit = relative.T == random(1, 1)  # the rows (v, g) with one value of g⁻¹v
    made_constant = torch.where(orbit[..., None], random(n, n, 1), invariant)
    return torch.cat([random(n, n, n), random(n, n, 1).expand(-1, -1, -1, n), invariant, made_constant])


EVERY_TABLE_OF_C2 = torch.arange(256)[:, None].bitwise_right_shift(torch.arange(8)).bitwise_and(1).reshape(-1, 2, 2, 2)


@pytest.mark.parametrize(
    ("group", "tables", "side"),
    [
        (cyclic(2), EVERY_TABLE_OF_C2, 2),
        (cyclic(3), sampled(cyclic(3)), 1),  # its turns leave the grid, so that the map is one pixel
        (cyclic(4), sampled(cyclic(4)), 2),
        (dihedral(2), sampled(dihedral(2)), 2),
    ],
    ids=lambda value: value.name if isinstance(value, FiniteGroup) else "",
)
def test_the_criterion_is_exact_and_constancy_on_orbits_is_only_sufficient(group, tables, side):
    measured = errors(tables, group, side)
    equivariant = measured < 1e-10
    assert measured[~equivariant].min() > 1e-6
    exact, sufficient = (
        torch.tensor([criterion(table, group) for table in tables])
        for criterion in (is_equivariant_table, is_diagonal_invariant)
    )
    assert torch.equal(exact, equivariant)
    assert not (sufficient & ~equivariant).any()
    assert (equivariant & ~sufficient).sum() >= 20  # the control: the orbit condition alone misses these
