"""Places for tokens that have a pose: a bias on the scores, or rotary encodings turned with the pose.

A query of pose g sees a key that lies y − x away at g⁻¹(y − x). Whatever is computed from that place alone is the same
after any turn of the image, and after any shift.
"""

import math

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.groups import FiniteGroup, relative_elements
from e2vit.layers.filters import grid_points


class RelativeBias(nn.Module):
    """b(g⁻¹(y − x), g⁻¹m) for every head, from a small network on the place seen from the query's pose.

    The network takes real-valued places, so it serves every group; it is exactly equivariant under the elements that
    keep the grid.
    """

    def __init__(self, group: FiniteGroup, side: int, heads: int, joint: bool, hidden: int = 32, frequencies: int = 4):
        super().__init__()
        self.group, self.side, self.joint = group, side, joint
        offsets = torch.arange(1 - side, side, dtype=torch.float64)
        rows, columns = torch.meshgrid(offsets, offsets, indexing="ij")
        places = torch.stack([columns, -rows], -1).reshape(-1, 2)  # x to the right, y upwards
        seen = torch.einsum("gji,oj->goi", group.matrices, places) / side  # R(g)⁻¹ is the transpose of R(g)
        angles = seen[..., None] * torch.arange(1, frequencies + 1, dtype=torch.float64) * (torch.pi / 2)
        features = torch.cat([angles.sin(), angles.cos()], -1).flatten(2)
        self.register_buffer("features", features.float(), persistent=False)  # pose, offset, feature
        row, column = (torch.arange(side * side) // side, torch.arange(side * side) % side)
        offset = (row[None] - row[:, None] + side - 1) * (2 * side - 1) + column[None] - column[:, None] + side - 1
        self.register_buffer("offset", offset, persistent=False)  # query, key → offset
        self.register_buffer("relative", relative_elements(group), persistent=False)
        count = group.order if joint else 1
        self.network = nn.Sequential(nn.Linear(features.shape[-1], hidden), nn.GELU(), nn.Linear(hidden, heads * count))

    def forward(self) -> Float[Tensor, "..."]:
        """(head, pose·query, pose·key) when joint, else (pose, head, query, key)."""
        table = self.network(self.features.to(self.network[0].weight.dtype))  # g offset (head r)
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

    def __init__(self, group: FiniteGroup, side: int, heads: int, head_dim: int, joint: bool):
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"rotary positions turn pairs of features, so {head_dim} features per head must be even")
        self.joint = joint
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
        if not self.joint:
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
