"""Positional encodings: absolute ones for a whole map, relative ones for offsets, and offsets as a pose sees them.

A pose v sees the offset o (key minus query) as v⁻¹o. An encoding ρ(v⁻¹o) is therefore the same for a turned offset seen
from a turned pose, (rv)⁻¹(ro) = v⁻¹o, whatever function ρ is: the group acts on the encoding by moving its argument.
The trivial group gives the plain relative encoding.

Offsets are (x, y) with x to the right and y upwards, in units of the largest one along an axis: from −1 to 1.
Sources: Vaswani et al. (2017), absolute; Shaw et al. (2018), relative; Romero and Cordonnier (2021), acted on by
a group.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from e2vit.groups import FiniteGroup


def window_offsets(rows: int, columns: int | None = None) -> Float[Tensor, "offset 2"]:
    """(x, y) of each place of a window from its center, row by row from the top left, in units of its longer reach."""
    columns = rows if columns is None else columns
    down, right = (torch.arange(side, dtype=torch.float64, device="cpu") - side // 2 for side in (rows, columns))
    y, x = torch.meshgrid(-down, right, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1) / max(rows // 2, columns // 2, 1)


@lru_cache(maxsize=128)
def seen_offsets(
    group: FiniteGroup, rows: int, columns: int, forward: bool, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "v offset 2"]:
    """The offsets of a window as each pose sees them, v⁻¹o.

    forward: v·o instead, which is what the released GSA-Nets have. Their pose v is what is called v⁻¹ elsewhere.
    Computed in float64 and then rounded once, so that a turned offset is the turned offset.
    """
    with torch.inference_mode(False):  # what is cached during inference must serve in training too
        matrices = group.matrices if forward else group.matrices.transpose(-2, -1)  # orthogonal: inverse = transpose
        turned = window_offsets(rows, columns) @ matrices.transpose(-2, -1)
        return turned.to(device=device, dtype=dtype)


def window_mask(window: int, shape: str) -> Bool[Tensor, " offset"] | None:
    """The offsets of a window that count: all (None) for "square"; for "disc" those within half its side.

    A disc is the same set after any rotation of the plane, up to the pixel grid; a square only after quarter turns.
    """
    if shape == "square":
        return None
    reach = window_offsets(window).square().sum(-1).sqrt() * (window // 2)
    return reach <= window / 2


class SoundPosition(nn.Module):
    """ρ of both coordinates together: random sines, then a small network; well-conditioned from the first step.

    The sines have random phases, so the zero offset is no special point, and distances count, not only directions.
    """

    def __init__(self, channels: int, hidden: int = 16):
        super().__init__()
        self.waves = nn.Linear(2, hidden)
        nn.init.normal_(self.waves.weight, std=math.pi / 2)  # half a wave across the window
        nn.init.uniform_(self.waves.bias, -math.pi, math.pi)
        self.norm = nn.LayerNorm(hidden, eps=1e-5)
        self.out = nn.Linear(hidden, channels)

    def forward(self, offsets: Float[Tensor, "v offset 2"]) -> Float[Tensor, "v offset d"]:
        return self.out(F.silu(self.norm(self.waves(offsets).sin())))


class PositionAsReleased(nn.Module):
    """ρ of the released networks: one network for the row of an offset and one for its column, side by side.

    The normalization divides by the spread over the 16 hidden features with eps = 1e-12. At initialization, where the
    biases are zero, they are all proportional to the coordinate, so that its size cancels and only its sign is left.
    Source: the public code of GSA-Nets and GE-ViT.
    """

    def __init__(self, channels: int, axis_channels: int):
        """channels: of the result; the first 2·axis_channels are filled, the rest is zero."""
        super().__init__()
        self.channels = channels
        self.row, self.column = (
            nn.Sequential(
                nn.Linear(1, 16),
                nn.LayerNorm(16, eps=1e-12),
                nn.SiLU(),
                nn.Linear(16, axis_channels),
            )
            for _ in range(2)
        )
        for layer in (*self.row, *self.column):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.in_features))
                nn.init.zeros_(layer.bias)

    def forward(self, offsets: Float[Tensor, "v offset 2"]) -> Float[Tensor, "v offset d"]:
        x, y = offsets[..., :1], offsets[..., 1:]
        features = torch.cat([self.row(-y), self.column(x)], -1)  # rows grow downwards
        return F.pad(features, (0, self.channels - features.shape[-1]))


class AbsolutePosition(nn.Module):
    """One learned vector for each pixel, added to the map: it tells places apart, so a moved image is another one."""

    def __init__(self, channels: int, height: int, width: int):
        super().__init__()
        self.table = nn.Parameter(torch.randn(channels, height, width) * 0.02)

    def forward(self, x: Float[Tensor, "batch channel *pose height width"]) -> Float[Tensor, "batch channel *pose h w"]:
        return x + _add_pose_axis(_fitting(self.table, x), x)


class SinusoidalPosition(nn.Module):
    """Sines and cosines of the row and the column, added to the map; nothing is learned.

    Wavelengths grow geometrically from 2π to 10,000·2π pixels (Vaswani et al., 2017), half of the channels for each
    axis.
    """

    def __init__(self, channels: int, height: int, width: int):
        super().__init__()
        table = plane_waves(channels, height, width, 10_000)
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Float[Tensor, "batch channel *pose height width"]) -> Float[Tensor, "batch channel *pose h w"]:
        return x + _add_pose_axis(_fitting(self.table, x), x)


def plane_waves(channels: int, height: int, width: int, slowest: float = 10) -> Float[Tensor, "channel height width"]:
    """Sines and cosines of the row, then of the column; wavelengths from 2π up to almost ``slowest``·2π pixels."""
    if channels % 4:
        raise ValueError(f"sines and cosines of two axes need a multiple of 4 channels, not {channels}")
    frequencies = slowest ** (-torch.arange(channels // 4) / (channels // 4))
    rows, columns = (torch.arange(n)[:, None] * frequencies for n in (height, width))
    rows, columns = (torch.cat([phase.sin(), phase.cos()], -1).T for phase in (rows, columns))
    return torch.cat([rows[:, :, None].expand(-1, -1, width), columns[:, None].expand(-1, height, -1)])


def _fitting(table: Float[Tensor, "channel height width"], x: Tensor) -> Tensor:
    if (x.shape[1], *x.shape[-2:]) != tuple(table.shape):
        raise ValueError(
            f"the positions are for (channel, height, width) = {tuple(table.shape)}, not {(x.shape[1], *x.shape[-2:])}"
        )
    return table


def _add_pose_axis(table: Tensor, x: Tensor) -> Tensor:
    return table[:, None] if x.ndim == 5 else table
