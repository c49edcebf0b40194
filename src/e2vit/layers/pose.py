"""Layers on tokens that have a position and a pose: linear maps, attention, the transformer block, the readout.

A token (g, x) looks at a token (m, y). What may enter the score is what both see alike after any turn: the place
g⁻¹(y − x) and the pose g⁻¹m. torch's fused attention does the work.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.groups import FiniteGroup, check_group, relative_elements
from e2vit.layers.position import PoseRotary, RelativeBias

POSITIONS = ("bias", "rotary", "none")
READOUTS = ("mean_max", "mean")


class GroupLinear(nn.Module):
    """A linear map of all poses together that commutes with the group: y_g = Σ_m W[g⁻¹m] x_m."""

    relative: Tensor

    def __init__(self, group: FiniteGroup, width: int, out_width: int):
        super().__init__()
        check_group(group)
        self.register_buffer("relative", relative_elements(group), persistent=False)
        self.weight = nn.Parameter(torch.randn(group.order, width, out_width) * (width * group.order) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(out_width))

    def forward(self, x: Float[Tensor, "batch pose token d"]) -> Float[Tensor, "batch pose token out"]:
        weight = rearrange(self.weight[self.relative], "g m d out -> (m d) (g out)")
        y = rearrange(x, "batch pose token d -> batch token (pose d)") @ weight
        return rearrange(y, "batch token (pose out) -> batch pose token out", pose=x.shape[1]) + self.bias


class PoseAttention(nn.Module):
    """Self-attention over tokens with a pose.

    mode: "joint": every token attends to every place and pose, with a bias by both; the projections are shared by the
          poses. "within_pose": |H| times fewer scores; group-tied projections mix the poses instead.
    position: "bias", "rotary", or "none".
    """

    def __init__(
        self, group: FiniteGroup, side: int, width: int, heads: int, mode: str = "joint", position: str = "bias"
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        check_group(group)
        if mode not in ("joint", "within_pose"):
            raise ValueError(f"mode is 'joint' or 'within_pose', not {mode!r}")
        if position not in POSITIONS:
            raise ValueError(f"position is one of {', '.join(POSITIONS)}, not {position!r}")
        self.heads, self.joint = heads, mode == "joint"
        self.bias = RelativeBias(group, side, heads, self.joint) if position == "bias" else None
        self.rotary = PoseRotary(group, side, heads, width // heads, self.joint) if position == "rotary" else None
        self.qkv = nn.Linear(width, 3 * width) if self.joint else GroupLinear(group, width, 3 * width)
        self.out = nn.Linear(width, width) if self.joint else GroupLinear(group, width, width)

    def forward(self, x: Float[Tensor, "batch pose token d"]) -> Float[Tensor, "batch pose token d"]:
        poses = x.shape[1]
        qkv = rearrange(self.qkv(x), "batch pose token (p head d) -> p batch pose head token d", p=3, head=self.heads)
        q, k, v = qkv
        if self.rotary is not None:
            q, k = self.rotary(q, k)  # joint: queries of each pose meet keys of their own
            if self.joint:
                v = rearrange(v, "batch pose head token d -> batch 1 head (pose token) d").expand_as(k)
        if self.joint and self.rotary is None:
            q, k, v = (rearrange(x, "batch pose head token d -> batch head (pose token) d") for x in (q, k, v))
        x = self._attend(q, k, v)
        if x.ndim == 4:
            x = rearrange(x, "batch head (pose token) d -> batch pose head token d", pose=poses)
        return self.out(rearrange(x, "batch pose head token d -> batch pose token (head d)"))

    def _attend(
        self,
        q: Float[Tensor, "batch *pose head query d"],
        k: Float[Tensor, "batch *pose head key d"],
        v: Float[Tensor, "batch *pose head key d"],
    ) -> Float[Tensor, "batch *pose head query d"]:
        bias = None if self.bias is None else self.bias().to(q.dtype)
        if self.training and q.device.type == "cpu" and bias is not None:
            # torch's fused attention has no gradient for a bias on a CPU, and what it does instead is slower than this
            return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        if torch.compiler.is_compiling() and q.ndim == 5:  # exporters know four axes: a pose is one more head
            poses, bias = q.shape[1], None if bias is None else bias.flatten(0, 1)[None]
            q, k, v = (rearrange(x, "batch pose head token d -> batch (pose head) token d") for x in (q, k, v))
            x = F.scaled_dot_product_attention(q, k, v, bias)
            return rearrange(x, "batch (pose head) token d -> batch pose head token d", pose=poses)
        return F.scaled_dot_product_attention(q, k, v, bias)


class PoseBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); the same weights for every pose."""

    def __init__(
        self,
        group: FiniteGroup,
        side: int,
        width: int,
        heads: int,
        expansion: int = 2,
        attention: str = "joint",
        position: str = "bias",
    ):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = PoseAttention(group, side, width, heads, attention, position)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))

    def forward(self, x: Float[Tensor, "batch pose token d"]) -> Float[Tensor, "batch pose token d"]:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class PoseReadout(nn.Module):
    """Features that do not change when the poses are permuted by the group: mean (and maximum) over the poses."""

    def __init__(self, mode: str = "mean_max"):
        super().__init__()
        if mode not in READOUTS:
            raise ValueError(f"readout is one of {', '.join(READOUTS)}, not {mode!r}")
        self.mode, self.copies = mode, 2 if mode == "mean_max" else 1

    def forward(self, x: Float[Tensor, "batch pose d"]) -> Float[Tensor, "batch copies_d"]:
        return x.mean(1) if self.mode == "mean" else torch.cat([x.mean(1), x.amax(1)], -1)
