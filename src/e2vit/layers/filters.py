"""Turned filters: a basis of kernel×kernel filters and its copies turned by every element of a group.

Where every element permutes pixels the basis is the pixels themselves, and turning is exact. Other groups turn a filter
off the pixel grid. There the basis is a set of smooth filters on a disc: rings, each with a few circular harmonics,

    ψ(r, θ) = exp(−(r − ring)² / 2σ²) · cos(fθ) or sin(fθ),    f ≤ 1.5 · ring.

A ring of radius r has 2πr pixels to show a wave on: the cut keeps only waves that the grid resolves in every direction.
Each turned copy is then put on the grid by least squares, so that it answers a smooth image as the continuous filter
would; reading off the values at the pixels would leave a false answer to constant images, which differs from pose to
pose.

Source: steerable bases of rings and harmonics as in Weiler and Cesa (2019); the least-squares step is ours.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from e2vit.actions import act, exact_elements
from e2vit.groups import FiniteGroup

WIDTH = 0.5  # σ of a ring, pixels
HARMONICS = 1.5  # largest frequency on a ring, per pixel of its radius
BANDWIDTH = 1.0  # of the images that the grid filters are fitted to: σ of their spectrum, radians per pixel
STEPS = 8  # sampling points of the continuous filter along one pixel
RIDGE = 1e-3  # keeps the fitted values small where images of that bandwidth say nothing


def turned_basis(group: FiniteGroup, kernel: int) -> Float[Tensor, "element basis pixel"]:
    """``turned_basis(group, k)[g, b]`` is basis filter b turned by g, k·k pixels row by row.

    Error: none for the elements that permute pixels, whatever the group: act(g, ·) takes the filters of pose m to those
    of pose gm, bit for bit. For the others, that of the least-squares fit.
    """
    if kernel < 1:
        raise ValueError(f"a kernel has at least 1 pixel, got {kernel}")
    exact = exact_elements(group)
    if len(exact) == group.order:
        pixels = torch.eye(kernel * kernel).reshape(-1, 1, kernel, kernel)
        return torch.stack([act(group, g, pixels) for g in range(group.order)]).reshape(group.order, -1, kernel**2)
    upright = _on_grid(group, 0, kernel)
    scale = upright.norm(dim=-1, keepdim=True)
    turned: dict[int, Tensor] = {}
    for g in range(group.order):
        if g not in turned:  # compute one filter of each coset; the pixel permutations give the others exactly
            filters = (_on_grid(group, g, kernel) / scale).float().reshape(-1, 1, kernel, kernel)
            turned |= {int(group.product[r, g]): act(group, r, filters) for r in exact}
    return torch.stack([turned[g] for g in range(group.order)]).reshape(group.order, -1, kernel**2)


def grid_points(side: int, step: float = 1.0) -> Float[Tensor, "point 2"]:
    """The points of a side×side grid about the origin, row by row from the top: x to the right, y upwards."""
    offsets = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) * step
    rows, columns = torch.meshgrid(offsets, offsets, indexing="ij")
    return torch.stack([columns, -rows], -1).reshape(-1, 2)


def _on_grid(group: FiniteGroup, g: int, kernel: int) -> Float[Tensor, "basis pixel"]:
    """The continuous filters turned by g, fitted on the pixels for images with a Gaussian spectrum.

    Minimizes E |Σ_x K(x) f(x) − ∫ ψ(g⁻¹u) f(u) du|² + ridge |K|², where E f(x) f(u) = exp(−(bandwidth · |x − u|)² / 2).
    """
    pixels, points = grid_points(kernel), grid_points(STEPS * (kernel + 2) + 1, 1 / STEPS)
    filters = _rings(points @ group.matrices[g], (kernel - 1) / 2) / STEPS**2
    among = torch.exp(-((BANDWIDTH * torch.cdist(pixels, pixels)) ** 2) / 2)
    between = torch.exp(-((BANDWIDTH * torch.cdist(pixels, points)) ** 2) / 2)
    normal = among + RIDGE * torch.eye(len(pixels), dtype=among.dtype)
    return torch.linalg.solve(normal, between @ filters.T).T


def _rings(points: Float[Tensor, "point 2"], radius: float) -> Float[Tensor, "basis point"]:
    """Every ring and harmonic of a disc of that radius (pixels), at the given points."""
    distance, angle = points.norm(dim=-1), torch.atan2(points[:, 1], points[:, 0])
    filters = []
    for ring in [radius - inner for inner in range(int(radius) + 1)]:
        profile = torch.exp(-((distance - ring) ** 2) / (2 * WIDTH**2)) * (distance <= radius + 0.5)
        filters.append(profile)
        for frequency in range(1, math.floor(HARMONICS * ring) + 1):
            filters += [profile * (frequency * angle).cos(), profile * (frequency * angle).sin()]
    return torch.stack(filters)
