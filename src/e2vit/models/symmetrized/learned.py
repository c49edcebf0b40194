"""Ways to combine the features of the views of one image that are learned, and the control that must fail.

Each is built for a group and a feature width, takes (batch, element, d) and returns (batch, d) for the head. Invariance
and cost are those said in ``aggregates`` unless a docstring says otherwise. Each
starts as the plain mean: what is learned comes in through a map that begins at zero, so that no fine-tuning means no
damage. View g of the turned image rx is view gr of x: what is more than blind to the order of the views, but right for
the group, may look at g h⁻¹ alone, for (gr)(hr)⁻¹ = g h⁻¹.
"""

import math

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.groups import FiniteGroup
from e2vit.models.symmetrized.aggregates import Features, Logits, ViewFeatures, ViewLogits, combines


@combines("features")
class Moments(nn.Module):
    """W [mean_g z_g, std_g z_g, max_g z_g], then the head."""

    def __init__(self, group: FiniteGroup, width: int):
        super().__init__()
        self.spread = _zero(nn.Linear(2 * width, width))

    def forward(self, features: ViewFeatures) -> Features:
        # The root has no slope at zero, where all views agree: the variance is kept a little above it.
        std = (features.var(1, correction=0) + 1e-6).sqrt()
        return features.mean(1) + self.spread(torch.cat([std, features.amax(1)], -1))


@combines("features")
class LearnedMean(nn.Module):
    """Σ_g w_g z_g with w = softmax over the views of s(z_g), s a small network: positive weights that add up to one.

    Source: Basu et al. (2023), λ-equitune.
    """

    def __init__(self, group: FiniteGroup, width: int, hidden: int = 32):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), _zero(nn.Linear(hidden, 1)))
        self.normalize = nn.Softmax(dim=1)  # a submodule, so that hooks can see the weights

    def forward(self, features: ViewFeatures) -> Features:
        weights = self.normalize(self.score(features).squeeze(-1))
        return einsum(weights, features, "batch element, batch element d -> batch d")


@combines("features")
class LearnedAttention(nn.Module):
    """mean_g z_g + W Σ_g a_g V z_g, a = softmax over the views of ⟨q, K z_g⟩: a class token q that looks at the views.

    The views carry no position, so the token can't tell which is which but by what they show.
    """

    def __init__(self, group: FiniteGroup, width: int, heads: int = 4, head_dim: int = 16):
        super().__init__()
        self.heads = heads
        self.class_token = nn.Parameter(torch.randn(heads, head_dim))
        self.key_value = nn.Linear(width, 2 * heads * head_dim)
        self.normalize = nn.Softmax(dim=-1)  # a submodule, so that hooks can see the attention
        self.out = _zero(nn.Linear(heads * head_dim, width))

    def forward(self, features: ViewFeatures) -> Features:
        k, v = rearrange(
            self.key_value(features), "batch element (p head d) -> p batch head element d", p=2, head=self.heads
        )
        scores = einsum(self.class_token, k, "head d, batch head element d -> batch head element") * k.shape[-1] ** -0.5
        x = einsum(self.normalize(scores), v, "batch head element, batch head element d -> batch head d")
        return features.mean(1) + self.out(rearrange(x, "batch head d -> batch (head d)"))


