"""E(2)-equivariant vision transformers: groups, layers, models, and a wrapper that makes any classifier invariant.

The public names are loaded when they are first used, so that ``import e2vit`` is quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "groups": "FiniteGroup cyclic dihedral from_matrices gsa_index gevit_index cayley_index "
    "is_equivariant_table is_diagonal_invariant",
    "actions": "act act_tokens orbit rotate equivariance_error invariance_error is_exact",
    "layers": "GroupSelfAttention LocalGroupSelfAttention LiftingConv GroupConv",
    "models": "Transformer TransformerConfig ViT ViTConfig GCNN GCNNConfig GroupAttentionNet GroupAttentionNetConfig "
    "HybridViT HybridViTConfig OcticViT OcticViTConfig Symmetrized SymmetrizedConfig",
    "models.symmetrized": "AGGREGATES",
    "experiments": "EXPERIMENTS run",
    "pretrained": "load from_pretrained save_pretrained",
    "testing": "check randomized assert_equivariant",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}
_MODULES = (
    "actions capture data experiments export groups kernels layers metrics models pretrained testing training".split()
)

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"e2vit.{_MODULE_OF[name]}"), name)
    if name in _MODULES:
        return import_module(f"e2vit.{name}")
    raise AttributeError(f"module 'e2vit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF, *_MODULES])
