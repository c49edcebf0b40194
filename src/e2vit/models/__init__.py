"""The models of the book, each with its configuration beside it.

Every classifier of images follows one protocol, so that training, symmetrization, capture and export serve all of them:

- ``Model(config)``; its configuration is a frozen dataclass with ``image_size`` (pixels), ``in_channels``, ``classes``,
  the number of ``attention_scores`` of one image in one pass, and ``tiny()``, the same kind of network, small enough
  for a short test run. It is checked when it is built.
- ``model.config``; ``model.features(images)`` → (batch, d); ``model.head``, a module; ``model(images)`` → logits
  (batch, classes). ``ImageClassifier`` checks the images.

MODELS lists them, configuration → model. To add one: a module here, and a line in that table.
"""

from torch import nn

from e2vit.models.gcnn import GCNN, GCNNConfig
from e2vit.models.group_attention_net import GroupAttentionNet, GroupAttentionNetConfig
from e2vit.models.hybrid import HybridViT, HybridViTConfig
from e2vit.models.octic import OcticViT, OcticViTConfig
from e2vit.models.pooled_hybrid import PooledHybrid, PooledHybridConfig
from e2vit.models.symmetrized import Symmetrized, SymmetrizedConfig
from e2vit.models.transformer import Transformer, TransformerConfig
from e2vit.models.vit import ViT, ViTConfig

MODELS: dict[type, type[nn.Module]] = {
    ViTConfig: ViT,
    HybridViTConfig: HybridViT,
    GroupAttentionNetConfig: GroupAttentionNet,
    GCNNConfig: GCNN,
    PooledHybridConfig: PooledHybrid,
    OcticViTConfig: OcticViT,
}

__all__ = [
    "MODELS",
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
