"""The models of the book, each with its configuration beside it."""

from e2vit.models.gcnn import GCNN, GCNNConfig
from e2vit.models.group_attention_net import GroupAttentionNet, GroupAttentionNetConfig
from e2vit.models.hybrid import HybridViT, HybridViTConfig
from e2vit.models.octic import OcticViT, OcticViTConfig
from e2vit.models.pooled_hybrid import PooledHybrid, PooledHybridConfig
from e2vit.models.symmetrized import Symmetrized, SymmetrizedConfig
from e2vit.models.transformer import Transformer, TransformerConfig
from e2vit.models.vit import ViT, ViTConfig

__all__ = [
    "GCNN",
    "GCNNConfig",
    "GroupAttentionNet",
    "GroupAttentionNetConfig",
    "HybridViT",
    "HybridViTConfig",
    "OcticViT",
    "OcticViTConfig",
    "PooledHybrid",
    "PooledHybridConfig",
    "Symmetrized",
    "SymmetrizedConfig",
    "Transformer",
    "TransformerConfig",
    "ViT",
    "ViTConfig",
]
