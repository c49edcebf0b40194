"""The original transformer: agreement with torch's own layers, masks, sinusoidal positions, and the two toy tasks."""

import pytest
import torch
from torch import nn

from e2vit.models import Transformer, TransformerConfig
from e2vit.models.transformer import EncoderBlock, MultiHeadAttention, frequencies, shift_matrix, sinusoidal_positions
from e2vit.testing import randomized
from e2vit_book.recap.tasks import (
    END,
    PADDING,
    START,
    Lesson,
    exact_match,
    reversal_batch,
    sentences,
    to_numbers,
    train_pronouns,
    train_reversal,
)

CONFIG = TransformerConfig(vocabulary=17, padding=16, width=12, heads=3, depth=2, expansion=2)


def torch_twin(ours: MultiHeadAttention) -> nn.MultiheadAttention:
    twin = nn.MultiheadAttention(ours.qkv.in_features, ours.heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        twin.in_proj_weight.copy_(ours.qkv.weight)
        twin.in_proj_bias.copy_(ours.qkv.bias)
        twin.out_proj.load_state_dict(ours.out.state_dict())
    return twin.eval()


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(16, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_attention_is_what_torch_computes(heads):
    ours = randomized(MultiHeadAttention(12, heads))
    x, memory = torch.randn(2, 5, 12, dtype=torch.float64), torch.randn(2, 7, 12, dtype=torch.float64)
    mask = torch.rand(5, 7) < 0.6
    mask[:, 0] = True
    expected, _ = torch_twin(ours)(x, memory, memory, attn_mask=~mask)
    assert (ours(x, memory, mask[None]) - expected).abs().max() < 1e-10
    assert (ours(x) - torch_twin(ours)(x, x, x)[0]).abs().max() < 1e-10
    assert (ours(x, memory) - expected).abs().max() > 1e-2  # the mask matters


def test_an_encoder_block_is_what_torch_computes():
    ours = randomized(EncoderBlock(CONFIG))
    theirs = nn.TransformerEncoderLayer(12, 3, 24, dropout=0, batch_first=True, dtype=torch.float64).train()
    theirs.self_attn = torch_twin(ours.attention)
    for mine, name in (
        (ours.attention_norm, "norm1"),
        (ours.mlp_norm, "norm2"),
        (ours.mlp[0], "linear1"),
        (ours.mlp[2], "linear2"),
    ):
        getattr(theirs, name).load_state_dict(mine.state_dict())
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    assert (ours(x, torch.ones(1, 1, 5, dtype=torch.bool)) - theirs(x)).abs().max() < 1e-10


def test_later_tokens_do_not_change_earlier_answers():
    model, source, target = randomized(Transformer(CONFIG)), tokens(3, 7), tokens(3, 6, seed=1)
    changed = target.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 16
    before, after = model(source, target), model(source, changed)
    assert (before - after)[:, :4].abs().max() < 1e-10
    assert (before - after)[:, 4:].abs().max() > 1e-3


def test_padding_changes_nothing_and_other_tokens_do():
    model, source, target = randomized(Transformer(CONFIG)), tokens(3, 7), tokens(3, 5, seed=1)
    padded = torch.cat([source, torch.full((3, 2), CONFIG.padding)], 1)
    assert (model(source, target) - model(padded, target)).abs().max() < 1e-10
    padded[:, -1] = 0
    assert (model(source, target) - model(padded, target)).abs().max() > 1e-3


def test_generated_tokens_are_those_with_the_highest_score():
    model, source = randomized(Transformer(CONFIG)), tokens(3, 7)
    written = model.generate(source, start=2, length=6)
    begun = torch.cat([torch.full((3, 1), 2), written[:, :-1]], 1)
    assert torch.equal(model(source, begun).argmax(-1), written)


@pytest.mark.parametrize("places", [1, -3, 20])
def test_a_shift_is_a_linear_map_of_the_sinusoidal_positions(places):
    d, positions = 14, sinusoidal_positions(80, 14)
    matrix = shift_matrix(places, d)
    rows = torch.arange(3, 44)
    assert (positions[rows + places] - positions[rows] @ matrix.T).abs().max() < 1e-10
    assert (matrix @ matrix.T - torch.eye(d, dtype=torch.float64)).abs().max() < 1e-10
    assert (positions[rows + places + 1] - positions[rows] @ matrix.T).abs().max() > 1e-2
    products = (positions[rows] * positions[rows + places]).sum(1)
    assert (products - products[0]).abs().max() < 1e-10  # it depends on the distance alone


def test_sinusoidal_positions_follow_the_formula():
    positions = sinusoidal_positions(5, 6)
    assert torch.allclose(positions[3, 2], torch.tensor(3 / 10_000 ** (2 / 6), dtype=torch.float64).sin())
    assert torch.allclose(positions[4, 5], torch.tensor(4 / 10_000 ** (4 / 6), dtype=torch.float64).cos())
    assert frequencies(6)[0] == 1


@pytest.mark.parametrize("held_out", [True, False])
def test_targets_are_the_sources_backwards(held_out):
    source, target = reversal_batch(200, torch.Generator().manual_seed(3), held_out=held_out, shortest=2, longest=6)
    for read, written in zip(source.tolist(), target.tolist(), strict=True):
        digits = read[: read.index(END)]
        assert written[: len(digits) + 2] == [START, *digits[::-1], END]
        assert set(read[len(digits) + 1 :] + written[len(digits) + 2 :]) <= {PADDING}
        assert 2 <= len(digits) <= 6 and max(digits) < 10
        assert (sum(digits) % 10 == 0) == held_out


def test_every_digit_is_as_likely_at_every_place():
    source, _ = reversal_batch(20_000, torch.Generator().manual_seed(0), held_out=False, shortest=4, longest=4)
    for place in range(4):
        shares = torch.bincount(source[:, place], minlength=10) / len(source)
        assert (shares - 0.1).abs().max() < 0.02


def test_a_short_lesson_teaches_something_and_the_seed_decides_it():
    config, lesson = TransformerConfig(width=16, heads=2, depth=1), Lesson(steps=40, batch_size=32)
    model, losses = train_reversal(config, lesson)
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    assert train_reversal(config, lesson)[1] == losses
    assert train_reversal(config, lesson, seed=1)[1] != losses
    source, target = reversal_batch(50, torch.Generator().manual_seed(1), held_out=True)
    assert 0 <= exact_match(model, source, target) < 1


def test_sentences_held_out_share_no_pair_of_nouns_with_the_others():
    seen, unseen = sentences(held_out=False), sentences(held_out=True)
    pairs = [{tuple(w for w in row if w < 16) for row in part.words.tolist()} for part in (seen, unseen)]
    assert pairs[0].isdisjoint({pair for row in pairs[1] for pair in (row, row[::-1])})
    assert len(unseen.words) * 3 == len(seen.words)


def test_it_comes_to_stand_for_the_noun_that_is_meant():
    model, _ = train_pronouns(Lesson(steps=150, batch_size=64))
    unseen = sentences(held_out=True)
    assert (model(unseen.words, unseen.it).argmax(1) == unseen.noun).float().mean() > 0.9
    weights = model.weights(unseen.words, unseen.it)
    assert (weights.sum(1) - 1).abs().max() < 1e-5
    meant = (unseen.words == unseen.noun[:, None]).float()
    assert (weights * meant).sum(1).mean() > 0.7


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Lesson(steps=-1),
        lambda: Lesson(learning_rate=float("nan")),
        lambda: sinusoidal_positions(4, 5),
        lambda: MultiHeadAttention(10, 3),
        lambda: to_numbers("the whale"),
        lambda: reversal_batch(2, torch.Generator(), held_out=True, shortest=4, longest=3),
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        wrong()
