"""Two toy tasks on sequences for the original transformer. Training takes seconds on one core.

Reversal: read digits, write them backwards. Pronouns: find the noun that the word "it" stands for.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float, Int64
from torch import Tensor, nn

from e2vit.models.transformer import Encoder, Transformer, TransformerConfig

START, END, PADDING = 10, 11, 12  # after the ten digits
Network = TypeVar("Network", bound=nn.Module)
Batch = tuple[Int64[Tensor, "batch source"], Int64[Tensor, "batch target"]]

ANIMATE = ("animal", "dog", "cat", "horse", "child", "bird", "fox", "goat")
PLACES = ("street", "river", "bridge", "field", "road", "lake", "valley", "square")
OF_ANIMATE, OF_PLACES = ("tired", "hungry", "afraid", "asleep"), ("wide", "long", "flooded", "closed")
TEMPLATES = (
    "the {animate} did not cross the {place} because it was {property}",
    "because it was {property} the {place} did not suit the {animate}",
)
OTHERS = ("the", "did", "not", "cross", "suit", "because", "it", "was", "[none]")
WORDS = (*ANIMATE, *PLACES, *OF_ANIMATE, *OF_PLACES, *OTHERS)


@dataclass(frozen=True)
class Lesson:
    """The training of a toy: steps of AdamW, the rate rising for a twentieth of them, then falling to zero.

    With 0 steps the network stays as initialized.
    """

    steps: int = 1500
    batch_size: int = 128
    learning_rate: float = 3e-3

    def __post_init__(self):
        if self.steps < 0 or self.batch_size < 1 or not 0 < self.learning_rate < math.inf:
            raise ValueError("steps must be at least 0, batch_size at least 1, and learning_rate positive and finite")


def reversal_batch(
    count: int, generator: torch.Generator, *, held_out: bool, shortest: int = 3, longest: int = 8
) -> Batch:
    """Draw random digits with an end mark; and a start mark, the same digits backwards, an end mark; padded.

    held_out: draw from the tenth of all sequences whose digit sum ends in 0 (True), or from the others (False).
    """
    if not 1 <= shortest <= longest:
        raise ValueError(f"lengths must satisfy 1 ≤ shortest ≤ longest, not {shortest} and {longest}")
    digits = torch.randint(10, (count, longest), generator=generator)
    length = torch.randint(shortest, longest + 1, (count, 1), generator=generator)
    place = torch.arange(longest)
    digits[place >= length] = 0
    rest = digits.sum(1) - digits[:, 0]
    offset = torch.zeros(count, dtype=torch.long) if held_out else torch.randint(1, 10, (count,), generator=generator)
    digits[:, 0] = (offset - rest) % 10  # the first digit settles the last digit of the sum
    source = torch.full((count, longest + 1), PADDING)
    source[:, :longest] = torch.where(place < length, digits, PADDING)
    source.scatter_(1, length, END)
    backwards = digits.gather(1, (length - 1 - place).clamp(min=0))
    target = torch.full((count, longest + 2), PADDING)
    target[:, 0] = START
    target[:, 1:-1] = torch.where(place < length, backwards, PADDING)
    target.scatter_(1, length + 1, END)
    return source, target


def train_reversal(config: TransformerConfig, lesson: Lesson, seed: int = 0) -> tuple[Transformer, list[float]]:
    """Train a transformer to write sequences backwards; return it and its loss (nats per token) at every step."""
    generator = torch.Generator().manual_seed(seed)
    model = _seeded(lambda: Transformer(config), seed)

    def losses() -> Iterator[Tensor]:
        while True:
            source, target = reversal_batch(lesson.batch_size, generator, held_out=False)
            scores = model(source, target[:, :-1])
            yield F.cross_entropy(scores.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PADDING)

    return model, _fit(model, losses(), lesson)


def exact_match(model: Transformer, source: Int64[Tensor, "n source"], target: Int64[Tensor, "n target"]) -> float:
    """The fraction of sequences that the model writes without error, end mark included."""
    written = model.generate(source, START, target.shape[1] - 1)
    expected = target[:, 1:]
    return ((written == expected) | (expected == PADDING)).all(1).float().mean().item()


@dataclass(frozen=True)
class Sentences:
    """words: (n, token) numbers into WORDS; it: the place of "it"; noun: the word that "it" stands for."""

    words: Int64[Tensor, "n token"]
    it: Int64[Tensor, " n"]
    noun: Int64[Tensor, " n"]


def sentences(*, held_out: bool) -> Sentences:
    """All sentences of the toy language; a quarter of the pairs of nouns is held out for testing."""
    rows = []
    for i, animate in enumerate(ANIMATE):
        for j, place in enumerate(PLACES):
            if ((i + j) % 4 == 0) == held_out:
                rows += [
                    (template.format(animate=animate, place=place, property=p), noun)
                    for template in TEMPLATES
                    for noun, properties in ((animate, OF_ANIMATE), (place, OF_PLACES))
                    for p in properties
                ]
    words = torch.stack([to_numbers(text) for text, _ in rows])
    noun = torch.tensor([WORDS.index(noun) for _, noun in rows])
    return Sentences(words, words.eq(WORDS.index("it")).int().argmax(1), noun)


def to_numbers(text: str) -> Int64[Tensor, " token"]:
    """Numbers into WORDS for a sentence of the toy language. Error: ValueError for a word outside it."""
    if unknown := [word for word in text.split() if word not in WORDS]:
        raise ValueError(f"the toy language has no word {unknown[0]!r}")
    return torch.tensor([WORDS.index(word) for word in text.split()])


class PronounReader(nn.Module):
    """An encoder, then one attention from a chosen word to all words.

    Its values are the plain word embeddings, without a projection, so that the weights alone decide.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.encoder = Encoder(config)
        self.query, self.key = nn.Linear(config.width, config.width), nn.Linear(config.width, config.width)
        self.normalize = nn.Softmax(dim=-1)

    def weights(self, words: Int64[Tensor, "n token"], it: Int64[Tensor, " n"]) -> Float[Tensor, "n token"]:
        """The weight of each word when the word at place ``it`` is encoded; positive, sum 1."""
        x = self.encoder(words)
        q, k = self.query(x[torch.arange(len(x)), it]), self.key(x)
        return self.normalize(einsum(q, k, "n d, n token d -> n token") / math.sqrt(q.shape[-1]))

    def forward(self, words: Int64[Tensor, "n token"], it: Int64[Tensor, " n"]) -> Float[Tensor, "n vocabulary"]:
        """The dot product of the weighted sum with the embedding of every word of the vocabulary."""
        embedding = self.encoder.embedding.weight
        mixed = einsum(self.weights(words, it), embedding[words], "n token, n token d -> n d")
        return mixed @ embedding.T * math.sqrt(embedding.shape[1])


