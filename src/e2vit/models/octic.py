"""A vision transformer in the irreducible coordinates of D4, the symmetry group of the square ("octic").

A feature of width d is d/8 copies of the regular representation of D4. In irreducible coordinates such a copy has eight
parts: one number each of A1, A2, B1, B2 (signs under turns and mirrors), and two vectors of E (turned as the plane is).
Maps that commute with the group cannot mix different parts (Schur), so each linear map falls into small blocks: 1/8 of
the weights and 3/16 of the multiplications of the plain ViT of the same width. The part axis comes first, so that the
blocks are one batched product and the way to the regular representation is one product with an 8×8 matrix.

Exact for all eight elements where the patches tile the image. Only the sizes of the parts reach the head.
Source of the idea: Nordström, Edstedt, Kahl and Bökman (2025), "Stronger ViTs with octic equivariance". The norm, the
activation, the positions and the readout are our own.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.actions import orbit
from e2vit.groups import FiniteGroup, dihedral
from e2vit.models.classifier import ImageClassifier, check_counts

PARTS = ("A1", "A2", "B1", "B2", "E first row", "E second row", "E' first row", "E' second row")


@dataclass(frozen=True)
class OcticViTConfig:
    group: FiniteGroup = dihedral(4)  # the coordinates are those of this group alone
    image_size: int = 28  # side, pixels
    in_channels: int = 1
    classes: int = 10
    patch_size: int = 4
    width: int = 96  # features per token, a multiple of 8
    depth: int = 6
    heads: int = 4
    expansion: int = 2  # hidden features of the MLP, in widths
    dropout: float = 0.0  # before the head

    def __post_init__(self):
        check_counts(self, image_size=1, in_channels=1, classes=1, patch_size=1, width=1, depth=0, heads=1, expansion=1)
        if self.group != dihedral(4):
            raise ValueError(f"octic coordinates are those of D4, not of {self.group}")
        if self.image_size % self.patch_size:
            raise ValueError(f"image size {self.image_size} is not a multiple of patch size {self.patch_size}")
        if self.width % (8 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of 8 parts times {self.heads} heads")

    def tiny(self) -> "OcticViTConfig":
        """The same kind of network, small enough for a moment of training."""
        return replace(self, width=32, depth=2, heads=2)

    @property
    def side(self) -> int:
        """Tokens along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def attention_scores(self) -> int:
        """Scores of one image in one pass: one for each head, query and key."""
        return self.depth * self.heads * self.side**4


def to_parts(group: FiniteGroup) -> Float[Tensor, "part element"]:
    """The orthogonal matrix from the regular representation of D4 to its irreducible parts (Fourier transform on D4).

    A row of A1 to B2 is a sign for each element; the rows of E are the four entries of the element's 2×2 matrix.
    """
    matrices = group.matrices
    mirror, diagonal = torch.linalg.det(matrices).sign(), 1 - 2 * matrices[:, 0, 1].abs().round()
    signs = torch.stack([torch.ones_like(mirror), mirror, diagonal, diagonal * mirror]) / 8**0.5
    return torch.cat([signs, rearrange(matrices, "element row copy -> (copy row) element") / 2]).round(decimals=15)


