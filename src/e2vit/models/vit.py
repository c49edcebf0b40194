"""A plain vision transformer, small enough for 28×28 digits.

Source: Dosovitskiy et al. (2021), "An image is worth 16×16 words", in the pre-norm form; torch's fused attention does
the work. ``features`` and ``head`` are apart, so that a symmetrized model can combine features over an orbit.
"""

from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.layers.position import plane_waves
from e2vit.models.classifier import ImageClassifier, check_counts
from e2vit.models.transformer import MultiHeadAttention


@dataclass(frozen=True)
class ViTConfig:
    image_size: int = 28  # side, pixels
    in_channels: int = 1
    classes: int = 10
    patch_size: int = 4  # 49 tokens
    width: int = 96  # features per token
    depth: int = 6
    heads: int = 4
    expansion: int = 2  # hidden features of the MLP, in widths
    dropout: float = 0.0
    readout: str = "mean"  # "mean" over tokens, or "class_token"
    initial_position: str = "normal"  # learned positions begin at random, or "sinusoidal": near ones begin alike
    token_dropout: float = 0.0  # share of the patches of an image that a training step does not see

    def __post_init__(self):
        check_counts(self, image_size=1, in_channels=1, classes=1, patch_size=1, width=1, depth=0, heads=1, expansion=1)
        if self.image_size % self.patch_size:
            raise ValueError(f"image size {self.image_size} is not a multiple of patch size {self.patch_size}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.readout not in ("mean", "class_token"):
            raise ValueError(f"readout is 'mean' or 'class_token', not {self.readout!r}")
        if self.initial_position not in ("normal", "sinusoidal"):
            raise ValueError(f"initial_position is 'normal' or 'sinusoidal', not {self.initial_position!r}")
        if not 0 <= self.token_dropout < 1:
            raise ValueError(f"token_dropout is at least 0 and below 1, got {self.token_dropout}")

    def tiny(self) -> "ViTConfig":
        """The same shape, small enough for a moment of training."""
        return replace(self, width=32, depth=2, heads=2)

    @property
    def side(self) -> int:
        """Tokens along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def attention_scores(self) -> int:
        """Scores of one image in one pass: one for each head, query and key."""
        return self.depth * self.heads * (self.side**2 + (self.readout == "class_token")) ** 2


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). Source: Xiong et al. (2020), for the normalization first."""

    def __init__(self, width: int, heads: int, expansion: int = 4, dropout: float = 0.0):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, expansion * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(expansion * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Float[Tensor, "batch token d"]) -> Float[Tensor, "batch token d"]:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class ViT(ImageClassifier):
    """Patches become tokens, tokens attend to each other, their mean (or a class token) is classified."""

    Config = ViTConfig

    def __init__(self, config: ViTConfig = ViTConfig()):
        super().__init__(config)
        self.embed = nn.Conv2d(config.in_channels, config.width, config.patch_size, stride=config.patch_size)
        tokens = config.side**2 + (config.readout == "class_token")
        self.position = nn.Parameter(torch.randn(1, tokens, config.width) * 0.02)
        if config.initial_position == "sinusoidal":
            table = rearrange(plane_waves(config.width, config.side, config.side), "d row column -> (row column) d")
            self.position.data[0, -len(table) :] = table
        if config.readout == "class_token":
            self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.expansion, config.dropout) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.classes)

    def tokens(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch token d"]:
        """The patches of an image as tokens, with their positions added."""
        self.check(images)
        x = rearrange(self.embed(images), "batch d row column -> batch (row column) d")
        if self.config.readout == "class_token":
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1)
        return x + self.position

    def _seen(self, x: Float[Tensor, "batch token d"]) -> Float[Tensor, "batch kept d"]:
        """A part of the tokens, drawn anew for each image (Liu et al., 2022); the class token always stays."""
        extra = x.shape[1] - self.config.side**2
        drawn = torch.rand(x.shape[0], self.config.side**2, device=x.device).argsort(1)
        kept = drawn[:, : max(1, round((1 - self.config.token_dropout) * drawn.shape[1]))] + extra
        patches = x.gather(1, repeat(kept, "batch token -> batch token d", d=x.shape[-1]))
        return torch.cat([x[:, :extra], patches], 1)

    def features(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch d"]:
        x = self.tokens(images)
        if self.training and self.config.token_dropout:
            x = self._seen(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x[:, 0] if self.config.readout == "class_token" else x.mean(1)
