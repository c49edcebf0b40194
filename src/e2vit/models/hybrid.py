"""The novel hybrid: group convolutions, then tokens that keep their pose.

Group convolutions and pools turn the image into a small lifted map, exactly equivariant by the size rule. Each of its
(pose, position) pairs is a token. Attention compares places and poses as seen from the query's own pose, so the whole
network commutes with the group, and only the readout is invariant.
"""

import warnings
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.groups import FiniteGroup, check_group, cyclic
from e2vit.layers.convolution import GroupBatchNorm, GroupConv, LiftingConv, SpatialPool
from e2vit.layers.pose import POSITIONS, READOUTS, PoseBlock, PoseReadout
from e2vit.models.classifier import ImageClassifier, check_counts


@dataclass(frozen=True)
class HybridViTConfig:
    group: FiniteGroup = cyclic(4)
    image_size: int = 28  # side, pixels
    in_channels: int = 1
    classes: int = 10
    # Channels for each pose; a 2×2 pool between one and the next. When left out, three widths, or as many more as
    # leave at most 14×14 positions, are chosen from the image size.
    stem: tuple[int, ...] = None  # type: ignore[assignment]
    kernel: int = 5  # of the stem, pixels
    width: int = 24  # features for each pose of a token
    depth: int = 2
    heads: int = 4
    expansion: int = 2
    attention: str = "joint"  # over positions and poses; or "within_pose"
    dropout: float = 0.0  # before the head
    readout: str = "mean_max"  # over poses; or "mean"
    position: str = "bias"  # or "rotary", "none"; "absolute" is a control: it breaks equivariance
    pool: str = "max"  # of the stem; "mean" turns more cleanly off the grid
    poses: str = "kept"  # or "pooled": averaged after the stem and lifted again, as others have it
    patch: int = 0  # pixels; above 0, lifted patches take the place of the stem's convolutions

    def __post_init__(self):
        check_group(self.group)
        check_counts(self, image_size=1, in_channels=1, classes=1, kernel=1, width=1, depth=0, heads=1, expansion=1)
        check_counts(self, patch=0)
        if self.stem is None:
            object.__setattr__(self, "stem", (8,) if self.patch else _stem(self.image_size))
        check_counts(self, stem=1)
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.patch and (len(self.stem) != 1 or self.image_size % self.patch):
            raise ValueError(
                f"patches of {self.patch} pixels need an image size that is a multiple of {self.patch} "
                f"and a stem of one width, got {self.image_size} pixels and {self.stem}"
            )
        if self.image_size % self.stride:
            raise ValueError(
                f"image size {self.image_size} can't be halved {len(self.stem) - 1} times: the stem's "
                f"pools need a multiple of {self.stride}"
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} can't keep the size of a map: that takes an odd one")
        for field, allowed in (
            ("attention", ("joint", "within_pose")),
            ("poses", ("kept", "pooled")),
            ("position", (*POSITIONS, "absolute")),
            ("readout", READOUTS),
            ("pool", ("max", "mean")),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} is one of {', '.join(allowed)}, not {getattr(self, field)!r}")
        if self.position == "rotary" and self.width // self.heads % 2:
            raise ValueError(
                f"rotary positions turn pairs of features, but width {self.width} with {self.heads} heads "
                f"leaves {self.width // self.heads} for each"
            )
        if self.attention_scores > 1e8:
            warnings.warn(
                f"this configuration computes {self.attention_scores:.1e} attention scores for one image: a longer "
                f"stem than {self.stem} leaves fewer positions",
                stacklevel=3,
            )

    @property
    def stride(self) -> int:
        """Pixels from one token to the next."""
        return self.patch or 2 ** (len(self.stem) - 1)

    @property
    def side(self) -> int:
        """Positions along one side of the token grid."""
        return self.image_size // self.stride

    @property
    def attention_scores(self) -> int:
        """Scores of one image in one pass: one for each head, query and key."""
        within_pose = self.group.order * self.side**4
        return self.depth * self.heads * within_pose * (self.group.order if self.attention == "joint" else 1)

    def tiny(self) -> "HybridViTConfig":
        """The same kind of network, small enough for a short test run."""
        stem = (2, *(4 for _ in self.stem[1:]))
        return replace(self, stem=stem, width=8, depth=min(self.depth, 1), heads=2, kernel=3)