def train_pronouns(lesson: Lesson, seed: int = 0) -> tuple[PronounReader, list[float]]:
    """Train a network to turn "it" into the noun that is meant; return it and its loss (nats) at every step."""
    config = TransformerConfig(vocabulary=len(WORDS), padding=WORDS.index("[none]"), width=32, heads=2, depth=1)
    generator = torch.Generator().manual_seed(seed)
    model, seen = _seeded(lambda: PronounReader(config), seed), sentences(held_out=False)

    def losses() -> Iterator[Tensor]:
        while True:
            rows = torch.randint(len(seen.words), (lesson.batch_size,), generator=generator)
            yield F.cross_entropy(model(seen.words[rows], seen.it[rows]), seen.noun[rows])

    return model, _fit(model, losses(), lesson)


def _seeded(make: Callable[[], Network], seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _fit(model: nn.Module, losses: Iterator[Tensor], lesson: Lesson) -> list[float]:
    """Train the model in place on the losses of the iterator; return them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lesson.learning_rate, betas=(0.9, 0.98), weight_decay=1e-4)
    warmup = max(1, lesson.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / max(lesson.steps, 1)))
    )
    curve = []
    for _ in range(lesson.steps):
        loss = next(losses)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        curve.append(loss.item())
    model.eval()
    return curve
