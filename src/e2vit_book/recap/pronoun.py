"""A toy that makes attention visible: the vector of "it" becomes a weighted sum of the words of its sentence."""

import math

import torch
from einops import einsum
from jaxtyping import Float, Int64
from torch import Tensor, nn

from e2vit.models.transformer import Encoder, TransformerConfig


class PronounReader(nn.Module):
    """An encoder block gives every word its context; then one attention from a chosen word to all words.

    The values of that attention are the plain word embeddings, with no projection and nothing added, so that its
    weights are all that decides: they are the explanation, where in a large network they are a hint at most.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.encoder = Encoder(config)
        self.query, self.key = nn.Linear(config.width, config.width), nn.Linear(config.width, config.width)
        self.normalize = nn.Softmax(dim=-1)

    def weights(self, words: Int64[Tensor, "n token"], it: Int64[Tensor, " n"]) -> Float[Tensor, "n token"]:
        """How much each word counts when the word at place ``it`` is encoded; positive, sum 1."""
        x = self.encoder(words)
        q, k = self.query(x[torch.arange(len(x)), it]), self.key(x)
        return self.normalize(einsum(q, k, "n d, n token d -> n token") / math.sqrt(q.shape[-1]))

    def forward(self, words: Int64[Tensor, "n token"], it: Int64[Tensor, " n"]) -> Float[Tensor, "n vocabulary"]:
        """For every word of the vocabulary, how much the weighted sum points along its embedding."""
        embedding = self.encoder.embedding.weight
        mixed = einsum(self.weights(words, it), embedding[words], "n token, n token d -> n d")
        return mixed @ embedding.T * math.sqrt(embedding.shape[1])