@combines("features")
class OrbitConvolution(nn.Module):
    """mean_g z_g + W mean_h σ(Σ_g K(g h⁻¹) P z_g): a circular convolution over the orbit, for any group.

    It sees which view stands beside which, as a convolution sees which pixel stands beside which.
    Invariance: to the group alone; another order of the views gives another result.
    """

    relative: Tensor

    def __init__(self, group: FiniteGroup, width: int, channels: int = 32):
        super().__init__()
        self.reduce = nn.Linear(width, channels)
        self.kernel = nn.Parameter(torch.randn(group.order, channels, channels) * (group.order * channels) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.out = _zero(nn.Linear(channels, width))
        self.register_buffer("relative", group.product[:, group.inverse], persistent=False)  # [g, h] -> g h⁻¹

    def forward(self, features: ViewFeatures) -> Features:
        x = einsum(self.reduce(features), self.kernel[self.relative], "batch g i, g h i o -> batch h o")
        return features.mean(1) + self.out(nn.functional.gelu(x + self.bias).mean(1))


@combines("features")
class Bispectrum(nn.Module):
    """mean_g z_g + W b with b the bispectrum of the signals P z_g over the orbit: all but the turn that is divided out.

    C_n: B(k) = ŝ(1) ŝ(k) ŝ(k+1)* for k = 0 … n − 1, with ŝ(k) = (1/n) Σ_g s(g) e^(−ikθ_g) and θ_g the angle of g, in
    whatever order the elements are listed. Where no ŝ is zero these numbers and the mean hold the signal up to a turn.
    Since s is real, B(k) = B(n−1−k): half of them repeat, and stay because trained weights count on them.
    Groups with mirrors: the triple correlation (1/|G|) Σ_g s(g) s(ag) s(bg), which holds the same.
    Both are cubic, so each number is divided by the two-thirds power of its size: they grow as the features do.
    Invariance: to the group alone.
    Source: Kakarala (1992) for the triple correlation, Mataigne et al. (2024) for the n numbers that suffice.
    """

    product: Tensor

    def __init__(self, group: FiniteGroup, width: int, channels: int = 16):
        super().__init__()
        self.mirrors, n = group.has_mirrors, group.order
        self.reduce = nn.Linear(width, channels)
        self.out = _zero(nn.Linear((n**2 if self.mirrors else 2 * n) * channels, width))
        self.register_buffer("product", group.product, persistent=False)
        turns = (torch.atan2(group.matrices[:, 1, 0], group.matrices[:, 0, 0]) * n / (2 * math.pi)).round()
        angles = torch.outer(torch.arange(n), turns).remainder(n) * (2 * math.pi / n)
        # No buffer: a module that is moved to half precision would round it, and bring no digits back.
        self.fourier = torch.stack([angles.cos(), -angles.sin()]) / n  # part frequency element

    def forward(self, features: ViewFeatures) -> Features:
        signal = self.reduce(features)
        with torch.autocast(features.device.type, enabled=False):  # cubes overflow in half precision
            precise = signal.to(torch.promote_types(signal.dtype, torch.float32))
            numbers = self._triple_correlation(precise) if self.mirrors else self._bispectrum(precise)
        return features.mean(1) + self.out(numbers.flatten(1).to(signal.dtype))

    def _bispectrum(self, signal: Float[Tensor, "batch element c"]) -> Float[Tensor, "batch frequency c part"]:
        """In real arithmetic, which every exporter knows."""
        fourier = self.fourier.to(signal.dtype).to(signal.device)
        real, imaginary = einsum(fourier, signal, "part k g, batch g c -> part batch k c").unbind(0)
        first = [1 % signal.shape[1]]
        a = real[:, first] * real - imaginary[:, first] * imaginary
        b = real[:, first] * imaginary + imaginary[:, first] * real
        real, imaginary = real.roll(-1, 1), imaginary.roll(-1, 1)
        numbers = torch.stack([a * real + b * imaginary, b * real - a * imaginary], -1)
        return numbers / _size(numbers.square().sum(-1, keepdim=True))

    def _triple_correlation(self, signal: Float[Tensor, "batch element c"]) -> Float[Tensor, "batch a b c"]:
        shifted = signal[:, self.product]  # batch a g c: s(ag)
        numbers = einsum(signal, shifted, shifted, "batch g c, batch a g c, batch b g c -> batch a b c")
        numbers = numbers / signal.shape[1]
        return numbers / _size(numbers**2)


@combines("logits")
class IndexWeighted(nn.Module):
    """Σ_g w_g l_g with one learned weight for each place in the list of views. The control: it must fail.

    Invariance: none. Turning the image moves the views and leaves the weights behind. It begins with unequal weights.
    """

    def __init__(self, group: FiniteGroup):
        super().__init__()
        self.weights = nn.Parameter(torch.linspace(0, 2, group.order))

    def forward(self, logits: ViewLogits) -> Logits:
        return einsum(self.weights.softmax(0), logits, "element, batch element c -> batch c")


@combines("images")
class CanonicalLearned(nn.Module):
    """l_h for the view h that a small network finds most upright: h = argmax_g s(gx).

    The scores of the views of x form a map over the group that moves with x, so the chosen view does not.
    Training: the chosen view goes forward, the slope of the softmax over views backward (straight through).
    It jumps where two views score the same. Cost: |G| passes of the scorer, one of the model (|G| in training).
    Source: Kaba et al. (2023); Mondal et al. (2023).
    """

    def __init__(self, group: FiniteGroup, channels: int = 16):
        super().__init__()
        self.score = nn.Sequential(
            nn.Conv2d(1, channels, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv2d(channels, 2 * channels, 5, stride=2, padding=2),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * channels, 1),
        )

    def forward(self, views: Float[Tensor, "batch element channel height width"]) -> Float[Tensor, "batch element"]:
        gray = views.mean(2).flatten(0, 1)[:, None]  # (batch element) 1 height width; also of an empty batch
        scores = self.score(gray).reshape(views.shape[:2])
        chosen = torch.zeros_like(scores).scatter(1, scores.argmax(1, keepdim=True), 1.0)
        if not self.training:
            return chosen
        soft = scores.softmax(1)
        return chosen + soft - soft.detach()


@combines("images")
class Frame(nn.Module):
    """(1/|F|) Σ_{h∈F} l_h, F the views whose second moments lie along a fixed axis: a frame found by plain mechanics.

    M = Σ_pixels brightness · (offset from the center)(offset)ᵀ, and M of gx is R_g M R_gᵀ. F holds the g for which
    ⟨R_g M R_gᵀ, A⟩ is largest, A a fixed axis. A half turn leaves M alone, so F has two elements; more when M is round.
    It jumps where another view takes the lead. Cost: |F|, mostly two, passes.
    Source: Puny et al. (2022).
    """

    def __init__(self, group: FiniteGroup):
        super().__init__()
        degrees = torch.tensor(45.0 / group.rotations, dtype=torch.float64)  # on no mirror's axis
        cos, sin = (2 * degrees).deg2rad().cos(), (2 * degrees).deg2rad().sin()
        axis = torch.stack([torch.stack([cos, sin]), torch.stack([sin, -cos])])
        # No buffer: a module that is moved to half precision would round it, and bring no digits back.
        self.axis = einsum(group.matrices, axis, group.matrices, "g i a, i j, g j b -> g a b")

    def forward(self, views: Float[Tensor, "batch element channel height width"]) -> Float[Tensor, "batch element"]:
        image = views[:, 0].mean(1)
        height, width = image.shape[-2:]
        right = torch.arange(width, device=image.device, dtype=image.dtype) - (width - 1) / 2
        up = (height - 1) / 2 - torch.arange(height, device=image.device, dtype=image.dtype)
        offset = torch.stack([repeat(right, "x -> y x", y=height), repeat(up, "y -> y x", x=width)])
        moments = einsum(image, offset, offset, "batch y x, i y x, j y x -> batch i j")
        scores = einsum(self.axis.to(moments.dtype).to(moments.device), moments, "g i j, batch i j -> batch g")
        slack = torch.finfo(scores.dtype).eps ** 0.5 * moments.abs().amax((1, 2))[:, None]
        chosen = (scores >= scores.amax(1, keepdim=True) - slack).to(scores)
        return chosen / chosen.sum(1, keepdim=True)


def _zero(linear: nn.Linear) -> nn.Linear:
    """The layer with its weights at zero: a branch that is silent at first."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _size(square: Tensor) -> Tensor:
    """|x|^(2/3) from |x|², kept off zero by a bound: ONNX exporters drop a summand as small as 1e-12."""
    return square.clamp(min=1e-12) ** (1 / 3)
