"""Random views of training images: what each augmentation does, against the same thing written another way."""

import pytest
import torch

from e2vit.actions import rotate
from e2vit.augmentation import REACH, apply_views, draw_views


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 2, 14, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def still(count: int) -> list[torch.Tensor]:
    """An affine view that changes nothing."""
    return [torch.zeros(count), torch.ones(count), torch.zeros(count), torch.zeros(count)]


def test_without_zoom_and_shift_an_affine_view_is_a_rotation(images):
    degrees = torch.tensor([0.0, 30.0, 90.0, 200.0, 359.0])
    turned = apply_views(images, [degrees, *still(5)[1:]])
    assert (turned - rotate(images, degrees)).abs().max() < 1e-5
    assert (turned - rotate(images, -degrees)).abs().max() > 0.1


def test_shifts_go_to_the_right_and_down_after_the_turn(images):
    pixel = 2 / 14    # in halves of a side
    moved = apply_views(images, [torch.full((5,), 90.0), torch.ones(5), torch.full((5,), 2 * pixel),
                                 torch.full((5,), pixel)])
    turned = images.rot90(1, (-2, -1))
    assert (moved[..., 1:, 2:] - turned[..., :-1, :-2]).abs().max() < 1e-6
    assert moved[..., :1, :].abs().max() < 1e-6, "what comes in is zero"


def test_a_zoom_above_one_enlarges():
    images = torch.zeros(1, 1, 14, 14)
    images[..., 5:9, 5:9] = 1
    views = still(1)
    areas = [apply_views(images, [views[0], torch.tensor([zoom]), *views[2:]]).sum().item() for zoom in (0.8, 1.0, 1.25)]
    assert areas[0] < areas[1] == pytest.approx(16) and areas[1] < areas[2]
    assert areas[2] == pytest.approx(16 * 1.25**2, rel=0.1)


@pytest.mark.parametrize(("augment", "numbers"), [("none", 0), ("rotation", 1), ("dihedral", 2), ("affine", 4)])
def test_views_are_drawn_for_each_image_from_the_generator_alone(images, augment, numbers):
    views = [draw_views(augment, 5, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert [len(v) for v in views] == [numbers] * 3
    assert all(torch.equal(a, b) for a, b in zip(views[0], views[1], strict=True))
    assert not views[0] or not torch.equal(views[0][0], views[2][0])
    assert apply_views(images, views[0]).shape == images.shape


def test_zoom_and_shift_stay_within_their_reach():
    _, zoom, right, down = draw_views("affine", 2000, torch.Generator().manual_seed(0))
    for x in (zoom - 1, right, down):
        assert 0.95 * REACH < x.abs().max() <= REACH
        assert x.mean().abs() < 0.1 * REACH
