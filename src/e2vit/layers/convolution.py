"""Group convolutions: lifting an image to a map over positions and poses, and convolving such maps.

A filter is learned for one pose and turned for the others, so that (r.f) in gives (r.out) out:

    lifted(g, x) = Σ_y  ψ(g⁻¹(y − x)) f(y)
    out(g, x)    = Σ_m Σ_y  ψ(g⁻¹m, g⁻¹(y − x)) f(m, y)

Source: Cohen and Welling (2016), "Group equivariant convolutional networks".
"""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.actions import is_exact
from e2vit.groups import FiniteGroup, check_group, relative_elements
from e2vit.layers.filters import turned_basis


class _TurnedConv(nn.Module):
    """What both convolutions share: a weight for each basis filter, and a convolution by the filters in every pose."""

    lifting: bool
    basis: Tensor
    relative: Tensor

    def __init__(
        self,
        group: FiniteGroup,
        channels: int,
        out_channels: int,
        kernel: int,
        padding: int = 0,
        stride: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        check_group(group)
        if min(channels, out_channels) < 1:
            raise ValueError(f"channels and out_channels start at 1, got {(channels, out_channels)}")
        self.group, self.kernel, self.padding, self.stride = group, kernel, padding, stride
        self.register_buffer("basis", turned_basis(group, kernel), persistent=False)
        if not self.lifting:
            self.register_buffer("relative", relative_elements(group), persistent=False)  # g⁻¹m
        inputs = [channels, *([] if self.lifting else [group.order]), self.basis.shape[1]]
        self.weight = nn.Parameter(torch.randn([out_channels, *inputs]) * (2 / math.prod(inputs)) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def _convolved(self, planes: Tensor, filters: Tensor) -> Tensor:
        check_size_rule(planes.shape[-2:], self.kernel, self.padding, self.stride)
        bias = None if self.bias is None else self.bias.repeat_interleave(self.group.order)
        out = F.conv2d(planes, filters, bias, self.stride, self.padding)
        return out.contiguous().unflatten(1, (-1, self.group.order))


class LiftingConv(_TurnedConv):
    """From images to lifted maps: one filter for each output channel, applied in every pose of the group.

    Equivariance error: none for elements that permute pixels, where (size + 2·padding − kernel) is a multiple of the
    stride; elsewhere that of sampling a turned filter, see ``turned_basis``.
    """

    lifting = True

    def filters(self) -> Float[Tensor, "out_element channel row column"]:
        """The filter of every output channel in every pose, as ordinary convolution weights."""
        turned = einsum(self.weight, self.basis, "out channel b, element b pixel -> out element channel pixel")
        return rearrange(turned, "out g channel (row column) -> (out g) channel row column", row=self.kernel)

    def forward(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch out element new_height new_width"]:
        return self._convolved(images, self.filters())


class GroupConv(_TurnedConv):
    """From lifted maps to lifted maps: filters over relative pose and position. Error as in ``LiftingConv``."""

    lifting = False

    def filters(self) -> Float[Tensor, "out_element channel_element row column"]:
        """The filter of every output channel in every pose, as ordinary convolution weights."""
        turned = einsum(self.weight, self.basis, "out channel r b, g b pixel -> out channel g r pixel")
        index = self.relative[:, :, None].expand(*turned.shape[:2], -1, -1, turned.shape[-1])
        turned = turned.gather(3, index)  # for each g, the poses m in their own order
        return rearrange(turned, "out channel g m (row column) -> (out g) (channel m) row column", row=self.kernel)

    def forward(
        self, x: Float[Tensor, "batch channel element height width"]
    ) -> Float[Tensor, "batch out element new_height new_width"]:
        check_poses(x, self.group)
        return self._convolved(x.flatten(1, 2), self.filters())


class GroupBatchNorm(nn.BatchNorm3d):
    """Batch normalization with one mean and variance for each channel, shared by its poses: this keeps equivariance."""


class SpatialPool(nn.Module):
    """Maximum or mean over windows of kernel×kernel positions, each pose by itself, under the size rule."""

    def __init__(self, kernel: int = 2, mode: str = "max"):
        super().__init__()
        if mode not in ("max", "mean"):
            raise ValueError(f"mode is 'max' or 'mean', not {mode!r}")
        self.kernel, self.mode = kernel, mode

    def forward(
        self, x: Float[Tensor, "batch channel element height width"]
    ) -> Float[Tensor, "batch channel element new_height new_width"]:
        check_size_rule(x.shape[-2:], self.kernel, 0, self.kernel)
        pool = F.max_pool2d if self.mode == "max" else F.avg_pool2d
        planes = x.flatten(1, 2)
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            planes = planes.contiguous(memory_format=torch.channels_last)  # the copy is cheaper than what it saves
        return pool(planes, self.kernel).unflatten(1, x.shape[1:3])


def pool_elements(
    x: Float[Tensor, "batch channel element height width"], mode: str = "max"
) -> Float[Tensor, "batch channel height width"]:
    """Group pooling: the maximum or mean over poses, a map that no longer knows them."""
    return x.amax(2) if mode == "max" else x.mean(2)


def check_poses(x: Tensor, group: FiniteGroup) -> None:
    if x.ndim != 5 or x.shape[2] != group.order:
        raise ValueError(
            f"expected a lifted map (batch, channel, {group.order}, height, width) for {group}, "
            f"got shape {tuple(x.shape)}"
        )


def check_size_rule(size: tuple[int, ...], kernel: int, padding: int, stride: int) -> None:
    """ValueError where a kernel does not tile the map, which would break exact equivariance; names sizes that work."""
    for side in size:
        if not is_exact(side, kernel, padding, stride):
            works = [n for n in range(max(1, side - stride), side + stride + 1) if is_exact(n, kernel, padding, stride)]
            raise ValueError(
                f"kernel {kernel}, padding {padding}, stride {stride} on {side} pixels breaks "
                f"equivariance to quarter turns; nearby sizes that work: {', '.join(map(str, works))}"
            )
