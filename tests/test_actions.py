"""The action is a left action, permutes pixels where it may, and its errors are what they are said to be."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from conftest import untyped
from e2vit.actions import (
    act,
    act_tokens,
    equivariance_error,
    exact_elements,
    invariance_error,
    is_exact,
    moves_pixels_exactly,
    orbit,
    rotate,
)
from e2vit.groups import cyclic, dihedral
from e2vit.testing import randomized

grid_groups = st.sampled_from([cyclic(1), cyclic(2), cyclic(4), dihedral(1), dihedral(2), dihedral(4)])
few = settings(max_examples=12, deadline=None)


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def smooth(side: int) -> torch.Tensor:
    """A band-limited image that is almost zero near the border."""
    axis = torch.linspace(-1, 1, side, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return (torch.exp(-8 * (x**2 + y**2)) * (1 + 3 * x - 2 * x * y + y))[None, None]


def test_element_one_is_a_quarter_turn_counter_clockwise():
    x = images(2, 3, 5, 5)
    assert torch.equal(act(cyclic(4), 1, x), torch.rot90(x, 1, (-2, -1)))
    assert torch.equal(act(cyclic(8), 2, x), torch.rot90(x, 1, (-2, -1)))
    assert torch.equal(act(dihedral(4), 4, x), x.flip(-1))  # the mirror x → −x


@few
@given(grid_groups, st.integers(1, 9))
@example(dihedral(4), 3)  # mirrors along both diagonals
@example(cyclic(4), 4)
def test_a_left_action_by_pixel_permutations(group, side):
    for x in (images(2, 3, side, side), images(1, 2, group.order, side, side), images(3, side, side)):
        for g in range(group.order):
            for h in range(group.order):
                assert torch.equal(act(group, g, act(group, h, x)), act(group, int(group.product[g, h]), x))
        assert torch.equal(act(group, 0, x), x)
        assert torch.equal(act(group, group.order - 1, x).flatten().sort().values, x.flatten().sort().values)


@few
@given(st.integers(1, 8).map(cyclic) | st.integers(1, 4).map(dihedral))
def test_poses_move_by_the_regular_representation(group):
    x = images(1, 1, group.order, 1, 1)  # a single pixel stays, only poses move
    for r in range(group.order):
        for g in range(group.order):
            expected = x[0, 0, group.product[group.inverse[r], g], 0, 0]
            assert torch.allclose(act(group, r, x)[0, 0, g, 0, 0], expected, atol=1e-12)


@pytest.mark.parametrize("group", [cyclic(8), dihedral(3)], ids=str)
def test_interpolated_elements_compose_up_to_interpolation(group):
    x = smooth(45)
    for g in range(group.order):
        for h in range(group.order):
            twice, once = act(group, g, act(group, h, x)), act(group, int(group.product[g, h]), x)
            assert (twice - once).abs().max() < 0.02 * x.abs().max()


def test_exact_elements_are_the_quarter_turns_and_mirrors():
    assert exact_elements(cyclic(8)) == [0, 2, 4, 6]
    assert exact_elements(cyclic(3)) == [0] and exact_elements(dihedral(3)) == [0, 3]
    assert exact_elements(dihedral(4)) == list(range(8)) and exact_elements(dihedral(8)) == list(range(0, 16, 2))
    assert not moves_pixels_exactly(cyclic(8), 1)


def test_tokens_move_as_the_image_they_are():
    x = images(2, 3, 6, 6)
    tokens = x.flatten(2).transpose(1, 2)
    moved = act_tokens(dihedral(4), 5, tokens)
    assert torch.equal(moved.transpose(1, 2).unflatten(2, (6, 6)), act(dihedral(4), 5, x))
    lifted = images(2, 3, 4, 6, 6)
    tokens = lifted.flatten(2).transpose(1, 2)
    moved = act_tokens(cyclic(4), 3, tokens, lifted=True)
    assert torch.equal(moved.transpose(1, 2).unflatten(2, (4, 6, 6)), act(cyclic(4), 3, lifted))


def test_the_orbit_is_in_element_order():
    x = images(1, 2, 5, 5)
    assert all(torch.equal(view, act(dihedral(4), g, x)) for g, view in enumerate(orbit(dihedral(4), x)))


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4), cyclic(8), dihedral(3)], ids=str)
def test_one_image_without_a_batch_axis_is_an_image(group):
    """Its sides are such that as tokens it would be a square grid, too."""
    x = images(3, 9, 9)
    assert torch.equal(act(cyclic(4), 1, x), torch.rot90(x, 1, (-2, -1)))
    for g in range(group.order):
        assert torch.equal(act(group, g, x), act(group, g, x[None])[0])
        assert not torch.equal(act_tokens(group, g, x), act(group, g, x)) or g == 0
    assert torch.equal(orbit(group, x), orbit(group, x[None])[:, 0])
    assert torch.equal(rotate(x, 30), rotate(x[None], 30)[0]) and torch.equal(
        rotate(x, 90), torch.rot90(x, 1, (-2, -1))
    )


@pytest.mark.parametrize("group", [4, "C4", cyclic])
def test_what_is_not_a_group_or_a_tensor_is_named(group):
    message = r"a group is an object such as cyclic\(4\) or dihedral\(4\), not"
    with untyped():
        with pytest.raises(TypeError, match=message):
            act(group, 0, images(1, 3, 3))
        with pytest.raises(TypeError, match=message):
            orbit(group, images(1, 3, 3))
        with pytest.raises(TypeError, match="a torch tensor, not ndarray"):
            act(cyclic(4), 1, images(1, 1, 3, 3).numpy())


def test_rotate_agrees_with_act_and_takes_an_angle_for_each_image():
    x = images(3, 2, 9, 9)
    assert torch.allclose(rotate(x, 45), act(cyclic(8), 1, x))
    assert torch.equal(rotate(x, 270), x.rot90(3, (-2, -1))) and torch.equal(rotate(x, -90), x.rot90(3, (-2, -1)))
    each = rotate(x, torch.tensor([0.0, 30.0, 90.0], dtype=torch.float64))
    assert torch.allclose(each[1:2], rotate(x[1:2], 30)) and torch.allclose(each[2:], rotate(x[2:], 90), atol=1e-12)


def test_a_rectangle_turns_about_its_center():
    x = torch.zeros(1, 1, 21, 41, dtype=torch.float64)
    x[..., 10, 30] = 1  # 10 pixels right of the center …
    turned = rotate(x, 30)
    row, column = divmod(int(turned.flatten().argmax()), 41)
    assert (row, column) == (5, 29)  # … goes to 10·(cos 30°, sin 30°), and that is up


def strided(kernel: int, padding: int, stride: int) -> nn.Module:
    """A convolution whose filter is symmetric under D4, so that only where it is sampled can break equivariance."""
    layer = randomized(nn.Conv2d(1, 1, kernel, stride, padding))
    with torch.no_grad():
        layer.weight.copy_(orbit(dihedral(4), layer.weight).mean(0))
    return layer


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 14), st.integers(1, 5), st.integers(0, 2), st.integers(1, 4))
def test_the_size_rule_says_when_a_strided_layer_is_exact(size, kernel, padding, stride):
    error = equivariance_error(strided(kernel, padding, stride), images(1, 1, size, size), cyclic(4))
    if is_exact(size, kernel, padding, stride):
        assert error < 1e-10
    else:
        assert error > 1e-4


def test_errors_are_relative_and_see_a_broken_symmetry():
    x = images(2, 3, 7, 7)
    assert equivariance_error(lambda y: 1000 * y, x, dihedral(4)) == 0
    assert invariance_error(lambda y: y.mean((-2, -1)), x, dihedral(4)) < 1e-12
    ramp = torch.arange(7, dtype=torch.float64)
    assert equivariance_error(lambda y: y + ramp, x, cyclic(4)) > 0.1
    assert invariance_error(lambda y: y[..., 0, :], x, cyclic(4)) > 0.1
    assert equivariance_error(lambda y: y + ramp, x, cyclic(4), elements=[0]) == 0
    assert torch.isnan(torch.tensor(invariance_error(lambda y: y * float("nan"), x, cyclic(4))))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: act(cyclic(4), 4, images(1, 1, 3, 3)), "not in C4"),
        (lambda: act(cyclic(4), 1, images(1, 1, 3, 4)), "square image"),
        (lambda: act(cyclic(4), 1, images(1, 1, 3, 5, 5)), "pose axis has length 3"),
        (lambda: act_tokens(cyclic(4), 1, images(1, 10, 2)), "10 tokens are not 1 square grid"),
        (lambda: act(cyclic(4), 1, images(3, 3)), r"3 axes \(one image\), 4 axes \(images\), 5 .*got shape \(3, 3\)"),
        (lambda: rotate(images(1, 1, 4, 3, 3), 30), r"4 axes \(images\), got shape"),
        (lambda: rotate(torch.zeros(1, 5, 5, dtype=torch.uint8), 30), "float first"),
        (lambda: act(cyclic(8), 1, torch.zeros(1, 1, 5, 5, dtype=torch.uint8)), "float first"),
        (lambda: is_exact(4, 9), "larger than the padded map"),
        (lambda: is_exact(0, 1), "start at 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_rectangle_keeps_its_shape_when_it_turns():
    """A quarter turn can't permute its pixels, so they are resampled; half a turn finds every pixel again."""
    x = images(1, 1, 3, 5)
    for degrees in (90, 180, 270, 30):
        assert rotate(x, degrees).shape == x.shape
    torch.testing.assert_close(rotate(x, 180), x.flip((-2, -1)))
