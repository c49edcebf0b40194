"""Attention scores, counted while a model runs, against formulas written by hand."""

import pytest
import torch

from e2vit.groups import cyclic, dihedral
from e2vit.layers import LocalGroupSelfAttention
from e2vit.models import (
    GCNN,
    GCNNConfig,
    GroupAttentionNet,
    GroupAttentionNetConfig,
    HybridViT,
    HybridViTConfig,
    Symmetrized,
    ViT,
    ViTConfig,
)
from e2vit.models.counting import attention_scores

DIGIT = torch.zeros(1, 1, 28, 28)
SIDES = (28, 28, 24, 12, 8, 6)  # maps of the lifting layer and of the five group layers of the released network


def released(order: int, window: int = 9, power: int = 3) -> int:
    return 9 * window**2 * sum((order if layer == 0 else order**power) * side**2 for layer, side in enumerate(SIDES))


@pytest.mark.parametrize(
    "model, expected",
    [
        (ViT(ViTConfig()), 6 * 4 * 49**2),
        (ViT(ViTConfig(readout="class_token", depth=1)), 4 * 50**2),
        (
            HybridViT(HybridViTConfig(heads=2, depth=3, width=8, stem=(2, 4, 4), attention="within_pose")),
            3 * 2 * 4 * 49**2,
        ),
        (
            HybridViT(HybridViTConfig(heads=2, depth=3, width=8, stem=(2, 4, 4), group=dihedral(4))),
            3 * 2 * (8 * 49) ** 2,
        ),
        (GCNN(GCNNConfig.p4cnn()), 0),
        (Symmetrized(ViT(ViTConfig(depth=1)), cyclic(16), interpolation="bilinear"), 16 * 4 * 49**2),
        (GroupAttentionNet(GroupAttentionNetConfig()), released(4)),
        (GroupAttentionNet(GroupAttentionNetConfig(group=dihedral(4), window=5)), released(8, window=5)),
        (GroupAttentionNet(GroupAttentionNetConfig(query_pose="diagonal")), released(4, power=2)),
    ],
    ids=["vit", "class token", "hybrid", "joint", "gcnn", "16 views", "c4", "d4", "diagonal"],
)
def test_the_count_is_that_of_the_formula(model, expected):
    assert attention_scores(model, DIGIT) == expected
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_two_images_have_twice_the_scores():
    assert attention_scores(ViT(), torch.zeros(2, 1, 28, 28)) == 2 * attention_scores(ViT(), DIGIT)


def test_the_lifting_layer_of_the_published_count_and_the_layer_after_it():
    lifting = LocalGroupSelfAttention(cyclic(4), channels=1, heads=9, head_dim=10, window=9, lifting=True)
    assert attention_scores(lifting, DIGIT) == 81 * 28 * 28 * 9 * 4 == 2_286_144
    assert released(4) > 33 * 2_286_144
