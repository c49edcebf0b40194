"""GSA-Nets and GE-ViT: the released networks to the last digit, invariance, the size rule, bad input."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from e2vit.actions import invariance_error
from e2vit.groups import cayley_index, cyclic, dihedral, gevit_index, gsa_index
from e2vit.models import GroupAttentionNet, GroupAttentionNetConfig
from e2vit.models.group_attention_net import GroupBlock
from e2vit.testing import randomized

FOLDERS = [Path(__file__).with_name("golden"), *map(Path, filter(None, [os.environ.get("E2VIT_GOLDEN")]))]
RELEASED = {
    "gevit_z2_w9": (cyclic(1), gevit_index, 9),
    "gevit_mz2_w9": (dihedral(1), gevit_index, 9),
    "gevit_p4_w9": (cyclic(4), gevit_index, 9),
    "gsa_p4_w9": (cyclic(4), gsa_index, 9),
    "gevit_p4m_w5": (dihedral(4), gevit_index, 5),
    "gsa_p4m_w5": (dihedral(4), gsa_index, 5),
}
PRESENT = {path.stem: path for folder in FOLDERS for path in folder.glob("*.npz")}
SMALL = dict(image_size=12, channels=8, heads=2, window=3, blocks=(1, 1), crops=(1, 0), backend="reference")


def golden(name):
    """The released weights, the images that went in and everything that came out."""
    with np.load(PRESENT[name]) as file:
        arrays = {key: file[key] for key in file.files}
    images = torch.from_numpy(arrays.pop("input")).double()
    images[0] = (images[0] * 255).round() / 255  # the digit went in as whole gray values over 255
    state = {key: arrays.pop(key) for key in list(arrays) if key.startswith("state/")}
    return state, images, {key: torch.from_numpy(array).double() for key, array in arrays.items()}


def relative(found, expected):
    return ((found.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", sorted(RELEASED.keys() & PRESENT.keys()))
@torch.no_grad()
def test_parity_with_the_released_networks(name):
    state, images, expected = golden(name)
    for tables, tolerance in (("state", 1e-9), ("own", 1e-6)):
        net = GroupAttentionNet.from_released(state, *RELEASED[name], tables=tables)
        found = net.double().stages(images)
        assert found.keys() == expected.keys()
        for key in expected:
            stored_in_float32 = key in ("stage_lifting", "stage_layer1")
            assert relative(found[key], expected[key]) < (1e-6 if stored_in_float32 else tolerance), key
    assert relative(net.float()(images.float()), expected["logits"]) < 1e-4


def test_the_released_network_without_a_group_is_compared_everywhere():
    """E2VIT_GOLDEN may name a folder with outputs of the released networks over groups, one file each."""
    assert "gevit_z2_w9" in PRESENT and set(PRESENT) <= set(RELEASED)


@pytest.mark.parametrize("name", sorted({"gevit_z2_w9", "gevit_mz2_w9"} & PRESENT.keys()))
@torch.no_grad()
def test_parity_of_the_formula_written_out_and_of_no_other_index(name):
    state, images, expected = golden(name)
    group = RELEASED[name][0]
    wrong = [(cayley_index, 1e-5, np.inf)] if group.order > 1 else []  # one element has one table
    for index, low, high in [(gevit_index, 0, 1e-9), *wrong]:
        net = GroupAttentionNet.from_released(state, group, index, 9).double()
        for layer in net.modules():
            if hasattr(layer, "backend"):
                layer.backend = "reference"
        assert low <= relative(net(images[1:]), expected["logits"][1:]) < high


@pytest.mark.parametrize(
    "name, group, index, window, message",
    [
        ("gevit_p4_w9", cyclic(4), gsa_index, 9, "tables='own'"),
        ("gevit_p4_w9", cyclic(4), gevit_index, 7, "tables='own'"),
        ("gevit_p4_w9", cyclic(8), gevit_index, 9, "C8"),
        ("gevit_z2_w9", dihedral(1), gevit_index, 9, "D1"),
        (None, cyclic(4), gevit_index, 9, "the state has no lifting.query.weight"),
    ],
)
def test_weights_of_another_network_are_refused(name, group, index, window, message):
    if name is None or name in PRESENT:
        state = golden(name)[0] if name else {}
        with pytest.raises(ValueError, match=message):
            GroupAttentionNet.from_released(state, group, index, window)


def test_the_released_network_has_its_published_number_of_parameters():
    for config in (GroupAttentionNetConfig.rotmnist(), GroupAttentionNetConfig(index=gevit_index)):
        assert sum(p.numel() for p in GroupAttentionNet(config).parameters()) == 44_428


def test_the_maps_have_the_released_sizes():
    sizes = lambda config: [config.image_size] + [step.size_after for step in config.steps]  # noqa: E731
    assert sizes(GroupAttentionNetConfig.rotmnist()) == [28, 24, 24, 12, 8, 6, 4]
    assert sizes(GroupAttentionNetConfig.pcam()) == [96, 48, 48, 24, 20, 18, 9, 7, 3]


@pytest.mark.parametrize("group", [cyclic(4), dihedral(1), dihedral(4)], ids=str)
@pytest.mark.parametrize("change", [{}, {"position": "stable", "readout": "mean", "query_pose": "diagonal"}], ids=str)
def test_the_network_with_the_cayley_table_is_invariant(group, change):
    net = randomized(GroupAttentionNet(GroupAttentionNetConfig(group=group, **{**SMALL, **change})))
    assert invariance_error(net, torch.randn(2, 1, 12, 12).double(), group) < 1e-10


@pytest.mark.parametrize("group, index", [(cyclic(4), gsa_index), (dihedral(4), gsa_index), (dihedral(4), gevit_index)])
def test_a_released_index_breaks_it(group, index):
    """Pooling hides most of it in a network of random weights, but not all."""
    net = randomized(GroupAttentionNet(GroupAttentionNetConfig(group=group, index=index, **SMALL)))
    assert invariance_error(net, torch.randn(2, 1, 12, 12).double(), group) > 1e-8


def test_the_pool_of_the_released_pcam_network_breaks_the_size_rule():
    """The same shape, smaller: 7×7 pooled by 2. Without that pool everything is exact."""
    assert not GroupAttentionNetConfig.pcam().obeys_size_rule
    assert GroupAttentionNetConfig.pcam(pool_after_last=False).obeys_size_rule
    released = GroupAttentionNetConfig.pcam(
        image_size=18,
        blocks=(1, 1),
        crops=(0, 1),
        expansions=(1, 1),
        channels=8,
        heads=2,
        window=3,
        backend="reference",
    )
    assert [step.size_after for step in released.steps] == [18, 9, 7, 3]
    images = torch.randn(2, 3, 18, 18).double()
    for config, low, high in ((released, 1e-3, np.inf), (replace(released, pool_after_last=False), 0, 1e-10)):
        assert low <= invariance_error(randomized(GroupAttentionNet(config)), images, cyclic(4)) < high


def test_the_logits_are_the_largest_class_scores_over_poses():
    net, images = randomized(GroupAttentionNet(GroupAttentionNetConfig(**SMALL))), torch.randn(2, 1, 12, 12).double()
    assert torch.equal(net.stages(images)["stage_classes"].sum((-2, -1)).amax(-1), net(images))


def test_a_block_that_attends_to_nothing_hands_its_input_on():
    """Both branches silenced by their last norms: what is left is the shortcut, cut where the block cuts."""
    x = torch.randn(2, 4, 3, 7, 7)
    for crop in (0, 1):
        block = GroupBlock(torch.nn.Identity(), 4, 4, crop, 0.0, 1e-5)
        for norm in (block.out_norm, block.mlp[-1]):
            torch.nn.init.zeros_(norm.weight)
            torch.nn.init.zeros_(norm.bias)
        assert torch.equal(block(x), x[..., crop : 7 - crop, crop : 7 - crop])
