"""Where the error of a turn between the pixels comes from: the window, the resampling, the grid.

Two layers of group attention with random weights, a lifting and a group layer. Their maps, averaged over the poses,
should turn with the image. Angles are in degrees, counter-clockwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from e2vit.actions import rotate
from e2vit.groups import FiniteGroup
from e2vit.layers import LocalGroupSelfAttention

LAYERS = ("lifting layer", "group layer")
WINDOW = 5  # pixels


@dataclass(frozen=True)
class Setting:
    """How a turn is tried.

    window:   "square" or "disc".
    masked:   compare only where no window reaches the border.
    resample: how the image and the map are turned, "bilinear", "bicubic" or "fourier".
    """

    window: str = "square"
    masked: bool = False
    resample: str = "bilinear"


LADDER = {  # on the inner disc each rung removes one more cause
    "square window": Setting(masked=True),
    "disc window": Setting("disc", masked=True),
    "Fourier resampling": Setting("disc", masked=True, resample="fourier"),
}


def two_layers(group: FiniteGroup, window_shape: str = "square", seed: int = 0) -> nn.Sequential:
    """Build a lifting and a group layer, four channels each, weights from the seed; in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        common: dict[str, Any] = dict(heads=1, head_dim=4, window=WINDOW, window_shape=window_shape)
        layers = (
            nn.Sequential(
                LocalGroupSelfAttention(group, 1, out_channels=4, lifting=True, **common),
                LocalGroupSelfAttention(group, 4, query_pose="diagonal", **common),
            )
            .double()
            .eval()
        )
        for parameter in layers.parameters():
            nn.init.normal_(parameter)  # all of them, and large enough that attention is no plain average
    return layers


@torch.no_grad()
def maps(layers: nn.Sequential, images: Float[Tensor, "image 1 side side"]) -> list[Float[Tensor, "image d side side"]]:
    """Compute the output of each layer, averaged over the poses: maps that should turn as the image does."""
    lifted = layers[0](images)
    return [lifted.mean(2), layers[1](lifted).mean(2)]


def turn(images: Float[Tensor, "image d side side"], degrees: float, how: str) -> Float[Tensor, "image d side side"]:
    """Turn images or maps; exact at multiples of 90."""
    return fourier_turn(images, degrees) if how == "fourier" else rotate(images, degrees, how)


def fourier_turn(images: Float[Tensor, "image d side side"], degrees: float) -> Float[Tensor, "image d side side"]:
    """Turn images by their Fourier series: the smooth periodic function through the pixels, sampled anew.

    Exact for band-limited images, so nothing is blurred; zero where the source lies outside the image.
    """
    if degrees % 90 == 0:
        return rotate(images, degrees)
    side = images.shape[-1]
    place = torch.arange(side, dtype=images.dtype) - (side - 1) / 2
    radians = torch.deg2rad(torch.tensor(degrees, dtype=images.dtype))
    cos, sin = radians.cos(), radians.sin()
    x, y = place[None, :], -place[:, None]  # y grows upwards
    column, row = cos * x + sin * y, -(-sin * x + cos * y)  # f(R⁻¹ x)
    inside = (column.abs() <= side / 2) & (row.abs() <= side / 2)
    waves = torch.fft.fftfreq(side, dtype=images.dtype) * 2j * torch.pi
    start = (side - 1) / 2
    rows, columns = (torch.exp((at + start).flatten()[:, None] * waves) for at in (row, column))
    spectrum = torch.fft.fft2(images)
    values = torch.einsum("pk,idkl,pl->idp", rows, spectrum, columns).real / side**2
    return values.unflatten(-1, (side, side)) * inside


def inner_disc(side: int, margin: float) -> Bool[Tensor, "row column"]:
    """Mark the places whose distance from the center is at most half the side less a margin, pixels."""
    place = torch.arange(side) - (side - 1) / 2
    return place[:, None] ** 2 + place**2 <= max(side / 2 - margin, 1) ** 2


def layer_errors(
    group: FiniteGroup,
    images: Float[Tensor, "image 1 side side"],
    degrees: Sequence[float],
    setting: Setting,
    seeds: int = 1,
) -> Float[Tensor, "layer angle"]:
    """Measure the error: the root of the squares of f(turned x) − turned f(x) over those of f(x) about its mean.

    Dimensionless. Both are summed over the largest disc in the image, since pixels outside it turn out of the image. A
    masked pixel counts as error 0, so that the squares of two settings can be subtracted. Channels are normalized one
    by one; then the mean over channels and draws of the weights.
    """
    side = images.shape[-1]
    whole = inner_disc(side, 1.5)
    x = images.double()
    squares = torch.zeros(len(LAYERS), len(degrees), dtype=torch.float64)
    for seed in range(seeds):
        layers = two_layers(group, setting.window, seed=seed)
        upright = maps(layers, x)
        for k, angle in enumerate(degrees):
            for number, found in enumerate(maps(layers, turn(x, float(angle), setting.resample))):
                expected = turn(upright[number], float(angle), setting.resample)
                margin = (number + 1) * (WINDOW // 2) + 1.5  # every window stays in the picture
                counts = inner_disc(side, margin) if setting.masked else whole
                error = ((found - expected).square() * counts).sum((0, 2, 3))
                reference = upright[number][..., whole]
                spread = (reference - reference.mean((0, 2), keepdim=True)).square().sum((0, 2))
                squares[number, k] += (error / spread.clamp_min(1e-30)).mean() / seeds
    return squares.sqrt()


def ladder(
    group: FiniteGroup, images: Float[Tensor, "image 1 side side"], degrees: float, seeds: int = 1
) -> dict[str, Float[Tensor, " layer"]]:
    """Measure the error at one angle on each rung of LADDER; the rest comes from the grid and from a missing pose."""
    return {name: layer_errors(group, images, [degrees], setting, seeds)[:, 0] for name, setting in LADDER.items()}
