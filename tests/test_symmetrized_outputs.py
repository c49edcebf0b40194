"""Outputs of other people's models: where the logits are, single and independent ones, masked ones, and maps."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from e2vit.actions import act, equivariance_error
from e2vit.groups import cyclic, dihedral
from e2vit.models import Symmetrized
from e2vit.models.symmetrized import AGGREGATES
from e2vit.models.symmetrized.motion import move_keypoints, move_vectors
from e2vit.testing import randomized

OF_LOGITS = [name for name, aggregate in AGGREGATES.items() if aggregate.combines == "logits"]


def images(count=3, height=12, width=12):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 2, height, width, generator=generator, dtype=torch.float64)


class Classifier(nn.Module):
    """Changes its answer when the image turns; ``wrap`` is what it returns around its logits."""

    def __init__(self, classes=5, wrap=lambda y: y):
        super().__init__()
        self.wrap, self.fc = wrap, nn.Linear(288, classes)

    def forward(self, x):
        return self.wrap(self.fc(x.flatten(1)))


RESULTS = {
    "an attribute": (lambda y: SimpleNamespace(logits=y), None),
    "a dictionary with logits": (lambda y: {"loss": 0.0, "logits": y}, None),
    "a key": (lambda y: {"out": y, "aux": -y}, "out"),
    "an index": (lambda y: (y, -y), 0),
    "a list": (lambda y: [-y, y], 1),
    "a function": (lambda y: [[y]], lambda result: result[0][0]),
}


@pytest.mark.parametrize("case", RESULTS)
def test_the_logits_are_found_in_what_a_model_returns(case):
    wrap, output = RESULTS[case]
    plain = randomized(Classifier())
    model = Classifier(wrap=wrap).double().eval()
    model.load_state_dict(plain.state_dict())
    for name in ("mean_probabilities", "feature_max", "canonical_learned"):
        torch.manual_seed(0)
        expected = Symmetrized(plain, dihedral(4), name)(images())
        torch.manual_seed(0)
        assert torch.allclose(Symmetrized(model, dihedral(4), name, output=output)(images()), expected, atol=1e-12)


@pytest.mark.parametrize(("wrap", "output"), [(lambda y: (y, y), None), (lambda y: {"a": y}, "b"), (lambda y: 1, None)])
def test_a_result_without_logits_is_refused(wrap, output):
    with pytest.raises(ValueError, match="output="):
        Symmetrized(Classifier(wrap=wrap).double(), cyclic(4), output=output)(images())


@pytest.mark.parametrize("name", OF_LOGITS)
def test_one_logit_is_combined_as_two_classes(name):
    """And as the difference of the logits that two classes ±l/2 get; the same without an axis of classes."""
    one = randomized(Classifier(1))
    two = lambda x: torch.cat([one(x), -one(x)], -1) / 2  # noqa: E731
    pair = Symmetrized(two, cyclic(4), name)(images())
    found = Symmetrized(one, cyclic(4), name)(images())
    assert torch.allclose(found, pair[:, :1] - pair[:, 1:], atol=1e-10)
    assert found.std() > 1e-3  # a softmax over one number would be constant
    flat = Symmetrized(lambda x: one(x)[:, 0], cyclic(4), name)(images())
    assert flat.shape == (3,) and torch.allclose(flat, found[:, 0], atol=1e-12)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_independent_labels_are_combined_one_by_one(name):
    model = randomized(Classifier(3))
    together = Symmetrized(model, cyclic(4), name, activation="sigmoid")(images())
    for label in range(3):
        alone = Symmetrized(lambda x, label=label: model(x)[:, [label]], cyclic(4), name)(images())
        assert torch.allclose(together[:, [label]], alone, atol=1e-10)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", [*OF_LOGITS, "canonical_learned", "frame"])
def test_masked_classes_stay_masked_and_give_no_nan(name, activation):
    inner = randomized(Classifier())
    mask = torch.tensor([0, 0, -torch.inf, 0, 0], dtype=torch.float64)
    model = Symmetrized(lambda x: inner(x) + mask, cyclic(4), name, activation=activation)
    for part in (model.eval().double(), model.train()):
        y = part(images())
        assert not y.isnan().any() and (y[:, 2] < -1e30).all() and y[:, [0, 1, 3, 4]].isfinite().all()


class Segmentation(nn.Module):
    """Maps of classes that do not turn with the image."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x):
        return {"out": self.b(torch.tanh(self.a(x)))}


@pytest.mark.parametrize("group", [cyclic(4), dihedral(4)], ids=str)
@pytest.mark.parametrize("name", [*OF_LOGITS, "canonical_learned", "frame"])
def test_symmetrized_maps_are_equivariant(name, group):
    model = randomized(Segmentation())
    wrapped = randomized(Symmetrized(model, group, name, output="out", output_action="maps"))
    assert equivariance_error(wrapped, images(), group) < 1e-10
    assert equivariance_error(lambda x: model(x)["out"], images(), group) > 1e-2


@pytest.mark.parametrize("group", [cyclic(2), dihedral(2)], ids=str)
def test_maps_of_oblong_images_are_equivariant_to_half_turns_and_mirrors(group):
    model = randomized(Segmentation())
    wrapped = Symmetrized(model, group, output="out", output_action="maps")
    assert equivariance_error(wrapped, images(height=10, width=14), group) < 1e-10
    with pytest.raises(ValueError, match="square"):
        Symmetrized(model, cyclic(4), output="out", output_action="maps")(images(height=10, width=14))


def test_a_segmentation_network_of_torchvision_becomes_equivariant():
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).double().eval()
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wrapped = Symmetrized(model, dihedral(4), output="out", output_action=act)
    assert equivariance_error(wrapped, x, dihedral(4), [1, 5]) < 1e-10
    assert equivariance_error(lambda x: model(x)["out"], x, dihedral(4), [1]) > 1e-3


@pytest.mark.parametrize("kind", ["vectors", "keypoints"])
@pytest.mark.parametrize("group", [cyclic(4), dihedral(4)], ids=str)
def test_vectors_and_keypoints_turn_with_the_image(kind, group):
    inner = randomized(Classifier(6))
    model = lambda x: inner(x).unflatten(1, (3, 2))  # noqa: E731
    wrapped = Symmetrized(model, group, output_action=kind)
    y, plain = wrapped(images()), model(images())
    for g in range(group.order):
        moved = move_vectors(group, g, y) if kind == "vectors" else move_keypoints(group, g, y, (12, 12))
        assert torch.allclose(wrapped(act(group, g, images())), moved, atol=1e-10)
    assert not torch.allclose(model(act(group, 1, images())), plain, atol=1e-2)


def test_keypoints_follow_the_pixel_they_name():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 1, 4] = 1.0  # column 4, row 1
    for g in range(8):
        row, column = act(dihedral(4), g, image)[0, 0].nonzero()[0].tolist()
        assert move_keypoints(dihedral(4), g, torch.tensor([[4.0, 1.0]]), (5, 5)).tolist() == [[column, row]]


def test_outputs_that_turn_are_not_combined_as_features():
    with pytest.raises(ValueError, match="averaged"):
        Symmetrized(Segmentation(), cyclic(4), "feature_mean", output_action="maps")
    with pytest.raises(ValueError, match="averaged"):
        Symmetrized(Classifier(2), cyclic(4), "vote", output_action="vectors")
