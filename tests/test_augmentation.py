"""Random views of training images: what each augmentation does, against the same thing written another way."""

import pytest
import torch

from e2vit.actions import act, rotate
from e2vit.groups import dihedral
from e2vit.training.config import apply_views, draw_views


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 2, 14, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_every_image_is_turned_by_its_own_angle_and_mirrored_before(images):
    degrees, mirrored = torch.tensor([0.0, 30.0, 90.0, 200.0, 359.0]), torch.tensor([True, False, True, True, False])
    moved = apply_views(images, [degrees, mirrored])
    for image, angle, mirror, result in zip(images, degrees, mirrored, moved, strict=True):
        expected = rotate((image.flip(-1) if mirror else image)[None], angle.item())[0]
        assert (result - expected).abs().max() < 1e-10
    assert (moved[3] - rotate(images[3:4], 200.0).flip(-1)[0]).abs().max() > 0.1, "a mirror afterwards is another view"


@pytest.mark.parametrize(("augment", "numbers"), [("none", 0), ("rotation", 1), ("dihedral", 2), ("d4", 2)])
def test_views_are_drawn_for_each_image_from_the_generator_alone(images, augment, numbers):
    views = [draw_views(augment, 5, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert [len(v) for v in views] == [numbers] * 3
    assert all(torch.equal(a, b) for a, b in zip(views[0], views[1], strict=True))
    assert not views[0] or not torch.equal(views[0][0], views[2][0])
    assert apply_views(images, views[0]).shape == images.shape


def test_angles_cover_the_circle_and_half_of_the_images_are_mirrored():
    degrees, mirrored = draw_views("dihedral", 4000, torch.Generator().manual_seed(0))
    assert degrees.histc(8, 0, 360).min() > 4000 / 8 * 0.85
    assert 0.46 < mirrored.double().mean() < 0.54


def test_d4_moves_pixels_and_interpolates_nothing(images):
    views = draw_views("d4", len(images), torch.Generator().manual_seed(0))
    moved = apply_views(images, views)
    for image, found in zip(images, moved, strict=True):
        assert min((act(dihedral(4), g, image[None])[0] - found).abs().max() for g in range(8)) < 1e-4
    drawn = draw_views("d4", 400, torch.Generator().manual_seed(0))
    assert set(drawn[0].tolist()) == {0, 90, 180, 270} and 150 < int(drawn[1].sum()) < 250
