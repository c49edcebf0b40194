"""How cleanly a network of group convolutions turns by angles that leave the pixel grid.

The measure needs no interpolation. A smooth image is a formula, so its turned copy is sampled from the same formula;
and the features at the center of the map stay in place, so only their poses have to be compared.
"""

import copy
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.groups import FiniteGroup
from e2vit.layers.filters import grid_points


def smooth_images(
    group: FiniteGroup, g: int, count: int, size: int, scale: float = 2.0, seed: int = 0
) -> Float[Tensor, "count 1 size size"]:
    """Sums of twelve Gaussian bumps, sampled after a turn by g. The same seed gives the same images for every g.

    scale: standard deviation of a bump, pixels; the spectrum falls as exp(−(scale · frequency)² / 2).
    """
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(count, 1, 12, 2, generator=generator, dtype=torch.float64) * (size / 7)
    heights = torch.randn(count, 1, 12, generator=generator, dtype=torch.float64)
    points = grid_points(size) @ group.matrices[g]  # f(g⁻¹x)
    squares = ((points[None, :, None] - centers) ** 2).sum(-1)
    return (torch.exp(-squares / (2 * scale**2)) * heights).sum(-1).reshape(count, 1, size, size)


@torch.no_grad()
def turning_error(
    network: nn.Module, group: FiniteGroup, g: int, size: int, scale: float = 2.0, count: int = 40, seed: int = 0
) -> float:
    """|Φ(g.f) − g.Φ(f)| / |Φ(f)| at the center of the map, over many smooth images f; dimensionless.

    network: from images (batch, 1, size, size) to lifted maps of odd side; size: such that the map has a center pixel
    that lies on the center of the image.
    """
    dtype = next(network.parameters()).dtype
    upright, turned = (network(smooth_images(group, h, count, size, scale, seed).to(dtype)) for h in (0, g))
    side = upright.shape[-1]
    if side % 2 == 0:
        raise ValueError(f"a map of {side}×{side} has no center pixel; choose another image size")
    upright, turned = (x[..., side // 2, side // 2] for x in (upright, turned))
    upright = upright[:, :, group.product[group.inverse[g]].to(upright.device)]  # (g.f)(m) = f(g⁻¹m)
    return ((turned - upright).norm() / upright.norm()).item()


def with_nearest_filters(network: nn.Module, group: FiniteGroup) -> nn.Module:
    """A copy whose filters are turned by nearest pixel from the same upright ones: the control of ``turning_error``."""
    network = copy.deepcopy(network)
    for module in network.modules():
        buffers = dict(module.named_buffers(recurse=False))
        if "basis" in buffers:
            module.basis = nearest_basis(group, buffers["basis"][0])
    return network


def nearest_basis(group: FiniteGroup, filters: Float[Tensor, "basis pixel"]) -> Float[Tensor, "element basis pixel"]:
    """Given upright filters turned by looking up the nearest pixel, zero outside: the way that does not work."""
    kernel = math.isqrt(filters.shape[-1])
    turned = []
    for matrix in group.matrices:
        places = grid_points(kernel) @ matrix  # R⁻¹x, for rows x
        column = (places[:, 0] + (kernel - 1) / 2).round().long()
        row = (-places[:, 1] + (kernel - 1) / 2).round().long()
        inside = (row >= 0) & (row < kernel) & (column >= 0) & (column < kernel)
        index = row.clamp(0, kernel - 1) * kernel + column.clamp(0, kernel - 1)
        turned.append(filters[:, index.to(filters.device)] * inside.to(filters))
    return torch.stack(turned)
