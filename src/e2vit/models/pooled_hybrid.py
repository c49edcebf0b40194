"""The earlier hybrids: an equivariant front whose poses are averaged away, then group attention that lifts them again.

The front gives a small map, which the group attention takes for an image of many channels. Exactly equivariant, but
what the front knew of relative poses is lost in between; ``HybridViT`` is the same without the loss.
"""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor, nn

from e2vit.groups import FiniteGroup, cyclic
from e2vit.layers.convolution import pool_elements
from e2vit.models.classifier import ImageClassifier, check_counts
from e2vit.models.group_attention_net import GroupAttentionNet, GroupAttentionNetConfig
from e2vit.models.hybrid import HybridViTConfig, make_stem


@dataclass(frozen=True)
class PooledHybridConfig:
    """front: only its stem is used: group convolutions, or lifted patches."""

    front: HybridViTConfig = HybridViTConfig(group=cyclic(4), stem=(8, 24, 32))
    channels: int = 20  # of the group attention
    heads: int = 4
    layers: int = 2
    window: int = 7  # side, positions of the map

    def __post_init__(self):
        check_counts(self, layers=0)
        if self.window > self.front.side:
            raise ValueError(f"a window of {self.window} positions is larger than the map, {self.front.side} positions")

    @property
    def group(self) -> FiniteGroup:
        return self.front.group

    @property
    def image_size(self) -> int:
        return self.front.image_size

    @property
    def in_channels(self) -> int:
        return self.front.in_channels

    @property
    def classes(self) -> int:
        return self.front.classes

    @property
    def attention_scores(self) -> int:
        return self.net.attention_scores

    @property
    def net(self) -> GroupAttentionNetConfig:
        """The group attention network that reads the map."""
        return GroupAttentionNetConfig.stable(
            group=self.front.group,
            image_size=self.front.side,
            in_channels=self.front.stem[-1],
            window=self.window,
            classes=self.front.classes,
            channels=self.channels,
            heads=self.heads,
            blocks=(self.layers,),
            crops=(0,) * self.layers,
            expansions=(1,),
        )

    def tiny(self) -> "PooledHybridConfig":
        return replace(self, front=self.front.tiny(), channels=4, heads=1, layers=1, window=min(self.window, 3))


class PooledHybrid(ImageClassifier):
    """Stem → mean over poses → group attention network."""

    Config = PooledHybridConfig

    def __init__(self, config: PooledHybridConfig = PooledHybridConfig()):
        super().__init__(config)
        self.stem = make_stem(config.front)
        self.norm = nn.GroupNorm(1, config.front.stem[-1])
        self.net = GroupAttentionNet(config.net)
        self.head = nn.Identity()  # the network ends in class scores

    def features(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch d"]:
        self.check(images)
        return self.net(self.norm(pool_elements(self.stem(images), "mean")))
