"""The transformer block: attention, then an MLP, each normalized before and added to what came in.

Source: Vaswani et al. (2017), with the normalization first (Xiong et al., 2020).
"""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention through torch's fused kernel."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "batch token d"], bias: Float[Tensor, "#batch head token token"] | None = None
    ) -> Float[Tensor, "batch token d"]:
        """bias: added to the scores before the softmax, one for each head, query and key."""
        q, k, v = rearrange(self.qkv(x), "batch token (p head d) -> p batch head token d", p=3, head=self.heads)
        x = F.scaled_dot_product_attention(q, k, v, bias, dropout_p=self.dropout if self.training else 0.0)
        return self.out(rearrange(x, "batch head token d -> batch token (head d)"))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, expansion: int = 4, dropout: float = 0.0):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, expansion * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(expansion * width, width),
            nn.Dropout(dropout),
        )

    def forward(
        self, x: Float[Tensor, "batch token d"], bias: Float[Tensor, "#batch head token token"] | None = None
    ) -> Float[Tensor, "batch token d"]:
        x = x + self.attention(self.attention_norm(x), bias)
        return x + self.mlp(self.mlp_norm(x))
