"""Layers on tokens: random groups, sizes and precisions, as in test_random_cases for the layers on maps."""

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from test_kernels import largest_error
from test_random_cases import EXACT, SEEDS, assert_agrees_in_every_precision, tries
from torch import nn

from e2vit.actions import act
from e2vit.groups import cyclic
from e2vit.layers import LocalGroupSelfAttention
from e2vit.layers.pose import GroupLinear, PoseAttention, PoseBlock, PoseReadout
from e2vit.models.group_attention_net import GroupBlock
from e2vit.models.transformer import MultiHeadAttention
from e2vit.models.vit import Block
from e2vit.testing import randomized

POSITIONS, MODES = st.sampled_from(["bias", "rotary", "none"]), st.sampled_from(["joint", "within_pose"])


class AskingItself(nn.Module):
    """Attention between two sequences as attention within one."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = MultiHeadAttention(width, heads)

    def forward(self, x):
        return self.attention(x, x)


def maps(x, side: int):
    return rearrange(x, "batch pose (row column) d -> batch d pose row column", row=side)


def tokens(x):
    return rearrange(x, "batch d pose row column -> batch pose (row column) d")


def turned_tokens(group, r, x, side):
    return tokens(act(group, r, maps(x, side)))


def shuffled(group, r, x, side):
    """Without a place, tokens may come in any order."""
    return x[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(r))]


def unchanged(group, r, x, side):
    return x


def turned_maps(group, r, x, side):
    return act(group, r, x)


def turned_poses(group, r, x, side):
    return x[:, group.product[group.inverse[r]]]


# layer → how it is made, the shape of its input without the batch, how the group acts on input and on output
LAYERS = {
    "group linear": (
        lambda g, draw, width, heads, side: GroupLinear(g, width, width),
        "pose",
        turned_tokens,
        turned_tokens,
    ),
    "pose attention": (
        lambda g, draw, width, heads, side: PoseAttention(g, side, width, heads, draw(MODES), draw(POSITIONS)),
        "pose",
        turned_tokens,
        turned_tokens,
    ),
    "pose block": (
        lambda g, draw, width, heads, side: PoseBlock(
            g, side, width, heads, attention=draw(MODES), position=draw(POSITIONS)
        ),
        "pose",
        turned_tokens,
        turned_tokens,
    ),
    "readout": (
        lambda g, draw, width, heads, side: PoseReadout(draw(st.sampled_from(["mean", "mean_max"]))),
        "poses",
        turned_poses,
        unchanged,
    ),
    "group block": (
        lambda g, draw, width, heads, side: GroupBlock(
            LocalGroupSelfAttention(g, width, heads, 2, window=3, out_channels=width + 2, backend="reference"),
            width,
            width + 2,
            draw(st.integers(0, 1)),
            0.0,
            1e-3,
        ),
        "map",
        turned_maps,
        turned_maps,
    ),
    "attention": (lambda g, draw, width, heads, side: MultiHeadAttention(width, heads), "token", shuffled, shuffled),
    "block": (lambda g, draw, width, heads, side: Block(width, heads), "token", shuffled, shuffled),
    "attention to itself": (
        lambda g, draw, width, heads, side: AskingItself(width, heads),
        "token",
        shuffled,
        shuffled,
    ),
}
SLOW = ("group block",)


@st.composite
def cases(draw, name):
    make, shape, *actions = LAYERS[name]
    group, heads, side = draw(EXACT), draw(st.integers(1, 2)), draw(st.integers(3, 4))
    width = heads * draw(st.sampled_from([2, 4]))
    layer = randomized(make(group, draw, width, heads, side), draw(st.integers(0, 999)))
    shape = {
        "pose": (group.order, side**2, width),
        "poses": (group.order, width),
        "token": (side, width),
        "map": (width, group.order, side + 2, side + 2),
    }[shape]
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(draw(SEEDS)), dtype=torch.float64)
    return group, layer, x, side, *actions


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_on_tokens_commutes_with_its_group_in_every_precision(name):
    """And single and half precision come to what double precision comes to."""

    @tries(8 if name in SLOW else 30)
    @given(cases(name))
    def check(case):
        group, layer, x, side, before, after = case
        for r in range(group.order):
            assert largest_error([layer(before(group, r, x, side))], [after(group, r, layer(x), side)]) < 1e-10
        assert_agrees_in_every_precision(layer, x, slack=2)  # sums are longer here

    check()


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradients_of_every_layer_on_tokens_are_those_of_finite_differences(name):
    @tries(1 if name in SLOW else 4)
    @given(cases(name))
    def check(case):
        _, layer, x, *_ = case
        named = [name for name, _ in layer.named_parameters()]

        def function(x, *values):
            return torch.func.functional_call(layer, dict(zip(named, values, strict=True)), (x,))

        values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
        for training in (False, True):  # attention is written out while it trains
            layer.train(training)
            assert torch.autograd.gradcheck(function, (x[:1].requires_grad_(), *values), fast_mode=True)

    check()


def test_another_group_than_the_layers_breaks_it():
    layer = randomized(PoseBlock(cyclic(1), 3, 4, 2))
    x = torch.randn(2, 1, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def turned(x):
        return tokens(torch.rot90(maps(x, 3), 1, (-2, -1)))

    assert largest_error([layer(turned(x))], [turned(layer(x))]) > 1e-2
