"""Group-convolutional networks: filters are learned in one pose and turned into the others.

Two come as named configurations: the P4CNN of Cohen and Welling with its plain twin Z2CNN, and a modern one.
Source: Cohen and Welling (2016), "Group equivariant convolutional networks"; the layers as in their public code.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.actions import is_exact
from e2vit.groups import FiniteGroup, check_group, cyclic
from e2vit.layers.convolution import GroupBatchNorm, GroupConv, LiftingConv, SpatialPool
from e2vit.models.classifier import ImageClassifier, check_counts


@dataclass(frozen=True)
class GCNNConfig:
    """The defaults are the P4CNN: 24,620 parameters."""

    group: FiniteGroup = cyclic(4)
    image_size: int = 28  # side, pixels
    in_channels: int = 1
    classes: int = 10
    widths: tuple[int, ...] = (10,) * 6  # channels for each pose, for each layer
    kernel: int = 3
    same_size: bool = False  # pad the maps; else each layer takes kernel − 1 pixels away
    pool_after: tuple[int, ...] = (2,)  # the layers, counted from 1, that a 2×2 max-pool follows
    readout: str = "max"  # one more convolution, over the whole map, to the classes, then the maximum
    # over poses; or "mean_max": mean over positions, mean and maximum over
    # poses, linear
    dropout: float = 0.0  # of single numbers after layers 1, 3, 4, … ; before the head for "mean_max"

    def __post_init__(self):
        check_group(self.group)
        check_counts(self, image_size=1, in_channels=1, classes=1, widths=1, kernel=1)
        if self.readout not in ("max", "mean_max"):
            raise ValueError(f"readout is 'max' or 'mean_max', not {self.readout!r}")
        if self.same_size and self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} can't keep the size of a map: that takes an odd one")
        if self.side < 1:
            raise ValueError(f"an image of {self.image_size} pixels is convolved and pooled to nothing")
        if not self._works(self.image_size):
            nearby = [n for n in range(max(1, self.image_size - 8), self.image_size + 9) if self._works(n)]
            raise ValueError(
                f"image size {self.image_size} leads to an odd map before a 2×2 pool, which would break "
                f"equivariance; sizes that work: {', '.join(map(str, nearby))}"
            )

    @classmethod
    def p4cnn(cls, **changes) -> "GCNNConfig":
        """Six layers of 3×3 and one of 4×4, 10 channels in each of 4 poses."""
        return cls(**changes)

    @classmethod
    def z2cnn(cls, **changes) -> "GCNNConfig":
        """Its plain twin: no poses, twice the channels, dropout."""
        return cls(**{"group": cyclic(1), "widths": (20,) * 6, "dropout": 0.3, **changes})

    @classmethod
    def modern(cls, **changes) -> "GCNNConfig":
        """The stem of the hybrid with two more convolutions where the hybrid has its transformer blocks."""
        modern: dict[str, Any] = dict(
            widths=(8, 24, 32, 32, 32), kernel=5, same_size=True, pool_after=(1, 2), readout="mean_max"
        )
        return cls(**modern | changes)

    def tiny(self) -> "GCNNConfig":
        return replace(self, widths=tuple(2 for _ in self.widths))

    @property
    def sides(self) -> list[int]:
        """The side of the map after each layer and its pool, pixels; the image first."""
        return _sides(self, self.image_size)[0]

    attention_scores = 0

    @property
    def side(self) -> int:
        """The side of the last map, pixels."""
        return self.sides[-1]

    def _works(self, image_size: int) -> bool:
        sides, obeys = _sides(self, image_size)
        return obeys and sides[-1] > 0


def _sides(config: GCNNConfig, image_size: int) -> tuple[list[int], bool]:
    """The side of the map after each layer, and whether every pool commutes with quarter turns."""
    sides, obeys = [image_size], True
    for layer in range(1, len(config.widths) + 1):
        side = sides[-1] if config.same_size else sides[-1] - config.kernel + 1
        if layer in config.pool_after:
            obeys = obeys and (side < 2 or is_exact(side, 2, 0, 2))
            side //= 2
        sides.append(side)
    return sides, obeys


class GCNN(ImageClassifier):
    """Lifting convolution, group convolutions, pools, and an invariant readout."""

    Config = GCNNConfig

    def __init__(self, config: GCNNConfig = GCNNConfig()):
        super().__init__(config)
        group, kernel = config.group, config.kernel
        padding = kernel // 2 if config.same_size else 0
        layers: list[nn.Module] = []
        before = config.in_channels
        for number, width in enumerate(config.widths, start=1):
            make = LiftingConv if number == 1 else GroupConv
            layers += [make(group, before, width, kernel, padding, bias=False), GroupBatchNorm(width), nn.ReLU()]
            if config.readout == "max" and config.dropout and number != 2:
                layers.append(nn.Dropout(config.dropout))
            if number in config.pool_after:
                layers.append(SpatialPool(2))
            before = width
        self.layers = nn.Sequential(*layers)
        if config.readout == "max":
            self.top = GroupConv(group, before, config.classes, config.side)
            self.head = nn.Identity()  # the maximum over poses comes last: nothing is left to do
        else:
            self.dropout = nn.Dropout(config.dropout)
            self.head = nn.Linear(2 * before, config.classes)

    def features(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch d"]:
        """Invariant to the group: class scores, or the mean and the largest response of each channel over the poses."""
        self.check(images)
        x = self.layers(images)
        if self.config.readout == "max":
            return reduce(self.top(x), "batch d pose 1 1 -> batch d", "max")
        x = reduce(x, "batch d pose row column -> batch pose d", "mean")
        return self.dropout(torch.cat([x.mean(1), x.amax(1)], -1))
