"""The filters that turn, once more by formulas written another way."""

import math

import pytest
import torch

from e2vit.groups import cyclic, dihedral
from e2vit.layers import filters as kernel_basis
from e2vit.layers.filters import BANDWIDTH, HARMONICS, RIDGE, STEPS, WIDTH, grid_points, turned_basis
from e2vit_book.hybrid.turning import nearest_basis


def rings(x: float, y: float, radius: float) -> list[float]:
    """Every ring and harmonic at one point."""
    distance, angle, values = math.hypot(x, y), math.atan2(y, x), []
    for inner in range(int(radius) + 1):
        ring = radius - inner
        profile = math.exp(-0.5 * ((distance - ring) / WIDTH) ** 2) if distance <= radius + 0.5 else 0.0
        values.append(profile)
        for frequency in range(1, int(HARMONICS * ring) + 1):
            values += [profile * math.cos(frequency * angle), profile * math.sin(frequency * angle)]
    return values


@pytest.mark.parametrize("radius", [1.0, 1.5, 2.0])
def test_rings_are_gaussian_profiles_times_waves(radius):
    points = grid_points(9, 0.45) + 0.01  # no point on an edge of the disc
    expected = torch.tensor([rings(x, y, radius) for x, y in points.tolist()], dtype=torch.float64).T
    assert (kernel_basis._rings(points, radius) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("group", [cyclic(8), dihedral(8)], ids=str)
@pytest.mark.parametrize("kernel", [3, 4])
def test_the_grid_filters_minimize_what_they_say(group, kernel):
    """The minimum as least squares over a factor of the covariance: no normal equations."""
    pixels, points = grid_points(kernel), grid_points(STEPS * (kernel + 2) + 1, 1 / STEPS)
    for g in (0, 1, group.order - 1):
        places = [(group.matrices[g].T @ point).tolist() for point in points]  # R⁻¹u
        values = torch.tensor([rings(*place, (kernel - 1) / 2) for place in places], dtype=torch.float64) / STEPS**2

        def covariance(a, b):
            return torch.exp(-(BANDWIDTH**2) * (a[:, None] - b[None]).square().sum(-1) / 2)

        factor = torch.linalg.cholesky(covariance(pixels, pixels) + 1e-12 * torch.eye(kernel**2, dtype=torch.float64))
        target = torch.linalg.solve_triangular(factor, covariance(pixels, points) @ values, upper=False)
        rows = torch.cat([factor.T, RIDGE**0.5 * torch.eye(kernel**2, dtype=torch.float64)])
        expected = torch.linalg.lstsq(rows, torch.cat([target, torch.zeros_like(target)])).solution.T
        assert (kernel_basis._on_grid(group, g, kernel) - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("group", [cyclic(4), cyclic(8), dihedral(3)], ids=str)
@pytest.mark.parametrize("kernel", [3, 4])
def test_nearest_filters_look_up_one_pixel_each(group, kernel):
    filters = torch.rand(2, kernel**2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned, middle = nearest_basis(group, filters), (kernel - 1) / 2
    for g, ((a, b), (c, d)) in enumerate(group.matrices.tolist()):
        for row in range(kernel):
            for column in range(kernel):
                x, y = column - middle, middle - row
                at_column, at_row = round(a * x + c * y + middle), round(middle - b * x - d * y)  # R⁻¹ is Rᵀ
                inside = 0 <= at_row < kernel and 0 <= at_column < kernel
                expected = filters[:, at_row * kernel + at_column] if inside else torch.zeros(2)
                assert torch.equal(turned[g, :, row * kernel + column], expected.double())


def test_upright_filters_have_length_one_and_turned_ones_the_same_scale():
    basis = turned_basis(cyclic(8), 5).double()
    assert (basis[0].norm(dim=-1) - 1).abs().max() < 1e-6
    assert ((basis[1].norm(dim=-1) - 1).abs() < 0.25).all() and (basis[1] - basis[0]).abs().max() > 0.1
