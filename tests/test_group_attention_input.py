"""Group self-attention refuses what does not fit, before any work, in one clear sentence."""

import pytest
import torch

from conftest import untyped
from e2vit.groups import cayley_index, cyclic
from e2vit.kernels import FEW_SCORES, attend, choose
from e2vit.layers import LocalGroupSelfAttention
from e2vit.layers.attention import Pointwise, _position

RELEASED = {"position": "released"}
BAD_LAYERS = {
    "odd, not 4": {"window": 4},
    "odd, not 0": {"window": 0},
    "odd, not -1": {"window": -1},
    "'square' or 'disc'": {"window_shape": "hexagon"},
    "'auto' or one of": {"backend": "magic"},
    "'sum' or 'diagonal'": {"query_pose": "mean"},
    "'stable' or 'released'": {"position": "absolute"},
    "at least 3 head_dim, not 2": {**RELEASED, "head_dim": 2},
    "an even head_dim, not 5": {**RELEASED, "head_dim": 5, "lifting": True},
    "an even head_dim, not 1": {**RELEASED, "head_dim": 1, "lifting": True},
    "start at 1": {"heads": 0},
    "has 4 elements": {"index": lambda group: cayley_index(cyclic(3))},
}


@pytest.mark.parametrize("message", BAD_LAYERS)
def test_settings_that_make_no_layer_are_refused(message):
    with pytest.raises(ValueError, match=message):
        LocalGroupSelfAttention(cyclic(4), **{"channels": 3, "heads": 2, "head_dim": 4, **BAD_LAYERS[message]})


@pytest.mark.parametrize(
    "settings", [{"window": 1}, {**RELEASED, "head_dim": 3}, {**RELEASED, "head_dim": 2, "lifting": True}], ids=str
)
def test_the_smallest_settings_that_make_a_layer(settings):
    layer = LocalGroupSelfAttention(cyclic(4), **{"channels": 3, "heads": 2, "head_dim": 4, "window": 3, **settings})
    x = torch.randn(1, 3, 4, 5, 5)
    assert layer(x[:, :, 0] if layer.lifting else x).shape == x.shape


@pytest.mark.parametrize(
    "message, change",
    [
        ("pose axis has length 3, but C4 has 4 elements", lambda x: x[:, :, :3]),
        ("5 axes", lambda x: x[:, :, 0]),
        ("has 2 channels, this layer takes 3", lambda x: x[:, :2]),
        ("torch.float32, the weights are torch.float64", lambda x: x.float()),
        ("larger than the map", lambda x: x[..., :2]),
        ("on meta, the weights are on cpu", lambda x: x.to("meta")),
    ],
)
def test_input_that_does_not_fit_is_refused(message, change):
    layer = LocalGroupSelfAttention(cyclic(4), channels=3, heads=2, head_dim=5, window=3).double()
    with pytest.raises(ValueError, match=message):
        layer(change(torch.zeros(1, 3, 4, 5, 5).double()))


def parts():
    """What ``attend`` takes, with a window of 3 on a map of 4×5."""
    shapes = {
        "q": (1, 2, 3, 4, 4, 5),
        "k": (1, 2, 3, 5, 6, 7),
        "value": (1, 2, 6, 5, 6, 7),
        "position": (7, 9, 3),
        "element": (8, 3),
    }
    return {
        **{name: torch.zeros(shape) for name, shape in shapes.items()},
        "table": torch.zeros(7, 4, 5, dtype=torch.int64),
    }


@pytest.mark.parametrize(
    "message, change",
    [
        ("value is torch.float64 but q is torch.float32", lambda x: {"value": x["value"].double()}),
        ("mask is on meta but q is on cpu", lambda x: {"mask": torch.zeros(9, dtype=torch.bool, device="meta")}),
        ("no odd square window", lambda x: {"k": x["k"][..., 1:], "value": x["value"][..., 1:]}),
        (r"the axes of position are \(8, 3\)", lambda x: {"position": x["position"][:, 1:]}),
        (r"the axes of table are \(7, 4, 4\)", lambda x: {"table": x["table"][..., 1:]}),
        ("as many output poses as query poses, got 7 and 4", lambda x: {"diagonal": True}),
        ("in the reference backend alone, not in 'numba'", lambda x: {"dropout": 0.1, "backend": "numba"}),
        ("'triton' runs on cuda, the tensors are on cpu", lambda x: {"backend": "triton"}),
        ("not 'magic'", lambda x: {"backend": "magic"}),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(message, change):
    assert attend(**parts()).shape == (1, 2, 6, 7, 4, 5)
    with untyped(), pytest.raises(ValueError, match=message):
        attend(**{**parts(), **change(parts())})


def test_few_scores_need_no_compiled_kernel():
    x = parts()
    assert choose(x["q"], x["k"], x["position"]) == "reference"
    many = torch.zeros(1, 2, 3, 4, 4 * FEW_SCORES, 1, device="meta")
    assert choose(many, x["k"].to("meta"), x["position"].to("meta")) != "triton"


def test_a_pointwise_map_begins_with_the_variance_that_a_rectifier_needs():
    torch.manual_seed(0)
    assert abs(Pointwise(50, 4000).weight.std().item() - (2 / 50) ** 0.5) < 2e-3


@pytest.mark.parametrize("head_dim, lifting, left", [(12, False, 4), (11, False, 5), (3, False, 1), (8, True, 0)])
def test_released_positions_fill_two_shares_and_elements_the_rest(head_dim, lifting, left):
    """Of the features of a head: rows, columns and, behind the lifting layer, the element."""
    position, channels = _position("released", head_dim, lifting)
    assert channels == left and position.channels == head_dim
    assert 2 * position.row[3].out_features == head_dim - left
