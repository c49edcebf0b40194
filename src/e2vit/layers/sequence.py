"""What the original transformer is made of: attention with several heads, positions as waves, and masks.

Everything is written out, where ``layers/block.py`` calls torch's fused kernel: here the weights are to be looked at.
Source: Vaswani et al. (2017), "Attention is all you need".
"""

import math

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn


def frequencies(d: int) -> Float[Tensor, " pair"]:
    """The d/2 angular frequencies of the sinusoidal encoding, from 1 down to almost 1/10000 radians per place."""
    if d < 2 or d % 2:
        raise ValueError(f"sines and cosines come in pairs: {d} features are not an even number of at least 2")
    return 10_000.0 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)


def sinusoidal_positions(length: int, d: int) -> Float[Tensor, "place d"]:
    """Each place as d numbers in [−1, 1]: sine and cosine, side by side, of the place at d/2 frequencies. float64."""
    radians = torch.outer(torch.arange(length, dtype=torch.float64), frequencies(d))
    return rearrange([radians.sin(), radians.cos()], "p place pair -> place (pair p)")


def shift_matrix(places: float | int, d: int) -> Float[Tensor, "d d"]:
    """The matrix M with ``positions[t + places] = M @ positions[t]`` for every t: d/2 rotations of the plane."""
    radians = frequencies(d) * places
    sine, cosine = radians.sin(), radians.cos()
    blocks = rearrange([cosine, sine, -sine, cosine], "(row column) pair -> pair row column", row=2)
    return torch.block_diag(*blocks)


def causal_mask(length: int) -> Bool[Tensor, "query key"]:
    """True where a query may look: at its own place and at those before it."""
    return torch.ones(length, length, dtype=torch.bool).tril()


class MultiHeadAttention(nn.Module):
    """Each query receives a weighted mean of values, once for each head; the weights are softmax(q kᵀ / √head_dim)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.normalize = nn.Softmax(dim=-1)  # a submodule, so that a hook can see the attention map

    def forward(
        self,
        x: Float[Tensor, "batch query d"],
        memory: Float[Tensor, "batch key d"],
        mask: Bool[Tensor, "#batch #query key"] | None = None,
    ) -> Float[Tensor, "batch query d"]:
        """x asks, memory answers; x twice is self-attention.

        mask: True where a query may look. Every query needs one such key; else its result is not a number.
        """
        q, k, v = (
            rearrange(project(y), "batch token (head d) -> batch head token d", head=self.heads)
            for project, y in ((self.query, x), (self.key, memory), (self.value, memory))
        )
        scores = einsum(q, k, "batch head query d, batch head key d -> batch head query key") / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -math.inf)
        weights = self.normalize(scores)
        mixed = einsum(weights, v, "batch head query key, batch head key d -> batch head query d")
        return self.out(rearrange(mixed, "batch head query d -> batch query (head d)"))
