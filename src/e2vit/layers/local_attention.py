"""Group self-attention in a window around each position: the layer of GSA-Nets and GE-ViT.

The same formula as the global layer with y in the window of x. Beyond the border of the map there are no keys.
The computation itself is in ``e2vit.kernels``, with interchangeable backends.
"""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from e2vit.groups import FiniteGroup, cayley_index
from e2vit.kernels import MODULES, attend
from e2vit.kernels import reference as naive
from e2vit.layers.attention import GroupSelfAttention
from e2vit.layers.position import window_mask


class LocalGroupSelfAttention(GroupSelfAttention):
    """Group self-attention whose keys lie within a window. Scores: batch · heads · |H|³ · pixels · window².

    window:       side of the window in pixels, odd.
    window_shape: "square", or "disc": the offsets within window / 2, closer to the same set after any rotation.
    backend:      what computes it, a name from ``kernels.MODULES``; "auto" chooses by device.
    small_maps:   whether a map may be smaller than the window. The released rotMNIST network has such layers.
    Everything else as in :class:`GroupSelfAttention`. Dropout of attention weights needs the naive backend.
    """

    def __init__(
        self,
        group: FiniteGroup,
        channels: int,
        heads: int,
        head_dim: int,
        *,
        window: int = 9,
        window_shape: str = "square",
        out_channels: int | None = None,
        lifting: bool = False,
        index: Callable = cayley_index,
        position: str = "sound",
        query_pose: str = "sum",
        scale: float | None = None,
        dropout: float = 0.0,
        backend: str = "auto",
        small_maps: bool = False,
    ):
        if window < 1 or window % 2 == 0:
            raise ValueError(f"a window has a center, so its side is odd, not {window}")
        if window_shape not in ("square", "disc"):
            raise ValueError(f"window_shape is 'square' or 'disc', not {window_shape!r}")
        if backend not in ("auto", *MODULES):
            raise ValueError(f"backend is 'auto' or one of {', '.join(MODULES)}, not {backend!r}")
        super().__init__(
            group,
            channels,
            heads,
            head_dim,
            out_channels=out_channels,
            lifting=lifting,
            index=index,
            position=position,
            query_pose=query_pose,
            scale=scale,
            dropout=dropout,
        )
        self.window, self.backend, self.small_maps = window, backend, small_maps
        self.register_buffer("mask", window_mask(window, window_shape), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch channel *pose height width"]
    ) -> Float[Tensor, "batch out_channel element height width"]:
        q, k, value = self._project(x)
        margin = (self.window // 2,) * 4
        out = attend(
            q,
            F.pad(k, margin),
            F.pad(value, margin),
            self._positions(self.window, self.window, q),
            self._elements(q),
            self.table,
            mask=self.mask,
            diagonal=self.diagonal,
            backend=self.backend,
            dropout=self.dropout if self.training else 0.0,
        )
        return self._merge(out)

    def weights(
        self, x: Float[Tensor, "batch channel *pose height width"]
    ) -> Float[Tensor, "batch head v g m offset height width"]:
        """The attention, without dropout: offsets row by row, zero beyond the border. For small inputs: it is large."""
        q, k, _ = self._project(x)
        return naive.weights(
            q,
            F.pad(k, (self.window // 2,) * 4),
            self._positions(self.window, self.window, q)[None],
            self._elements(q)[None],
            self.table,
            self.mask,
            self.diagonal,
        )

    def _check(self, x: Tensor) -> None:
        super()._check(x)
        if self.window > min(x.shape[-2:]) and not self.small_maps:
            raise ValueError(f"the window, {self.window} pixels, is larger than the map, {tuple(x.shape[-2:])}")
