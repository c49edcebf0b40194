"""GSA-Nets and GE-ViT, as released or with stable positions: one network, which differs in one index table.

Lifting attention, then blocks of group attention with a 2×2 max-pool between them, then a linear map to class scores at
every position and pose; those are pooled over positions and the largest over poses is the logit.
Sources: Romero and Cordonnier (2021), GSA-Nets; Xu et al. (2023), GE-ViT; architectures read from the public code.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

from e2vit.actions import is_exact
from e2vit.groups import FiniteGroup, cayley_index, check_group, cyclic
from e2vit.layers.attention import LocalGroupSelfAttention, Pointwise
from e2vit.layers.position import window_mask
from e2vit.models.classifier import ImageClassifier, check_counts
from e2vit.models.released import load_released


@dataclass(frozen=True)
class GroupAttentionNetConfig:
    """The defaults are the released rotMNIST architecture with the Cayley table and no dropout of single attention
    weights, which the fast kernels do not have."""

    group: FiniteGroup = cyclic(4)
    index: Callable = cayley_index  # or gsa_index, gevit_index: the released tables
    window: int = 9  # side, pixels
    window_shape: str = "square"  # or "disc"
    image_size: int = 28  # side, pixels
    in_channels: int = 1
    classes: int = 10
    channels: int = 20  # features after lifting; head_dim is half of those a layer puts out
    heads: int = 9
    blocks: tuple[int, ...] = (2, 3)  # layers in each block
    expansions: tuple[int, ...] = (1, 1)  # features of a block, in features of the one before
    crops: tuple[int, ...] = (2, 0, 2, 1, 1)  # pixels cut from each border, for each layer
    pool_after_last: bool = False
    norms_between: bool = False  # a norm and a swish after each layer
    position: str = "released"  # or "stable": stable positions
    score_scale: str = "channels"  # scores over √(input channels), as released; or "head_dim"
    query_pose: str = "sum"  # over all, as released; or "diagonal", the query has the pose of the output
    readout: str = "sum"  # over positions, as released; or "mean"
    attention_dropout: float = 0.0  # of single weights, released: 0.1; reference backend alone
    value_dropout: float = 0.1
    input_dropout: float = 0.0
    pool_dropout: float = 0.0
    norm_eps: float = 1e-12
    backend: str = "auto"
    size_rule: bool = True  # refuse an image size at which a pool would break exact equivariance

    def __post_init__(self):
        check_group(self.group)
        check_counts(self, image_size=1, in_channels=1, classes=1, channels=1, heads=1, window=1)
        check_counts(self, blocks=0, expansions=1, crops=0)
        for field, allowed in (("readout", ("sum", "mean")), ("score_scale", ("channels", "head_dim"))):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} is one of {', '.join(allowed)}, not {getattr(self, field)!r}")
        if self.window > self.image_size:
            raise ValueError(f"the window, {self.window} pixels, is larger than the image, {self.image_size} pixels")
        if self.channels % 2:
            raise ValueError(f"channels, {self.channels}, is no multiple of 2: half of them go through the attention")
        if len(self.expansions) != len(self.blocks) or len(self.crops) != sum(self.blocks):
            raise ValueError(
                f"blocks {self.blocks} need {len(self.blocks)} expansions and {sum(self.blocks)} crops, "
                f"got {len(self.expansions)} and {len(self.crops)}"
            )
        if min((step.size_after for step in self.steps), default=1) < 1:
            raise ValueError(f"an image of {self.image_size} pixels is cropped and pooled to nothing")
        if self.size_rule and not self.obeys_size_rule:
            odd = ", ".join(str(step.size) for step in self.steps if step.kind == "pool" and step.size % 2)
            raise ValueError(
                f"an image of {self.image_size} pixels leads to a 2×2 pool on a map of {odd} pixels, which breaks "
                "equivariance to quarter turns: choose another image size, or pass size_rule=False"
            )
        if self.position == "released" and (self.channels % 4 or self.channels < 8):
            raise ValueError(f"released positions need a multiple of 4 channels from 8 on, not {self.channels}")

    @classmethod
    def rotmnist(cls, **changes) -> "GroupAttentionNetConfig":
        """As released, with dropout of attention weights too: 44,428 parameters for C4."""
        return cls(**{"attention_dropout": 0.1, **changes})

    @classmethod
    def pcam(cls, **changes) -> "GroupAttentionNetConfig":
        """As released. Its last pool, 2×2 on a 7×7 map, breaks the size rule: not equivariant whatever the index.
        With ``pool_after_last=False`` every pool obeys it."""
        shape: dict[str, Any] = dict(image_size=96, in_channels=3, classes=2, channels=12, window=5, norms_between=True)
        shape |= dict(blocks=(0, 1, 2, 1), crops=(0, 2, 1, 1), expansions=(1, 2, 2, 2), pool_after_last=True)
        shape |= dict(size_rule=False, attention_dropout=0.1)
        return cls(**shape | changes)

    @classmethod
    def stable(cls, **changes) -> "GroupAttentionNetConfig":
        """The rotMNIST architecture with stable positions and the usual scale of scores, mean readout and epsilon."""
        return cls(**{"position": "stable", "score_scale": "head_dim", "readout": "mean", "norm_eps": 1e-5, **changes})

    def tiny(self) -> "GroupAttentionNetConfig":
        """The same kind of network, small enough for a moment of training: pooled first, then one layer."""
        pools, size = 0, self.image_size
        while size % 2 == 0 and size > 8:
            pools, size = pools + 1, size // 2
        return replace(
            self,
            channels=8,
            heads=2,
            window=3,
            blocks=(0,) * pools + (1,),
            crops=(0,),
            expansions=(1,) * (pools + 1),
            pool_after_last=False,
            size_rule=True,
        )

    @property
    def attention_scores(self) -> int:
        """Scores of one image in one pass: one for each head, query (x, v, g) and key; keys beyond the border count."""
        mask = window_mask(self.window, self.window_shape)
        keys = self.window**2 if mask is None else int(mask.sum())
        poses = self.group.order ** (2 if self.query_pose == "diagonal" else 3)
        queries = self.group.order * self.image_size**2  # of the lifting
        queries += sum(poses * step.size**2 for step in self.steps if step.kind == "layer")
        return self.heads * keys * queries

    @property
    def steps(self) -> list["Step"]:
        """What happens after lifting, in order."""
        steps, crops, size, channels = [], iter(self.crops), self.image_size, self.channels
        for number, (layers, expansion) in enumerate(zip(self.blocks, self.expansions, strict=True)):
            out_channels = channels * expansion if layers else channels
            for _ in range(layers):
                steps.append(Step("layer", size, channels, out_channels, next(crops)))
                size, channels = steps[-1].size_after, out_channels
            if number < len(self.blocks) - 1 or self.pool_after_last:
                steps.append(Step("pool", size, channels, channels))
                size = steps[-1].size_after
        return steps

    @property
    def obeys_size_rule(self) -> bool:
        """Whether every pool commutes exactly with quarter turns."""
        return all(is_exact(step.size, kernel=2, stride=2) for step in self.steps if step.kind == "pool")


@dataclass(frozen=True)
class Step:
    """A layer, or a pool between blocks. size: side of the map that comes in, pixels."""

    kind: str
    size: int
    channels: int
    out_channels: int
    crop: int = 0

    @property
    def size_after(self) -> int:
        return self.size // 2 if self.kind == "pool" else self.size - 2 * self.crop


class GroupBlock(nn.Module):
    """Attention, then an MLP, on maps with a pose axis, each between two norms:

        x + crop(dropout(swish(norm(attention(swish(norm(x)))))))    then    x + norm(linear(swish(norm(linear(x)))))

    crop: pixels cut from each border after the attention. Its normalization still sees them.
    """

    def __init__(self, attention: nn.Module, channels: int, out_channels: int, crop: int, dropout: float, eps: float):
        super().__init__()
        self.crop = crop
        self.attention_norm = nn.GroupNorm(1, channels, eps)
        self.attention = attention
        self.out_norm = nn.GroupNorm(1, out_channels, eps)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = Pointwise(channels, out_channels) if channels != out_channels else nn.Identity()
        self.mlp = nn.Sequential(
            Pointwise(out_channels, out_channels // 2),
            nn.GroupNorm(1, out_channels // 2, eps),
            nn.SiLU(),
            Pointwise(out_channels // 2, out_channels),
            nn.GroupNorm(1, out_channels, eps),
        )

    def forward(
        self, x: Float[Tensor, "batch channel element height width"]
    ) -> Float[Tensor, "batch out_channel element cropped_height cropped_width"]:
        attended = self.attention(F.silu(self.attention_norm(x)))
        attended = self.dropout(F.silu(self.out_norm(attended)))
        x = self._cropped(attended) + self.shortcut(self._cropped(x))
        return x + self.mlp(x)

    def _cropped(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return x[..., self.crop : height - self.crop, self.crop : width - self.crop]


class GroupAttentionNet(ImageClassifier):
    """Images to logits, invariant to the group when the index is equivariant and the pools obey the size rule."""

    Config = GroupAttentionNetConfig

    def __init__(self, config: GroupAttentionNetConfig = GroupAttentionNetConfig()):
        super().__init__(config)
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.lifting = self._attention(config.in_channels, config.channels, lifting=True)
        self.lifting_norm = nn.GroupNorm(1, config.channels, config.norm_eps)
        self.layers = nn.ModuleList(module for step in config.steps for module in self._built(step))
        last = config.steps[-1].out_channels if config.steps else config.channels
        self.classify = Pointwise(last, config.classes, bias=False)
        if config.readout == "mean":
            with torch.no_grad():
                self.classify.weight.mul_(0.1)  # all classes start about as likely; released logits start near 100
        self.head = nn.Identity()  # classes come before the pooling, which ends in a maximum: nothing is left to do

    def _attention(self, channels: int, out_channels: int, lifting: bool = False) -> LocalGroupSelfAttention:
        config = self.config
        return LocalGroupSelfAttention(
            config.group,
            channels,
            config.heads,
            out_channels // 2,
            out_channels=out_channels,
            window=config.window,
            window_shape=config.window_shape,
            lifting=lifting,
            index=config.index,
            position=config.position,
            query_pose=config.query_pose,
            scale=channels**-0.5 if config.score_scale == "channels" else None,
            dropout=config.attention_dropout,
            backend=config.backend,
            small_maps=True,
        )

    def _built(self, step: Step) -> list[nn.Module]:
        config = self.config
        if step.kind == "pool":
            dropout = [nn.Dropout(config.pool_dropout)] if config.pool_dropout else []
            return [nn.MaxPool3d((1, 2, 2)), *dropout]
        block = GroupBlock(
            self._attention(step.channels, step.out_channels),
            step.channels,
            step.out_channels,
            step.crop,
            config.value_dropout,
            config.norm_eps,
        )
        between = [nn.GroupNorm(1, step.out_channels, config.norm_eps), nn.SiLU()] if config.norms_between else []
        return [block, *between]

    def stages(self, images: Float[Tensor, "batch channel height width"]) -> dict[str, Tensor]:
        """What the network computes on the way: after lifting, after the first layer, class scores, logits."""
        seen = {"stage_lifting": self._lift(images)}
        x = F.silu(self.lifting_norm(seen["stage_lifting"]))
        for layer in self.layers:
            x = layer(x)
            seen.setdefault("stage_layer1", x)
        seen["stage_classes"] = self.classify(x)
        seen["logits"] = self._pooled(seen["stage_classes"])
        return seen

    def features(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class_"]:
        """The class scores, pooled over positions, and the largest over poses."""
        return self.stages(images)["logits"]

    def _lift(self, images: Tensor) -> Float[Tensor, "batch channel element height width"]:
        self.check(images)
        return self.lifting(self.input_dropout(images))

    def _pooled(self, classes: Float[Tensor, "batch class_ element height width"]) -> Float[Tensor, "batch class_"]:
        return reduce(classes, "b c v y x -> b c v", self.config.readout).amax(-1)

    @classmethod
    def from_released(
        cls, state: dict[str, Any], group: FiniteGroup, index: Callable, window: int, tables: str = "state"
    ) -> "GroupAttentionNet":
        """The released rotMNIST network with released weights, in evaluation mode and in their floating type.

        state:  name → array, under the names of the public code, with or without ``state/`` in front.
        tables: "state" for the offsets that come with the weights, "own" for ours, which are the same to 1e-7.
        """
        config = GroupAttentionNetConfig.rotmnist(group=group, index=index, window=window)
        return load_released(cls(config), state, tables)