class OcticLinear(nn.Module):
    """The linear maps that commute with D4: a matrix for each of A1 to B2, one for E on both of its rows.

    The bias acts on A1 alone, which is all that D4 leaves unchanged.
    """

    def __init__(self, width: int, out_width: int):
        super().__init__()
        self.signs = nn.Parameter(torch.randn(4, width // 8, out_width // 8) * (width // 8) ** -0.5)
        self.vectors = nn.Parameter(torch.randn(2, 2, width // 8, out_width // 8) * (width // 4) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(out_width // 8))

    def forward(self, x: Float[Tensor, "part token d"]) -> Float[Tensor, "part token out"]:
        own = self.vectors.diagonal().movedim(-1, 0)  # from each copy of E to the copy of the same number
        y = torch.bmm(x, torch.cat([self.signs, own.repeat_interleave(2, 0)]))
        for copy, other in ((0, 1), (1, 0)):  # in place: adding costs no pass over the memory of its own
            rows = y[4 + 2 * copy : 6 + 2 * copy].flatten(0, 1)
            rows.addmm_(x[4 + 2 * other : 6 + 2 * other].flatten(0, 1), self.vectors[other, copy])
        y[0] += self.bias
        return y


def normalized(x: Float[Tensor, "part *token d"]) -> Float[Tensor, "part *token d"]:
    """Each token divided by the root mean square over all of its parts, which D4 does not change.

    Without weights: each of these norms is followed by a linear map, which has them.
    """
    square = x.square().sum(0).mean(-1, keepdim=True) / x.shape[0]  # the part axis first: it is the faster order
    return x * (square + 1e-6).rsqrt()


class OcticAttention(nn.Module):
    """Multi-head attention: q·k is summed over all parts of a head, so D4 does not change the scores."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = OcticLinear(width, 3 * width)
        self.out = OcticLinear(width, width)

    def forward(self, x: Float[Tensor, "part batch token d"]) -> Float[Tensor, "part batch token d"]:
        qkv = self.qkv(x.flatten(1, 2)).unflatten(1, x.shape[1:3])
        q, k, v = rearrange(
            qkv, "part batch token (p head d) -> p batch head token (part d)", p=3, head=self.heads
        ).unbind()
        y = F.scaled_dot_product_attention(q, k, v)
        y = rearrange(y, "batch head token (part d) -> part (batch token) (head d)", part=8)
        return self.out(y).unflatten(1, x.shape[1:3])


class OcticMLP(nn.Module):
    """Linear, GELU in the regular representation (where D4 permutes numbers), linear."""

    fourier: Tensor

    def __init__(self, group: FiniteGroup, width: int, hidden: int):
        super().__init__()
        self.rise, self.fall = OcticLinear(width, hidden), OcticLinear(hidden, width)
        self.register_buffer("fourier", to_parts(group).float(), persistent=False)

    def forward(self, x: Float[Tensor, "part batch token d"]) -> Float[Tensor, "part batch token d"]:
        hidden = self.rise(x.flatten(1, 2))
        change = self.fourier.to(x.dtype)
        regular = F.gelu(change.T @ hidden.flatten(1))
        return self.fall((change @ regular).view_as(hidden)).unflatten(1, x.shape[1:3])


class OcticBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, group: FiniteGroup, width: int, heads: int, expansion: int):
        super().__init__()
        self.attention = OcticAttention(width, heads)
        self.mlp = OcticMLP(group, width, expansion * width)

    def forward(self, x: Float[Tensor, "part batch token d"]) -> Float[Tensor, "part batch token d"]:
        x = x + self.attention(normalized(x))
        return x + self.mlp(normalized(x))


class OcticTable(nn.Module):
    """Functions on a square grid, one for each part and channel, which the group moves as it moves that part.

    Free is a quarter of the grid for each of A1 to B2 and for each copy of E; the sum over the group fills the rest:
    Σ_g Q[part, g] f(g⁻¹x). The filters of the patches and the positions of the tokens are such tables.
    """

    coefficients: Tensor

    def __init__(self, group: FiniteGroup, side: int, channels: int, scale: float):
        super().__init__()
        self.group, self.side = group, side
        self.quarter = nn.Parameter(torch.randn(6, channels, (side + 1) // 2, (side + 1) // 2) * scale)
        first = to_parts(group)[[0, 1, 2, 3, 4, 5]] * torch.tensor([8**0.5] * 4 + [2.0] * 2)[:, None]
        self.register_buffer("coefficients", first.round().float(), persistent=False)  # zeros and ±1

    def forward(self) -> Float[Tensor, "part channel side side"]:
        rest = self.side - self.quarter.shape[-1]
        turned = orbit(self.group, F.pad(self.quarter, (0, rest, 0, rest)))
        coefficients = self.coefficients.to(turned.dtype)
        signs = einsum(coefficients[:4], turned[:, :4], "part g, g part d row column -> part d row column")
        vectors = einsum(coefficients[4:], turned[:, 4:], "part g, g copy d row column -> copy part d row column")
        return torch.cat([signs, vectors.flatten(0, 1)])


class OcticViT(ImageClassifier):
    """Patches → tokens in irreducible coordinates → blocks that commute with D4 → sizes of the parts → classes."""

    Config = OcticViTConfig

    def __init__(self, config: OcticViTConfig = OcticViTConfig()):
        super().__init__(config)
        group, copies = config.group, config.width // 8
        fan_in = config.in_channels * config.patch_size**2
        self.embed = OcticTable(group, config.patch_size, copies * config.in_channels, fan_in**-0.5)
        self.position = OcticTable(group, config.side, copies, 0.02)
        self.blocks = nn.ModuleList(
            OcticBlock(group, config.width, config.heads, config.expansion) for _ in range(config.depth)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(6 * copies, config.classes)

    def tokens(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "part batch token d"]:
        """The patches of an image in irreducible coordinates, with their positions added."""
        self.check(images)
        filters = rearrange(
            self.embed(), "part (d channel) row column -> (part d) channel row column", channel=self.config.in_channels
        )
        x = F.conv2d(images, filters, stride=self.config.patch_size)
        x = rearrange(x, "batch (part d) row column -> part batch (row column) d", part=8)
        return x + rearrange(self.position(), "part d row column -> part 1 (row column) d")

    def features(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch d"]:
        """Invariant to D4: A1 and the sizes of the other parts of every token, averaged over the tokens."""
        x = self.tokens(images)
        for block in self.blocks:
            x = block(x)
        x = normalized(x)
        lengths = (x[4:].square().unflatten(0, (2, 2)).sum(1) + 1e-6).sqrt()
        sizes = torch.cat([x[:1], (x[1:4].square() + 1e-6).sqrt(), lengths])  # smooth at zero
        return self.dropout(rearrange(sizes.mean(2), "part batch d -> batch (part d)"))
