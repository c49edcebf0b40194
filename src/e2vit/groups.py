"""Finite groups of rotations and mirrors of the plane, built from their matrices.

Every index table of the library is derived from the product table, and the product table from the matrices:
nothing is written down by hand, so nothing can be written down wrongly.

Conventions: x grows to the right and y grows upwards; an angle turns counter-clockwise. Element k of ``cyclic(n)``
turns by 360·k/n degrees. ``dihedral(n)`` lists its n rotations first, then each rotation applied after the mirror
x → −x, which on an image swaps left and right.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

MIRROR = torch.tensor([[-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)  # x → −x


@dataclass(frozen=True)
class FiniteGroup:
    """A finite group of orthogonal 2×2 matrices. Elements are the integers 0 … order − 1; 0 is the identity.

    Two groups are equal when they have the same matrices in the same order, whatever their names are.

    name:     for messages and tables, ``C4`` or ``D4``.
    matrices: (order, 2, 2), one orthogonal matrix for each element, with R(gh) = R(g) R(h).
    product:  (order, order), ``product[g, h]`` is the element gh: first h, then g.
    inverse:  (order,), ``inverse[g]`` is the element that undoes g.
    """

    name: str = field(compare=False)
    matrices: Float64[Tensor, "order 2 2"] = field(compare=False)
    product: Int64[Tensor, "order order"] = field(compare=False)
    inverse: Int64[Tensor, " order"] = field(compare=False)
    key: tuple[int, ...] = field(init=False)  # the matrices in millionths: numbers, so that a tracer can compare them

    def __post_init__(self):
        object.__setattr__(self, "key", tuple((self.matrices * 1e6).round().long().flatten().tolist()))

    @property
    def order(self) -> int:
        """Number of elements: n for C_n, 2n for D_n."""
        return len(self.inverse)

    @property
    def rotations(self) -> int:
        """Number of elements that are rotations: n for C_n and for D_n."""
        return int((torch.linalg.det(self.matrices) > 0).sum())

    @property
    def has_mirrors(self) -> bool:
        return self.rotations < self.order

    def mirror_and_degrees(self, g: int) -> tuple[bool, float]:
        """Element g, read from its matrix: whether it mirrors x → −x first, then by how many degrees it turns."""
        mirrored, radians = _mirrors_and_radians(self.matrices)
        return bool(mirrored[g]), round(math.degrees(radians[g]), 12) % 360

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<group {self.name} of {self.order} elements>"


def from_matrices(name: str, matrices: Float[Tensor, "order 2 2"]) -> FiniteGroup:
    """Return the group with the given matrices as elements, in that order.

    matrices: orthogonal, the identity first, float32 or float64. In float32, angles are rounded to the exact ones.
    Error: ValueError when a matrix is not orthogonal, or the matrices are not closed under multiplication.
    """
    if not torch.allclose(matrices @ matrices.mT, torch.eye(2).to(matrices), rtol=0, atol=1e-6):
        raise ValueError(f"the matrices of {name} are not all orthogonal: only rotations and mirrors make up a group")
    if matrices.dtype != torch.float64:
        matrices = _rounded(matrices.double())
    products = torch.einsum("gij,hjk->ghik", matrices, matrices)
    distance = (products[:, :, None] - matrices).abs().amax((-2, -1))
    nearest = distance.min(-1)
    if not torch.allclose(matrices[0], torch.eye(2, dtype=matrices.dtype)):
        raise ValueError(f"the first matrix of {name} is not the identity")
    closest_pair = torch.cdist(matrices.flatten(1), matrices.flatten(1)).fill_diagonal_(math.inf).min().item()
    if nearest.values.max() > 1e-6 or closest_pair < 1e-6:
        raise ValueError(f"the matrices of {name} are not a group: a product is missing or a matrix stands twice")
    product = nearest.indices
    return FiniteGroup(name, matrices, product, product.eq(0).int().argmax(1))


@lru_cache(maxsize=64, typed=True)
def cyclic(n: int) -> FiniteGroup:
    """C_n, the n rotations by multiples of 360/n degrees. n ≥ 1; ``cyclic(1)`` is the trivial group."""
    return from_matrices(f"C{_checked(n)}", _rotations(n))


@lru_cache(maxsize=64, typed=True)
def dihedral(n: int) -> FiniteGroup:
    """D_n, the n rotations by multiples of 360/n degrees and as many mirrors; 2n elements, n ≥ 1."""
    rotations = _rotations(_checked(n))
    return from_matrices(f"D{n}", torch.cat([rotations, rotations @ MIRROR]))


def check_group(group: Any) -> None:
    """TypeError for what is not a group, such as 4 or "C4"."""
    if not isinstance(group, FiniteGroup):
        raise TypeError(f"a group is an object such as cyclic(4) or dihedral(4), not {group!r}")


def _mirrors_and_radians(
    matrices: Float64[Tensor, "order 2 2"],
) -> tuple[Bool[Tensor, " order"], Float64[Tensor, " order"]]:
    """Whether each matrix mirrors x → −x before it turns, and the angle of that turn."""
    return torch.linalg.det(matrices) < 0, torch.atan2(-matrices[:, 0, 1], matrices[:, 1, 1])


def _rounded(matrices: Float64[Tensor, "order 2 2"]) -> Float64[Tensor, "order 2 2"]:
    """The nearest n rotations by multiples of 2π/n, and mirrors that differ by such rotations."""
    mirrored, radians = _mirrors_and_radians(matrices)
    step = 2 * math.pi / max(1, int((~mirrored).sum()))
    start = torch.where(mirrored, radians[mirrored][:1].sum(), 0.0)  # the axis of one mirror may have any angle
    start = torch.where((start / step - (start / step).round()).abs() < 1e-5, 0.0, start)
    turns = _turns(start + ((radians - start) / step).round() * step)
    return torch.where(mirrored[:, None, None], turns @ MIRROR, turns)


def _checked(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"a group needs a whole number of rotations, at least 1, and got {n!r}")
    return n


def _rotations(n: int) -> Float64[Tensor, "rotation 2 2"]:
    return _turns(torch.arange(n, dtype=torch.float64) * (2 * math.pi / n))


def _turns(radians: Float64[Tensor, " rotation"]) -> Float64[Tensor, "rotation 2 2"]:
    """Rotation matrices; cosines and sines that should be 0, ±1/2 or ±1 are exactly that."""
    cos, sin = (
        torch.where((2 * t - (2 * t).round()).abs() < 1e-12, (2 * t).round() / 2, t)
        for t in (radians.cos(), radians.sin())
    )
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2) + 0.0


def relative_elements(group: FiniteGroup) -> Int64[Tensor, "element element"]:
    """``relative_elements(group)[g, m]`` is g⁻¹m: the pose m seen from the pose g."""
    return group.product[group.inverse]


def cayley_index(group: FiniteGroup) -> Int64[Tensor, "v g m"]:
    """The Cayley table, G[v, g, m] = g⁻¹m, read from the product table; equivariant for every group."""
    return relative_elements(group).expand(group.order, -1, -1).contiguous()


def gsa_index(group: FiniteGroup) -> Int64[Tensor, "v g m"]:
    """The table of the released GSA-Nets, for C_n and D_n: equivariant for the trivial group alone.

    C_n: m + v − g. D_n, as (mirror, turn): the mirrors add up, and the turn is shifted as if rotations and mirrors
    were two separate cycles.
    Source: Romero and Cordonnier (2021), read from the public code.
    """
    n, (v, g, m) = group.rotations, _family_triples(group)
    if not group.has_mirrors:
        return (m + v - g) % n
    mirror = (v // n + g // n) % 2
    shift = torch.where(mirror == 0, g + v, g - v)
    mirrored = (m // n + mirror) % 2
    return mirrored * n + torch.where(mirrored == 0, m - shift, m + shift) % n


def gevit_index(group: FiniteGroup) -> Int64[Tensor, "v g m"]:
    """The table of the released GE-ViT, for C_n and D_n: equivariant for C_n and D_1, broken for D_n from n = 2 on.

    C_n: 2g − m − v. D_1: v + m, a case of its own in the code. D_n: as in GSA-Nets, but a mirror changes only the half
    of the table that is read.
    Source: Xu et al. (2023), read from the public code.
    """
    n, (v, g, m) = group.rotations, _family_triples(group)
    if not group.has_mirrors:
        return (2 * g - m - v) % n
    if n == 1:
        return (v + 0 * g + m) % 2
    shift = torch.where(g < n, g + v, g - v)
    return (v // n + g // n + m // n) % 2 * n + torch.where(m < n, m - shift, m + shift) % n


def _family_triples(group: FiniteGroup) -> tuple[Tensor, Tensor, Tensor]:
    """v, g and m as three axes; ValueError unless the elements are numbered as in C_n or D_n."""
    if group != (dihedral if group.has_mirrors else cyclic)(group.rotations):
        raise ValueError(f"the released index tables exist for C_n and D_n, not for {group}")
    poses = torch.arange(group.order)
    return poses[:, None, None], poses[:, None], poses


def is_equivariant_table(table: Int64[Tensor, "v g m"], group: FiniteGroup) -> bool:
    """Whether group self-attention with this table is equivariant for all parameters: necessary and sufficient.

    For all r, v and g, either G[rv, rg, rm] = G[v, g, m] for every m, or both rows are constant in m. The embedding
    e(G[v, g, m]) enters the scores of a softmax over m, and a softmax does not see what is constant in m.
    """
    constant = (table == table[..., :1]).all(-1)
    return all(
        bool(((table[p][:, p][:, :, p] == table).all(-1) | constant & constant[p][:, p]).all()) for p in group.product
    )


def is_diagonal_invariant(table: Int64[Tensor, "v g m"], group: FiniteGroup) -> bool:
    """Whether G[rv, rg, rm] = G[v, g, m] for every r: sufficient for equivariance, not necessary.

    G = v and G = g are equivariant without it; ``is_equivariant_table`` is the exact criterion.
    """
    return all(bool((table[p][:, p][:, :, p] == table).all()) for p in group.product)
