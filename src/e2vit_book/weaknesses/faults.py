"""Faults of the released networks, measured: the index table, the size rule, the degenerate positions.

All networks here are untrained, with random weights, and in double precision unless it says otherwise.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from e2vit.actions import equivariance_error, exact_elements, invariance_error, rotate
from e2vit.groups import FiniteGroup
from e2vit.layers import LocalGroupSelfAttention
from e2vit.layers.position import PositionAsReleased, StablePosition
from e2vit.models import GroupAttentionNet, GroupAttentionNetConfig
from e2vit.testing import randomized

HALF_MAXIMUM = torch.finfo(torch.float16).max  # 65,504


def layer_error(index: Callable, group: FiniteGroup, elements: bool = True, seed: int = 0) -> float:
    """Measure the equivariance error of one group layer with redrawn parameters, for elements that permute pixels.

    elements: False sets the vectors e of the index table to zero.
    """
    layer = randomized(LocalGroupSelfAttention(group, 3, 1, 4, window=3, index=index), seed)
    if not elements:
        nn.init.zeros_(layer.get_parameter("element"))
    x = torch.randn(1, 3, group.order, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return _either_way(layer, x, group, layer)


def index_errors(
    index: Callable, group: FiniteGroup, images: Float[Tensor, "image 1 side side"], seed: int = 0
) -> dict[str, float]:
    """Measure the error of an index table in three places: a layer with every parameter redrawn, and the class map and
    the logits of an untrained network of the released form."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = GroupAttentionNetConfig(
            group=group,
            index=index,
            image_size=images.shape[-1],
            channels=8,
            heads=2,
            window=5,
            blocks=(0, 2),
            expansions=(1, 1),
            crops=(0, 0),
            readout="mean",
            norm_eps=1e-5,
        )
        net = GroupAttentionNet(config).double().eval()

    def classes(images: Tensor) -> Tensor:
        return net.stages(images)["stage_classes"]

    images = images.double()
    return {
        "group layer": layer_error(index, group, seed=seed),
        "map of a network": _either_way(classes, images, group, net),
        "logits of a network": invariance_error(net, images, group),
    }


def _either_way(f: Callable[[Tensor], Tensor], x: Tensor, group: FiniteGroup, module: nn.Module) -> float:
    """The equivariance error of f; with layers as in GSA-Nets, whose pose v is v⁻¹ elsewhere, the smaller one of both
    ways of counting.

    module: what f computes with.
    """

    def renamed(x: Tensor) -> Tensor:
        return f(x[:, :, group.inverse] if x.ndim == 5 else x)[:, :, group.inverse]

    layers = [layer for layer in module.modules() if isinstance(layer, LocalGroupSelfAttention)]
    ways = (f, renamed) if any(layer.forward_offsets for layer in layers) else (f,)
    return min(equivariance_error(way, x, group, exact_elements(group)) for way in ways)


@torch.no_grad()
def error_by_image_size(
    config: GroupAttentionNetConfig, sizes: Sequence[int], seed: int = 0
) -> dict[int, tuple[float, bool]]:
    """Measure the change of the logits under a quarter turn for each side, and whether every pool obeys the size rule.

    Images are random numbers, since a dark border would hide the fault.
    """
    errors = {}
    for size in sizes:
        sized = replace(config, image_size=size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = GroupAttentionNet(sized).double().eval()
            images = torch.rand(1, config.in_channels, size, size, dtype=torch.float64)
        upright = net(images)
        error = (net(rotate(images, 90)) - upright).abs().max() / upright.abs().max()
        errors[size] = (error.item(), sized.obeys_size_rule)
    return errors


@torch.no_grad()
def encodings_along_a_row(offsets: Float[Tensor, " offset"], seed: int = 0) -> dict[str, Float[Tensor, "offset d"]]:
    """Compute three features of untrained encodings of the offsets (x, 0), as released and stable; float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        places = torch.stack([offsets.float(), torch.zeros(len(offsets))], -1)[None]
        return {"as released": PositionAsReleased(10, 3)(places)[0, :, 3:6], "stable": StablePosition(3)(places)[0]}


def first_step(
    config: GroupAttentionNetConfig,
    images: Float[Tensor, "image 1 side side"],
    labels: Int64[Tensor, " image"],
    seed: int = 0,
) -> dict[str, float]:
    """Compute a network's first training step in float32: its loss (nats), and the largest gradient of its positional
    networks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = GroupAttentionNet(replace(config, value_dropout=0.0, attention_dropout=0.0))
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
    of_positions = [p.grad for name, p in net.named_parameters() if ".position." in name]
    return {
        "loss": loss.item(),
        "gradient": max(gradient.abs().max().item() for gradient in of_positions if gradient is not None),
    }
