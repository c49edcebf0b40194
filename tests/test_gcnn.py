"""Group-convolutional networks are invariant to their group, and are the published ones."""

from dataclasses import replace

import pytest
import torch

from e2vit.actions import equivariance_error, exact_elements, invariance_error
from e2vit.groups import cyclic, dihedral
from e2vit.models.gcnn import GCNN, GCNNConfig
from e2vit.testing import randomized


def images(side: int = 28) -> torch.Tensor:
    return torch.randn(2, 1, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4), cyclic(8)], ids=str)
@pytest.mark.parametrize("make", [GCNNConfig.p4cnn, GCNNConfig.modern], ids=lambda make: make.__name__)
def test_the_network_is_invariant_and_every_layer_equivariant(group, make):
    model = randomized(GCNN(make(group=group, widths=(2, 3, 4) if make == GCNNConfig.p4cnn else (2, 3, 4, 4, 3))))
    elements = exact_elements(group)
    for last in range(1, len(model.layers) + 1):
        assert equivariance_error(model.layers[:last], images(), group, elements) < 1e-10
    assert invariance_error(model.features, images(), group, elements) < 1e-10
    assert invariance_error(model, images(), group, elements) < 1e-10


def test_plain_convolutions_break_it():
    model = randomized(GCNN(replace(GCNNConfig.z2cnn(), widths=(4,) * 6)))
    assert invariance_error(model, images(), cyclic(4)) > 1e-2


def test_the_p4cnn_is_the_published_one():
    model = GCNN(GCNNConfig.p4cnn())
    assert model.config.sides == [28, 26, 12, 10, 8, 6, 4]
    weights = 9 * 10 + 5 * 9 * 4 * 10 * 10 + 16 * 4 * 10 * 10
    assert parameters(model) == weights + 6 * 2 * 10 + 10 == 24_620
    assert parameters(GCNN(GCNNConfig.z2cnn())) == 9 * 20 + 5 * 9 * 400 + 16 * 200 + 6 * 2 * 20 + 10 == 21_630


def test_the_readout_of_the_p4cnn_is_the_largest_class_score_over_poses():
    model = randomized(GCNN(GCNNConfig.p4cnn(widths=(2, 3, 2, 2, 2, 2))))
    scores = model.top(model.layers(images()))
    assert torch.equal(model(images()), scores.amax((2, 3, 4)))
