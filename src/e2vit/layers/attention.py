"""Group self-attention: every position and pose attends to every other, of the whole map or of a window.

    out(x, v) = W Σ_g Σ_{m,y} softmax_{(m,y)} [ q(x,g)·k(y,m) + q(x,g)·ρ(v⁻¹(y−x)) + q(x,g)·e(G[v,g,m]) ] value(y, m)

It commutes with the group if the table G is constant on diagonal orbits, G[rv,rg,rm] = G[v,g,m], and for tables whose
rows depend on m only then; ``is_equivariant_table`` is the exact criterion.
Lifting is the same layer with a single input pose: from an image to a map with a pose axis. The local layer, that of
GSA-Nets and GE-ViT, is the same formula with y in the window of x; beyond the border of the map there are no keys.
Sources: Romero and Cordonnier (2021), GSA-Nets; Xu et al. (2023), GE-ViT.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.groups import FiniteGroup, cayley_index, check_group, gsa_index
from e2vit.kernels import BACKENDS, attend, poses_as_heads, reference
from e2vit.layers.position import PositionAsReleased, StablePosition, pair_offsets, seen_offsets, window_mask


class Pointwise(nn.Module):
    """The same linear map of the channels at every place and pose: a convolution with kernel 1."""

    def __init__(self, channels: int, out_channels: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, channels) * math.sqrt(2 / channels))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Float[Tensor, "batch channel *place"]) -> Float[Tensor, "batch out_channel *place"]:
        return self.parts(x, 1)[0]

    def parts(self, x: Float[Tensor, "batch channel *place"], count: int) -> list[Tensor]:
        """The output channels in ``count`` equal parts. One product for each part and image: a single one would be
        copied into another order, forward and backward, which took a fifth of a training step."""
        weights, flat = self.weight.chunk(count), x.flatten(2)
        maps = [torch.bmm(weight.expand(x.shape[0], -1, -1), flat) for weight in weights]
        if self.bias is not None:
            maps = [y + b[:, None].to(y.dtype) for y, b in zip(maps, self.bias.chunk(count), strict=True)]
        return [y.unflatten(2, x.shape[2:]) for y in maps]


class GroupSelfAttention(nn.Module):
    """Global group self-attention. Scores: batch · heads · |H|³ · pixels² (|H|² pixels² when diagonal).

    group:      its elements are the poses v of the output, and of the input unless ``lifting``.
    head_dim:   features of one head in queries, keys and values.
    lifting:    the input is an image, (batch, channel, height, width), and has no pose axis.
    index:      group → table G[v, g, m] into the embeddings of the group elements; ``cayley_index`` is equivariant.
    position:   "stable", or "released": row and column apart, each in channels of its own, elements in the rest.
    query_pose: "sum" over g as above, or "diagonal": g = v alone, equivariant too and |H| times cheaper.
    scale:      of the scores; head_dim^-1/2 when left out. The released networks have channels^-1/2.
    dropout:    of single attention weights.
    forward_offsets: a pose v sees the offset o as v·o, as in GSA-Nets, whose pose v is called v⁻¹ elsewhere. Left out:
                true for the table of the released GSA-Nets, whatever function made it, and false for any other.
    """

    smallest = 1  # side of the smallest map, pixels
    table: Tensor
    offsets: Tensor | None

    def __init__(
        self,
        group: FiniteGroup,
        channels: int,
        heads: int,
        head_dim: int,
        *,
        out_channels: int | None = None,
        lifting: bool = False,
        index: Callable = cayley_index,
        position: str = "stable",
        query_pose: str = "sum",
        scale: float | None = None,
        dropout: float = 0.0,
        forward_offsets: bool | None = None,
    ):
        super().__init__()
        check_group(group)
        if min(channels, heads, head_dim, out_channels or 1) < 1:
            raise ValueError(f"channels, heads and head_dim start at 1, got {(channels, heads, head_dim)}")
        if query_pose not in ("sum", "diagonal"):
            raise ValueError(f"query_pose is 'sum' or 'diagonal', not {query_pose!r}")
        self.group, self.lifting, self.heads, self.dropout = group, lifting, heads, dropout
        self.scale = head_dim**-0.5 if scale is None else scale
        self.diagonal = query_pose == "diagonal" and not lifting
        self.qkv = Pointwise(channels, 3 * heads * head_dim)
        self.out = Pointwise(heads * head_dim, out_channels or channels)
        self.position, element_channels = _position(position, head_dim, lifting)
        table = index(group)
        if tuple(table.shape) != (group.order,) * 3:
            raise ValueError(f"the index table has axes {tuple(table.shape)}, but {group} has {group.order} elements")
        self.forward_offsets = _is_gsa_table(table, group) if forward_offsets is None else forward_offsets
        if lifting:
            table = torch.zeros(group.order, 1, 1, dtype=torch.int64)
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("offsets", None)  # positions seen by each pose, when they come with released weights
        self.element_padding = head_dim - element_channels
        self.element = None if lifting else nn.Parameter(torch.randn(int(table.max()) + 1, element_channels))
        self.normalize = nn.Softmax(dim=-1)  # a submodule, so that a hook can see the attention

    def forward(
        self, x: Float[Tensor, "batch channel *pose height width"]
    ) -> Float[Tensor, "batch out_channel element height width"]:
        q, k, value = self._project(x)
        attention = F.dropout(self._weights(q, k), self.dropout, self.training)
        out = einsum(attention, value.flatten(4), "b head v g q m key, b head e m key -> b head e v q")
        return self._merge(out.unflatten(-1, x.shape[-2:]))

    def weights(
        self, x: Float[Tensor, "batch channel *pose height width"]
    ) -> Float[Tensor, "batch head v g query m key"]:
        """The attention, without dropout: positions row by row. The axis g has length 1 when diagonal."""
        q, k, _ = self._project(x)
        return self._weights(q, k)

    def _weights(self, q: Tensor, k: Tensor) -> Tensor:
        height, width = q.shape[-2:]
        q, k = q.flatten(4), k.flatten(4)
        content = einsum(q, k, "b head d g q, b head d m key -> b head g q m key")
        place = einsum(q, self._positions(2 * height - 1, 2 * width - 1, q), "b head d g q, v o d -> b head v g q o")
        pose = einsum(q, self._elements(q)[self.table], "b head d g q, v g m d -> b head v g q m")
        place = place.take_along_dim(pair_offsets(height, width).to(q.device)[None, None, None, None], -1)
        if self.diagonal:
            place, pose = (_diagonal(scores) for scores in (place, pose))
            scores = (content[:, :, :, None] + place[..., None, :]) + pose[..., None]
        else:
            scores = (content[:, :, None] + place[..., None, :]) + pose[..., None]
        return self.normalize(scores.flatten(-2)).unflatten(-1, scores.shape[-2:])

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries, keys and values, each (batch, head, d, pose, height, width)."""
        self._check(x)
        x = x[:, :, None] if x.ndim == 4 else x
        q, k, value = (y.unflatten(1, (self.heads, -1)) for y in self.qkv.parts(x, 3))
        return q * self.scale, k, value

    def _merge(self, out: Tensor) -> Tensor:
        """The heads side by side, then the last linear map W."""
        return self.out(rearrange(out, "b head e v y x -> b (head e) v y x"))

    def _positions(self, rows: int, columns: int, like: Tensor) -> Float[Tensor, "v offset d"]:
        """ρ of the offsets of a rows×columns window as each pose sees them."""
        dtype = self.out.weight.dtype
        seen = seen_offsets(self.group, rows, columns, self.forward_offsets, dtype, like.device)
        return self.position(seen if self.offsets is None else self.offsets.to(dtype)).to(like.dtype)

    def _elements(self, like: Tensor) -> Float[Tensor, "entry d"]:
        """e, with zeros in the channels that are for positions."""
        if self.element is None:
            return like.new_zeros(1, like.shape[2])
        return F.pad(self.element, (self.element_padding, 0)).to(like.dtype)

    def _check(self, x: Tensor) -> None:
        """One clear ValueError for an input that does not fit, before any work is done."""
        if x.ndim != (4 if self.lifting else 5):
            raise ValueError(f"{'an image has 4' if self.lifting else 'a lifted map has 5'} axes, got {tuple(x.shape)}")
        if not self.lifting and x.shape[2] != self.group.order:
            raise ValueError(f"the pose axis has length {x.shape[2]}, but {self.group} has {self.group.order} elements")
        weight = self.qkv.weight
        if x.shape[1] != weight.shape[1]:
            raise ValueError(f"the input has {x.shape[1]} channels, this layer takes {weight.shape[1]}")
        if x.device != weight.device:
            raise ValueError(f"the input is on {x.device}, the weights are on {weight.device}")
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"the input is {x.dtype}, the weights are {weight.dtype}")
        if self.smallest > min(x.shape[-2:]):
            raise ValueError(f"the window, {self.smallest} pixels, is larger than the map, {tuple(x.shape[-2:])}")