def _stem(image_size: int) -> tuple[int, ...]:
    pools = 2
    while image_size // 2**pools > 14 and image_size % 2 ** (pools + 1) == 0:
        pools += 1
    return tuple(range(8, 8 * (pools + 2), 8))


class HybridViT(ImageClassifier):
    """Stem → tokens (pose × position) → transformer blocks → invariant readout → classes."""

    Config = HybridViTConfig

    def __init__(self, config: HybridViTConfig = HybridViTConfig()):
        super().__init__(config)
        self.stem = make_stem(config)
        self.embed = nn.Linear(config.stem[-1], config.width)
        self.blocks = nn.ModuleList(
            PoseBlock(
                config.group,
                config.side,
                config.width,
                config.heads,
                config.expansion,
                config.attention,
                "none" if config.position == "absolute" else config.position,
            )
            for _ in range(config.depth)
        )
        if config.position == "absolute":
            self.places = nn.Parameter(torch.randn(config.side**2, config.width) * 0.02)
        self.norm = nn.LayerNorm(config.width)
        self.readout = PoseReadout(config.readout)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(self.readout.copies * config.width, config.classes)

    def tokens(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch pose token d"]:
        self.check(images)
        x = self.stem(images)
        if self.config.poses == "pooled":
            x = x.mean(2, keepdim=True).expand_as(x)  # every pose of the new lifting sees the same
        x = self.embed(rearrange(x, "batch d pose row column -> batch pose (row column) d"))
        return x + self.places if self.config.position == "absolute" else x

    def stages(self, images: Float[Tensor, "batch channel height width"]) -> dict[str, Tensor]:
        """What the network computes on the way: lifted maps up to the last block, then features and logits."""
        seen, x = {}, images
        for layer in self.stem:
            x = layer(x)
            seen[f"stem {len(seen)}: {type(layer).__name__}"] = x
        x = self.tokens(images)
        for number in range(len(self.blocks) + 1):
            name = f"block {number - 1}" if number else "tokens"
            x = self.blocks[number - 1](x) if number else x
            seen[name] = rearrange(x, "batch pose (row column) d -> batch d pose row column", row=self.config.side)
        return seen | {"features": self.features(images), "logits": self(images)}

    def features(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch d"]:
        """Invariant to the group: mean over positions, then the readout over poses."""
        x = self.tokens(images)
        for block in self.blocks:
            x = block(x)
        return self.readout(self.norm(x).mean(2))

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class_"]:
        return self.head(self.dropout(self.features(images)))


def make_stem(config: HybridViTConfig) -> nn.Sequential:
    """Images to a lifted map of stem[-1] channels: group convolutions with pools between them, or lifted patches."""
    group, kernel = config.group, config.kernel
    if config.patch:
        return nn.Sequential(LiftingConv(group, config.in_channels, config.stem[0], config.patch, stride=config.patch))
    layers: list[nn.Module] = []
    before = config.in_channels
    for number, after in enumerate(config.stem, start=1):
        make = LiftingConv if number == 1 else GroupConv
        layers += [make(group, before, after, kernel, kernel // 2, bias=False), GroupBatchNorm(after)]
        pool = [SpatialPool(2, config.pool)] if number < len(config.stem) else []
        # the maximum of what is positive is the positive part of the maximum, which has a quarter of the numbers
        layers += [*pool, nn.ReLU()] if config.pool == "max" else [nn.ReLU(), *pool]
        before = after
    return nn.Sequential(*layers)
