"""Layers on tokens: random groups, sizes and precisions, as in test_random_cases for the layers on maps."""

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from test_kernels import largest_error
from test_random_cases import (
    EACH_GROUP,
    GROUPS,
    SEEDS,
    assert_agrees_in_every_precision,
    assert_gradients_are_those_of_finite_differences,
    exact,
    in_any_order,
    tries,
)

from e2vit.actions import act
from e2vit.groups import cyclic
from e2vit.layers import LocalGroupSelfAttention
from e2vit.layers.pose import GroupLinear, PoseAttention, PoseBlock, PoseReadout
from e2vit.models.group_attention_net import GroupBlock
from e2vit.models.transformer import MultiHeadAttention
from e2vit.models.vit import Block
from e2vit.testing import randomized

POSITIONS, MODES = st.sampled_from(["bias", "rotary", "none"]), st.sampled_from(["joint", "within_pose"])


def turned_tokens(group, r, x):
    maps = rearrange(x, "batch pose (row column) d -> batch d pose row column", row=round(x.shape[2] ** 0.5))
    return rearrange(act(group, r, maps), "batch d pose row column -> batch pose (row column) d")


def shuffled(group, r, x):
    """Without a place, tokens may come in any order."""
    return x[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(r))]


def unchanged(group, r, x):
    return x


def turned_poses(group, r, x):
    return x[:, group.product[group.inverse[r]]]


ACTIONS = {  # kind of input → how the group acts on input and on output
    "pose": (turned_tokens, turned_tokens),
    "poses": (turned_poses, unchanged),
    "map": (act, act),
    "token": (shuffled, shuffled),
}


def group_block(group, draw, width, heads, side):
    attention = LocalGroupSelfAttention(group, width, heads, 2, window=3, out_channels=width + 2, backend="reference")
    return GroupBlock(attention, width, width + 2, draw(st.integers(0, 1)), 0.0, 1e-3)


def pose_block(group, draw, width, heads, side):
    return PoseBlock(group, side, width, heads, attention=draw(MODES), position=draw(POSITIONS))


LAYERS = {  # layer → the kind of its input, how it is made
    "group linear": ("pose", lambda g, draw, width, heads, side: GroupLinear(g, width, width)),
    "pose attention": (
        "pose",
        lambda g, draw, width, heads, side: PoseAttention(g, side, width, heads, draw(MODES), draw(POSITIONS)),
    ),
    "pose block": ("pose", pose_block),
    "readout": ("poses", lambda g, draw, *sizes: PoseReadout(draw(st.sampled_from(["mean", "mean_max"])))),
    "group block": ("map", group_block),
    "attention": ("token", lambda g, draw, width, heads, side: MultiHeadAttention(width, heads)),
    "block": ("token", lambda g, draw, width, heads, side: Block(width, heads)),
}
SLOW = ("group block",)


@st.composite
def cases(draw, name, groups=GROUPS):
    kind, make = LAYERS[name]
    group, heads, side = draw(groups), draw(st.integers(1, 2)), draw(st.sampled_from([1, 3, 4]))
    width = heads * draw(st.sampled_from([2, 4]))
    layer = randomized(make(group, draw, width, heads, side), draw(st.integers(0, 999)))
    shape = {
        "pose": (group.order, side**2, width),
        "poses": (group.order, width),
        "token": (side + 2, width),
        "map": (width, group.order, side + 2, side + 2),
    }[kind]
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(draw(SEEDS)), dtype=torch.float64)
    elements = exact(group, {"pose": side, "map": side + 2}.get(kind, 1))
    return group, layer, x, elements


@pytest.mark.parametrize("group", EACH_GROUP, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_on_tokens_commutes_with_its_group_in_every_precision(name, group):
    """And single and half precision come to what double precision comes to."""
    before, after = ACTIONS[LAYERS[name][0]]

    @tries(3 if name in SLOW else 10)
    @given(cases(name, in_any_order(group)))
    def check(case):
        group, layer, x, elements = case
        for r in elements:
            assert largest_error([layer(before(group, r, x))], [after(group, r, layer(x))]) < 1e-10
        assert_agrees_in_every_precision(layer, x, slack=2)  # sums are longer here

    check()


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradients_of_every_layer_on_tokens_are_those_of_finite_differences(name):
    @tries(1 if name in SLOW else 4)
    @given(cases(name))
    def check(case):
        _, layer, x, _ = case
        for training in (False, True):  # attention is written out while it trains
            assert_gradients_are_those_of_finite_differences(layer.train(training), x)

    check()


def test_another_group_than_the_layers_breaks_it():
    layer = randomized(PoseBlock(cyclic(1), 3, 4, 2))
    x = torch.randn(2, 1, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned = x.unflatten(2, (3, 3)).rot90(1, (2, 3)).flatten(2, 3)
    assert largest_error([layer(turned)], [layer(x).unflatten(2, (3, 3)).rot90(1, (2, 3)).flatten(2, 3)]) > 1e-2