class LocalGroupSelfAttention(GroupSelfAttention):
    """Group self-attention whose keys lie within a window. Scores: batch · heads · |H|³ · pixels · window².

    window:       side of the window in pixels, odd.
    window_shape: "square", or "disc": the offsets within window / 2, closer to the same set after any rotation.
    backend:      of the computation, "auto" or a name from ``kernels.BACKENDS``: see :func:`e2vit.kernels.attend`.
    small_maps:   whether a map may be smaller than the window. The released rotMNIST network has such layers.
    options:      as in :class:`GroupSelfAttention`. Dropout of attention weights needs the reference backend.
    """

    mask: Tensor | None

    def __init__(
        self,
        group: FiniteGroup,
        channels: int,
        heads: int,
        head_dim: int,
        *,
        window: int = 9,
        window_shape: str = "square",
        backend: str = "auto",
        small_maps: bool = False,
        **options: Any,
    ):
        if window < 1 or window % 2 == 0:
            raise ValueError(f"a window has a center, so its side is odd, not {window}")
        if window_shape not in ("square", "disc"):
            raise ValueError(f"window_shape is 'square' or 'disc', not {window_shape!r}")
        if backend not in ("auto", *BACKENDS):
            raise ValueError(f"backend is 'auto' or one of {', '.join(BACKENDS)}, not {backend!r}")
        super().__init__(group, channels, heads, head_dim, **options)
        self.window, self.backend, self.smallest = window, backend, 1 if small_maps else window
        self.register_buffer("mask", window_mask(window, window_shape), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch channel *pose height width"]
    ) -> Float[Tensor, "batch out_channel element height width"]:
        options = {"diagonal": self.diagonal, "dropout": self.dropout if self.training else 0.0}
        return self._merge(attend(*self._inputs(x), mask=self.mask, backend=self.backend, **options))

    def weights(
        self, x: Float[Tensor, "batch channel *pose height width"]
    ) -> Float[Tensor, "batch head v g m offset height width"]:
        """The attention, without dropout: offsets row by row, zero beyond the border. For small inputs: it is large."""
        q, k, value, position, element, table = self._inputs(x)
        inputs = q, k, value, position[None], element[None], table
        if self.diagonal:
            inputs = poses_as_heads(*inputs)
        q, k, _, position, element, table = inputs
        found = reference.weights(q, k, position, element, table, self.mask)
        if self.diagonal:
            found = rearrange(found, "b (head v) 1 1 m o y x -> b head v 1 m o y x", head=self.heads)
        return found

    def _inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What :func:`e2vit.kernels.attend` takes."""
        q, k, value = self._project(x)
        k, value = (F.pad(maps, (self.window // 2,) * 4) for maps in (k, value))
        return q, k, value, self._positions(self.window, self.window, q), self._elements(q), self.table


def _is_gsa_table(table: Tensor, group: FiniteGroup) -> bool:
    try:
        return torch.equal(table, gsa_index(group))
    except ValueError:  # a group that GSA-Nets have no table for
        return False


def _position(name: str, head_dim: int, lifting: bool) -> tuple[nn.Module, int]:
    """The encoding ρ, and the number of channels that element embeddings have."""
    if name == "stable":
        return StablePosition(head_dim), head_dim
    if name != "released":
        raise ValueError(f"position is 'stable' or 'released', not {name!r}")
    if lifting and head_dim % 2 or head_dim < 3 - lifting:
        raise ValueError(f"released positions need {'an even' if lifting else 'at least 3'} head_dim, not {head_dim}")
    axis_channels = head_dim // 2 if lifting else head_dim // 3
    return PositionAsReleased(head_dim, axis_channels), head_dim - 2 * axis_channels


def _diagonal(scores: Float[Tensor, "batch head v g query last"]) -> Float[Tensor, "batch head v 1 query last"]:
    """Only g = v of each output pose."""
    return scores.diagonal(dim1=2, dim2=3).movedim(-1, 2)[:, :, :, None]
