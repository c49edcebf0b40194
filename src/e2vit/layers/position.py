"""Positional encodings: absolute, relative, and relative as seen from a pose.

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
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from e2vit.groups import FiniteGroup, check_group, relative_elements
from e2vit.layers.filters import grid_points


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
        return turned.to(dtype).to(device)  # in this order: Apple GPUs have no float64


def pair_offsets(height: int, width: int) -> Int64[Tensor, "query key"]:
    """Where the offset of each pair of places stands in the (2·height − 1)×(2·width − 1) window of all offsets."""
    place = torch.arange(height * width)
    rows, columns = (place[None] // width - place[:, None] // width, place[None] % width - place[:, None] % width)
    return (rows + height - 1) * (2 * width - 1) + columns + width - 1


def window_mask(window: int, shape: str) -> Bool[Tensor, " offset"] | None:
    """The offsets of a window that count: all (None) for "square"; for "disc" those within half its side.

    A disc is the same set after any rotation of the plane, up to the pixel grid; a square only after quarter turns.
    """
    if shape == "square":
        return None
    reach = window_offsets(window).square().sum(-1).sqrt() * (window // 2)
    return reach <= window / 2


class StablePosition(nn.Module):
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
        if (x.shape[1], *x.shape[-2:]) != tuple(self.table.shape):
            raise ValueError(
                f"the positions are for (channel, height, width) = {tuple(self.table.shape)}, "
                f"not {(x.shape[1], *x.shape[-2:])}"
            )
        return x + (self.table[:, None] if x.ndim == 5 else self.table)


def plane_waves(channels: int, height: int, width: int, slowest: float = 10) -> Float[Tensor, "channel height width"]:
    """Sines and cosines of the row, then of the column; wavelengths from 2π up to almost ``slowest``·2π pixels."""
    if channels % 4:
        raise ValueError(f"sines and cosines of two axes need a multiple of 4 channels, not {channels}")
    frequencies = slowest ** (-torch.arange(channels // 4) / (channels // 4))
    rows, columns = (torch.arange(n)[:, None] * frequencies for n in (height, width))
    rows, columns = (torch.cat([phase.sin(), phase.cos()], -1).T for phase in (rows, columns))
    return torch.cat([rows[:, :, None].expand(-1, -1, width), columns[:, None].expand(-1, height, -1)])


class RelativeBias(nn.Module):
    """b(g⁻¹(y − x), g⁻¹m) for every head, from a small network on the place seen from the query's pose.

    The network takes real-valued places, so it serves every group; it is exactly equivariant under the elements that
    keep the grid.
    """

    features: Tensor
    offset: Tensor
    relative: Tensor

    def __init__(self, group: FiniteGroup, side: int, heads: int, joint: bool, hidden: int = 32, frequencies: int = 4):
        super().__init__()
        check_group(group)
        self.group, self.joint = group, joint
        seen = seen_offsets(group, 2 * side - 1, 2 * side - 1, False, torch.float64, torch.device("cpu"))
        seen = seen * ((side - 1) / side)
        angles = seen[..., None] * torch.arange(1, frequencies + 1, dtype=torch.float64) * (torch.pi / 2)
        features = torch.cat([angles.sin(), angles.cos()], -1).flatten(2)
        self.register_buffer("features", features.float(), persistent=False)  # pose, offset, feature
        self.register_buffer("offset", pair_offsets(side, side), persistent=False)
        self.register_buffer("relative", relative_elements(group), persistent=False)
        count = group.order if joint else 1
        self.network = nn.Sequential(nn.Linear(features.shape[-1], hidden), nn.GELU(), nn.Linear(hidden, heads * count))

    def forward(self) -> Float[Tensor, "..."]:
        """(head, pose·query, pose·key) when joint, else (pose, head, query, key)."""
        table = self.network(self.features.to(next(self.network.parameters()).dtype))  # g offset (head r)
        if not self.joint:
            return rearrange(table[:, self.offset], "g query key head -> g head query key")
        table = rearrange(table, "g offset (head r) -> g r offset head", r=self.group.order)
        poses = torch.arange(self.group.order, device=table.device)[:, None]
        bias = table[poses, self.relative][:, :, self.offset]  # g m query key head
        return rearrange(bias, "g m query key head -> head (g query) (m key)")


class PoseRotary(nn.Module):
    """Rotary encodings turned with the pose: features of a token at x, met by a query of pose g, turn by ω·g⁻¹x.

    The score of a query at x and a key at y then holds ω·g⁻¹(y − x). The frequencies ω are two-dimensional and learned.
    The relative pose g⁻¹m enters joint attention as a vector added to the key before it turns.
    Sources: Su et al. (2021), rotary encodings; Heo et al. (2024), learned frequencies in the plane. Turning them with
    the pose is ours.
    """

    places: Tensor
    relative: Tensor

    def __init__(self, group: FiniteGroup, side: int, heads: int, head_dim: int, joint: bool):
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"rotary positions turn pairs of features, so {head_dim} features per head must be even")
        seen = grid_points(side) @ group.matrices  # g⁻¹x, for rows x
        self.register_buffer("places", seen.float(), persistent=False)  # pose, token, xy
        self.register_buffer("relative", relative_elements(group), persistent=False)
        pairs = head_dim // 2
        size = torch.logspace(0, -1, pairs) * math.pi / 2  # radians per token: from a half-turn in two tokens on
        turn = torch.rand(heads, pairs) * 2 * math.pi
        self.frequency = nn.Parameter(torch.stack([size * turn.cos(), size * turn.sin()], -1))
        self.pose = nn.Parameter(torch.randn(group.order, heads, head_dim) * head_dim**-0.5) if joint else None

    def forward(
        self, q: Float[Tensor, "batch pose head token d"], k: Float[Tensor, "batch pose head token d"]
    ) -> tuple[Float[Tensor, "batch pose head token d"], Float[Tensor, "batch pose head key d"]]:
        """Queries and keys turned; joint: for each pose of the query, the keys are all poses and tokens."""
        angle = einsum(self.places.to(q.dtype), self.frequency, "g token xy, head pair xy -> g head token pair")
        q = _turn(q, angle)
        if self.pose is None:
            return q, _turn(k, angle)
        k = rearrange(k, "batch m head token d -> batch 1 m head token d")
        k = k + rearrange(self.pose[self.relative], "g m head d -> g m head 1 d")  # batch g m head token d
        k = _turn(k, angle[:, None])
        return q, rearrange(k, "batch g m head token d -> batch g head (m token) d")


def _turn(x: Tensor, angle: Tensor) -> Tensor:
    """Pairs of features, the first half of x with the second, turned by an angle each (radians)."""
    first, second = x.chunk(2, -1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
