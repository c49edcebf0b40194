"""The attention scores that a configuration names are those that its model computes."""

import pytest
import torch

from e2vit.capture import capture
from e2vit.groups import cyclic, dihedral
from e2vit.models import (
    MODELS,
    GCNNConfig,
    GroupAttentionNetConfig,
    HybridViTConfig,
    PooledHybridConfig,
    SymmetrizedConfig,
    ViTConfig,
)

SIDES = (28, 28, 24, 12, 8, 6)  # maps of the lifting layer and of the five group layers of the released network
SMALL = {"image_size": 8, "channels": 8, "heads": 2, "window": 3, "blocks": (1, 1), "crops": (0, 1)}


def released(order: int, window: int = 9, power: int = 3) -> int:
    return 9 * window**2 * sum((order if layer == 0 else order**power) * side**2 for layer, side in enumerate(SIDES))


@pytest.mark.parametrize(
    "config",
    [
        ViTConfig(image_size=12, width=8, depth=3, heads=2),
        ViTConfig(image_size=12, width=8, depth=1, heads=2, readout="class_token"),
        HybridViTConfig(image_size=12, heads=2, depth=3, width=8, stem=(2, 4), attention="within_pose"),
        HybridViTConfig(image_size=12, heads=2, depth=1, width=8, stem=(2, 4), group=dihedral(4)),
        GCNNConfig.p4cnn().tiny(),
        GroupAttentionNetConfig(group=dihedral(2), **SMALL),
        GroupAttentionNetConfig(query_pose="diagonal", **SMALL),
        PooledHybridConfig(HybridViTConfig(image_size=12, stem=(2, 4)), channels=8, heads=1, layers=1, window=3),
    ],
    ids=["vit", "class token", "within a pose", "joint", "gcnn", "group attention", "diagonal", "pooled"],
)
def test_a_configuration_names_the_scores_that_its_model_computes(config):
    model = MODELS[type(config)](config)
    with capture(model) as seen:
        model.eval()(torch.zeros(1, 1, config.image_size, config.image_size))
    assert sum(weights.numel() for weights in seen.attention.values()) == config.attention_scores


def test_the_published_count():
    assert GroupAttentionNetConfig().attention_scores == released(4)
    assert GroupAttentionNetConfig(group=dihedral(4), window=5).attention_scores == released(8, window=5)
    assert GroupAttentionNetConfig(query_pose="diagonal").attention_scores == released(4, power=2)
    assert GroupAttentionNetConfig(window_shape="disc").attention_scores * 81 == released(4) * 69
    assert released(4) > 33 * 81 * 28 * 28 * 9 * 4  # the lifting layer alone
    assert ViTConfig().attention_scores == 6 * 4 * 49**2
    views = SymmetrizedConfig(ViTConfig(), cyclic(16), interpolation="bilinear")
    assert views.attention_scores == 16 * ViTConfig().attention_scores
