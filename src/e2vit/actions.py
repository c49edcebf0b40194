"""How a group acts on images, lifted feature maps and tokens, and how far a function is from respecting that.

(g.f)(x) = f(g⁻¹x): a left action. Images are (batch, channel, height, width) with rows growing downwards, so a
counter-clockwise quarter turn is ``torch.rot90(x, 1, (-2, -1))``. Lifted maps are (batch, channel, element, height,
width); there the action also moves the poses, (r.f)(g, x) = f(r⁻¹g, r⁻¹x).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from e2vit.groups import FiniteGroup, check_group


def act(group: FiniteGroup, g: int, x: Tensor) -> Tensor:
    """The element g applied to x.

    x: (batch, channel, height, width), images; (channel, height, width), one image; or (batch, channel, element,
       height, width), lifted maps. Tokens have a call of their own, ``act_tokens``.
    Error: none where ``moves_pixels_exactly(group, g)``: pixels are permuted. Elsewhere bilinear about the center,
       zero outside, and not invertible.
    Source: Cohen and Welling (2016), with our sign convention.
    """
    check_group(group)
    if not 0 <= g < group.order:
        raise ValueError(f"element {g} is not in {group}: its elements are 0 to {group.order - 1}")
    _check_axes(x, 3, 4, 5)
    if x.ndim < 5:
        return _act_on_plane(group, g, x)
    if x.shape[2] != group.order:
        raise ValueError(f"the pose axis has length {x.shape[2]}, but {group} has {group.order} elements")
    return _act_on_plane(group, g, _permute_poses(group, g, x).flatten(1, 2)).unflatten(1, x.shape[1:3])


def act_tokens(
    group: FiniteGroup, g: int, tokens: Float[Tensor, "batch token d"], *, lifted: bool = False
) -> Float[Tensor, "batch token d"]:
    """The element g applied to the tokens of a square grid, row by row.

    lifted: the tokens are ``group.order`` such grids, one after the other, one for each pose.
    Error: as in ``act``.
    """
    check_group(group)
    poses = group.order if lifted else 1
    side = math.isqrt(tokens.shape[1] // poses)
    if side * side * poses != tokens.shape[1]:
        raise ValueError(f"{tokens.shape[1]} tokens are not {poses} square grid{'s' * (poses > 1)}")
    grid = rearrange(tokens, "batch (pose row column) d -> batch d pose row column", pose=poses, row=side)
    moved = act(group, g, grid) if lifted else act(group, g, grid[:, :, 0])[:, :, None]
    return rearrange(moved, "batch d pose row column -> batch (pose row column) d")


def orbit(group: FiniteGroup, x: Tensor) -> Tensor:
    """All g.x in element order, stacked in front: (element, *x.shape)."""
    check_group(group)
    return torch.stack([act(group, g, x) for g in range(group.order)])


def rotate(images: Tensor, degrees: float | Tensor, mode: str = "bilinear") -> Tensor:
    """Images turned counter-clockwise about their center, zero outside.

    images: (batch, channel, height, width), or one image (channel, height, width).
    degrees: one number, or one for each image.
    mode: "bilinear", "bicubic" or "nearest".
    Error: none for a single multiple of 90 on a square image, where pixels are permuted; else that of ``mode``.
    """
    _check_axes(images, 3, 4)
    if images.ndim == 3:
        return rotate(images[None], degrees, mode)[0]
    if not isinstance(degrees, Tensor) and degrees % 90 == 0 and images.shape[-1] == images.shape[-2]:
        return images.rot90(int(degrees // 90) % 4, (-2, -1))
    if not images.is_floating_point():
        raise ValueError(
            f"a turn by {degrees} degrees interpolates between pixels: convert {images.dtype} to float first"
        )
    radians = torch.as_tensor(degrees, device=images.device, dtype=images.dtype).expand(len(images)) * (math.pi / 180)
    cos, sin = radians.cos(), radians.sin()
    return _resample(images, torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2), mode)


def moves_pixels_exactly(group: FiniteGroup, g: int) -> bool:
    """Whether g permutes the pixels of a square grid: quarter turns, and mirrors along an axis or a diagonal."""
    return all(abs(entry) in (0, 1_000_000) for entry in group.key[4 * g : 4 * g + 4])


def exact_elements(group: FiniteGroup) -> list[int]:
    """The elements that permute the pixels of a square grid; they form a subgroup of D4."""
    return [g for g in range(group.order) if moves_pixels_exactly(group, g)]


def is_exact(size: int, kernel: int, padding: int = 0, stride: int = 1) -> bool:
    """The size rule: whether a strided convolution or pool on a size×size map commutes exactly with quarter turns.

    That is so if and only if the window tiles the padded map without a remainder: (size + 2·padding − kernel) mod
    stride = 0. Else the turned map is sampled at other places.
    """
    if size < 1 or kernel < 1 or stride < 1 or padding < 0:
        raise ValueError(f"size, kernel and stride start at 1 and padding at 0, got {(size, kernel, stride, padding)}")
    if kernel > size + 2 * padding:
        raise ValueError(f"kernel {kernel} is larger than the padded map, {size + 2 * padding} pixels")
    return (size + 2 * padding - kernel) % stride == 0


def equivariance_error(
    f: Callable[[Tensor], Tensor], x: Tensor, group: FiniteGroup, elements: list[int] | None = None
) -> float:
    """max over r of max |f(r.x) − r.f(x)| / max |f(x)|: dimensionless, zero for an equivariant f.

    elements: which r to try; all of the group when left out.
    """
    return _worst_difference(f, x, group, elements, lambda r, y: act(group, r, y))


def invariance_error(
    f: Callable[[Tensor], Tensor], x: Tensor, group: FiniteGroup, elements: list[int] | None = None
) -> float:
    """max over r of max |f(r.x) − f(x)| / max |f(x)|: dimensionless, zero for an invariant f."""
    return _worst_difference(f, x, group, elements, lambda r, y: y)


@torch.no_grad()
def _worst_difference(f, x, group, elements, expected) -> float:
    y = f(x)
    worst = 0.0
    for r in range(group.order) if elements is None else elements:
        difference = (f(act(group, r, x)) - expected(r, y)).abs().max().item()
        if math.isnan(difference):
            return math.nan
        worst = max(worst, difference)
    return worst / max(y.abs().max().item(), torch.finfo(y.dtype).tiny)


def _check_axes(x: Tensor, *allowed: int) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"images are a torch tensor, not {type(x).__name__}")
    if x.ndim not in allowed:
        kinds = {3: "one image", 4: "images", 5: "lifted maps"}
        raise ValueError(f"expected {', '.join(f'{n} axes ({kinds[n]})' for n in allowed)}, got shape {tuple(x.shape)}")


def _permute_poses(group: FiniteGroup, r: int, x: Tensor) -> Tensor:
    """(r.f)(g) = f(r⁻¹g) on axis 2: the regular representation."""
    return x[:, :, group.product[group.inverse[r]].to(x.device)]


def _act_on_plane(group: FiniteGroup, g: int, images: Tensor, mode: str = "bilinear") -> Tensor:
    if not moves_pixels_exactly(group, g):
        if not images.is_floating_point():
            raise ValueError(f"{group} element {g} interpolates between pixels: convert {images.dtype} to float first")
        batch = images[None] if images.ndim == 3 else images
        matrix = group.matrices[g].to(batch.dtype).to(batch.device)  # in this order: Apple GPUs have no float64
        return _resample(batch, matrix.expand(batch.shape[0], 2, 2), mode).reshape(images.shape)
    a, b, c, d = (entry // 1_000_000 for entry in group.key[4 * g : 4 * g + 4])  # numbers: a tracer follows them
    if b and images.shape[-1] != images.shape[-2]:
        raise ValueError(f"a quarter turn needs a square image, got {images.shape[-2]}×{images.shape[-1]}")
    if a * d - b * c < 0:  # a rotation after the mirror x → −x: mirror first
        images, a, c = images.flip(-1), -a, -c
    quarter_turns = {(1, 0): 0, (0, 1): 1, (-1, 0): 2, (0, -1): 3}[a, c]
    return images.rot90(quarter_turns, (-2, -1))


def _resample(images: Tensor, matrices: Tensor, mode: str) -> Tensor:
    """f(R⁻¹x) by interpolation. grid_sample wants, for each output pixel, where to read, in units of half the side."""
    height, width = images.shape[-2:]
    # R is orthogonal, so its inverse is its transpose; rows grow downwards, which flips the sign off the diagonal.
    inverse = matrices.transpose(-2, -1) * images.new_tensor([[1.0, -1.0], [-1.0, 1.0]])
    aspect = images.new_tensor([[1.0, height / width], [width / height, 1.0]])
    theta = F.pad(inverse * aspect, (0, 1))
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)
