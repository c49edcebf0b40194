"""The parts that models are built from."""

from e2vit.layers.attention import GroupSelfAttention, LocalGroupSelfAttention
from e2vit.layers.convolution import GroupConv, LiftingConv

__all__ = ["GroupConv", "GroupSelfAttention", "LiftingConv", "LocalGroupSelfAttention"]
