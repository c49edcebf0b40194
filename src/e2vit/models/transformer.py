"""The original transformer: an encoder that reads a sequence, a decoder that writes one.

Source: Vaswani et al. (2017), "Attention is all you need", with its order of operations: each branch is added to what
came in, and the sum is normalized (later models, ours among them, normalize first).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from e2vit.models.classifier import check_counts


@dataclass(frozen=True)
class TransformerConfig:
    vocabulary: int = 13  # different tokens; the default: ten digits, start, end, padding
    padding: int = 12  # the token that fills up short sequences and is never attended to
    width: int = 64  # features per token
    heads: int = 4
    depth: int = 2  # blocks of the encoder, and as many of the decoder
    expansion: int = 4  # hidden features of the MLP, in widths
    dropout: float = 0.0

    def __post_init__(self):
        check_counts(self, vocabulary=1, padding=0, width=1, heads=1, depth=0, expansion=1)
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width {self.width} is not an even multiple of heads {self.heads}")
        if not 0 <= self.padding < self.vocabulary:
            raise ValueError(f"padding {self.padding} is not one of the {self.vocabulary} tokens")


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
    """softmax(q kᵀ / √head_dim) v for each head, through torch's fused attention; ``capture`` shows the weights."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)  # queries, keys and values, one after the other
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "batch query d"],
        memory: Float[Tensor, "batch key d"] | None = None,
        mask: Bool[Tensor, "#batch #query key"] | None = None,
    ) -> Float[Tensor, "batch query d"]:
        """Queries from x, keys and values from memory; from x, too, without one: self-attention.

        mask: True where a query may look. A query without such a key gets NaN.
        """
        if memory is None:
            q, k, v = self.qkv(x).chunk(3, -1)
        else:
            width = x.shape[-1]
            q = F.linear(x, self.qkv.weight[:width], self.qkv.bias[:width])
            k, v = F.linear(memory, self.qkv.weight[width:], self.qkv.bias[width:]).chunk(2, -1)
        q, k, v = (rearrange(y, "batch token (head d) -> batch head token d", head=self.heads) for y in (q, k, v))
        seen = None if mask is None else mask[:, None]
        mixed = F.scaled_dot_product_attention(q, k, v, seen, self.dropout if self.training else 0.0)
        return self.out(rearrange(mixed, "batch head query d -> batch query (head d)"))


class EncoderBlock(nn.Module):
    """Self-attention, then an MLP for each token; both are added, then normalized."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.attention, self.mlp = MultiHeadAttention(config.width, config.heads), _mlp(config)
        self.attention_norm, self.mlp_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "batch token d"], mask: Bool[Tensor, "#batch #token token"]
    ) -> Float[Tensor, "batch token d"]:
        x = self.attention_norm(x + self.dropout(self.attention(x, mask=mask)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class DecoderBlock(nn.Module):
    """Self-attention to what was written, cross-attention to what was read, then an MLP."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.attention = MultiHeadAttention(config.width, config.heads)
        self.cross_attention, self.mlp = MultiHeadAttention(config.width, config.heads), _mlp(config)
        self.attention_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(config.width) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch target d"],
        memory: Float[Tensor, "batch source d"],
        mask: Bool[Tensor, "#batch target target"],
        memory_mask: Bool[Tensor, "#batch #target source"],
    ) -> Float[Tensor, "batch target d"]:
        x = self.attention_norm(x + self.dropout(self.attention(x, mask=mask)))
        x = self.cross_norm(x + self.dropout(self.cross_attention(x, memory, memory_mask)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class Encoder(nn.Module):
    """Token numbers become vectors, get their positions, and attend to each other."""

    def __init__(self, config: TransformerConfig = TransformerConfig()):
        super().__init__()
        self.config, self.embedding = config, _embedding(config)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.depth))

    def forward(self, source: Int64[Tensor, "batch source"]) -> Float[Tensor, "batch source d"]:
        x, mask = _embedded(self.embedding, source), _visible(source, self.config)
        for block in self.blocks:
            x = block(x, mask)
        return x


class Decoder(nn.Module):
    """Writes token by token: place t sees the tokens up to t and everything that the encoder read."""

    def __init__(self, config: TransformerConfig = TransformerConfig()):
        super().__init__()
        self.config, self.embedding = config, _embedding(config)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.depth))

    def forward(
        self,
        target: Int64[Tensor, "batch target"],
        memory: Float[Tensor, "batch source d"],
        memory_mask: Bool[Tensor, "batch 1 source"],
    ) -> Float[Tensor, "batch target d"]:
        x, mask = _embedded(self.embedding, target), causal_mask(target.shape[1])[None].to(target.device)
        for block in self.blocks:
            x = block(x, memory, mask, memory_mask)
        return x


class Transformer(nn.Module):
    """Encoder and decoder, and a linear map from the decoder's vectors to scores for the next token."""

    def __init__(self, config: TransformerConfig = TransformerConfig()):
        super().__init__()
        if not isinstance(config, TransformerConfig):
            raise TypeError(f"Transformer takes a configuration such as TransformerConfig(), not {config!r}")
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.head = nn.Linear(config.width, config.vocabulary)

    def forward(
        self, source: Int64[Tensor, "batch source"], target: Int64[Tensor, "batch target"]
    ) -> Float[Tensor, "batch target vocabulary"]:
        """Scores of the token that follows each token of the target."""
        memory = self.encoder(source)
        return self.head(self.decoder(target, memory, _visible(source, self.config)))

    @torch.inference_mode()
    def generate(self, source: Int64[Tensor, "batch source"], start: int, length: int) -> Int64[Tensor, "batch length"]:
        """Writes ``length`` tokens after ``start``, each the one with the highest score."""
        memory, visible = self.encoder(source), _visible(source, self.config)
        target = source.new_full((len(source), 1), start)
        for _ in range(length):
            scores = self.head(self.decoder(target, memory, visible)[:, -1])
            target = torch.cat([target, scores.argmax(-1, keepdim=True)], 1)
        return target[:, 1:]


def _embedding(config: TransformerConfig) -> nn.Embedding:
    embedding = nn.Embedding(config.vocabulary, config.width)
    nn.init.normal_(embedding.weight, std=config.width**-0.5)  # of size 1 once multiplied by √width
    return embedding


def _embedded(embedding: nn.Embedding, tokens: Int64[Tensor, "batch token"]) -> Float[Tensor, "batch token d"]:
    x = embedding(tokens) * math.sqrt(embedding.embedding_dim)
    return x + sinusoidal_positions(tokens.shape[1], embedding.embedding_dim).to(x)


def _visible(tokens: Int64[Tensor, "batch token"], config: TransformerConfig) -> Bool[Tensor, "batch 1 token"]:
    """True for every token but padding."""
    return (tokens != config.padding)[:, None]


def _mlp(config: TransformerConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(config.width, config.expansion * config.width),
        nn.ReLU(),
        nn.Linear(config.expansion * config.width, config.width),
    )
