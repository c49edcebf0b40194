"""A feature aggregate over the trivial group is the model itself, or one sentence says why not."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from e2vit.actions import invariance_error
from e2vit.groups import cyclic, dihedral
from e2vit.models import (
    GCNN,
    GCNNConfig,
    GroupAttentionNet,
    GroupAttentionNetConfig,
    HybridViT,
    HybridViTConfig,
    Symmetrized,
    ViT,
    ViTConfig,
)
from e2vit.testing import randomized


def images(count=3, channels=3, side=28):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, channels, side, side, generator=generator, dtype=torch.float64)


class Base(nn.Module):
    """A small body, a last linear layer ``fc``, and whatever a subclass computes after it."""

    def __init__(self, classes=5):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.fc, self.second = nn.Linear(8, classes), nn.Linear(8, classes)
        self.temperature = nn.Parameter(torch.ones(()))

    def features(self, x):  # not all of the body
        return self.body(x).mean((-2, -1))

    def forward(self, x):
        return self.fc(self.features(x))


def after(name, f):
    """A subclass of Base: f(self, vector) are the logits."""
    return type(name, (Base,), {"forward": lambda self, x: f(self, self.features(x))})


class ConvHead(Base):
    def __init__(self):
        super().__init__()
        self.fc = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return self.fc(self.features(x)[:, :, None, None]).flatten(1)


class ZeroHead(Base):
    """A head that starts at zero, with a ReLU behind it: its value tells nothing about the ReLU."""

    def forward(self, x):
        return self.fc(self.features(x)).relu()


MODELS = {
    "a linear layer": Base,
    "log-softmax": after("LogSoftmax", lambda self, z: self.fc(z).log_softmax(-1)),
    "a temperature": after("Temperature", lambda self, z: self.fc(z) / self.temperature),
    "ReLU": after("ReLU", lambda self, z: self.fc(z).relu()),
    "sigmoid": after("Sigmoid", lambda self, z: self.fc(z).sigmoid()),
    "a soft cap": after("SoftCap", lambda self, z: (self.fc(z) / 30).tanh() * 30),
    "more body after features": after("MoreBody", lambda self, z: self.fc(2 * z.relu())),
    "two heads on the same features": after("TwoHeads", lambda self, z: (self.fc(z) + self.second(z)) / 2),
    "one logit without an axis": after("Scalar", lambda self, z: self.fc(z)[:, 0]),
    "a convolution": ConvHead,
    "sequential": lambda: nn.Sequential(nn.Flatten(), nn.Linear(2352, 7), nn.ReLU(), nn.Linear(7, 5)),
    "no head": lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Identity()),
    "vit": lambda: ViT(ViTConfig(image_size=28, in_channels=3).tiny()),
    "hybrid": lambda: HybridViT(HybridViTConfig(image_size=28, in_channels=3).tiny()),
    "gcnn": lambda: GCNN(GCNNConfig(image_size=28, in_channels=3).tiny()),
    "group attention": lambda: GroupAttentionNet(GroupAttentionNetConfig(image_size=28, in_channels=3).tiny()),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_feature_aggregate_over_the_trivial_group_is_the_model(name):
    model = randomized(MODELS[name]())
    if "head" in name and name != "no head":
        model.temperature.data.fill_(3.0)
    for aggregate in ("feature_mean", "feature_sum", "feature_max"):
        wrapped = Symmetrized(model, cyclic(1), aggregate)
        assert torch.allclose(wrapped(images()), model(images()), atol=1e-10)
        assert wrapped(images()).shape == model(images()).shape
    turned = Symmetrized(model, dihedral(4), "feature_max")
    assert invariance_error(turned, images(), dihedral(4)) < 1e-10


def test_what_follows_is_seen_behind_a_head_of_zeros():
    torch.manual_seed(1)  # with negative outputs
    model = ZeroHead().double().eval()
    nn.init.zeros_(model.fc.weight), nn.init.zeros_(model.fc.bias)
    wrapped = Symmetrized(model, cyclic(1), "feature_mean")
    nn.init.normal_(model.fc.weight)
    assert (model.fc(model.features(images())) < 0).any()
    assert torch.equal(wrapped(images()), model(images()))


REFUSED = {
    "cosine": after("Cosine", lambda self, z: F.linear(F.normalize(z), F.normalize(self.fc.weight))),
    "two heads on different features": after("Different", lambda self, z: self.fc(z) + self.second(z * 2)),
    "a gate": type(
        "Gate",
        (Base,),
        {"forward": lambda self, x: self.features(x)[:, :5] * self.fc(self.features(x)).sigmoid()},
    ),
    "tokens": type("Tokens", (Base,), {"forward": lambda self, x: self.fc(self.body(x).flatten(2).mT).mean(1)}),
    "maps": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_heads_are_refused_with_the_way_out(case):
    model = randomized(REFUSED[case]())
    with pytest.raises(ValueError, match="features= and head=") as error:
        Symmetrized(model, cyclic(1), "feature_mean")
    assert "\n" not in str(error.value)


def test_named_parts_must_be_the_model_together():
    model = randomized(REFUSED["cosine"]())
    parts = {
        "features": lambda x: F.normalize(model.features(x)),
        "head": lambda z: F.linear(z, F.normalize(model.fc.weight)),
    }
    wrapped = Symmetrized(model, cyclic(1), "learned_mean", **parts).double()
    assert torch.allclose(wrapped(images()), model(images()), atol=1e-10)
    with pytest.raises(ValueError, match="do not reproduce Cosine"):
        Symmetrized(model, cyclic(1), "feature_mean", features=model.features, head=model.fc)


def test_a_head_that_is_replaced_is_used():
    model = randomized(Base())
    wrapped = Symmetrized(model, cyclic(4), "feature_mean")
    model.fc = nn.Linear(8, 3).double()
    assert wrapped(images()).shape == (3, 3)
    assert torch.allclose(wrapped(images()), Symmetrized(model, cyclic(4), "feature_mean")(images()), atol=1e-12)
    model.fc = nn.Sequential(nn.Linear(8, 3), nn.ReLU()).double()
    assert torch.allclose(wrapped(images()), Symmetrized(model, cyclic(4), "feature_mean")(images()), atol=1e-12)


def test_a_model_is_wrapped_in_inference_mode_but_not_built_there():
    model = randomized(Base())
    with torch.inference_mode():
        wrapped = Symmetrized(model, cyclic(1), "feature_mean")
        assert torch.allclose(wrapped(images()), model(images()), atol=1e-12)
        with pytest.raises(ValueError, match="built in inference mode"):
            Symmetrized(Base(), cyclic(1), "feature_mean")


def test_a_head_of_another_width_is_refused_where_the_aggregate_was_built_for_the_old_one():
    model = randomized(Base())
    wrapped, free = (Symmetrized(model, cyclic(4), name) for name in ("learned_mean", "feature_mean"))
    model.fc = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    for _ in range(2):
        with pytest.raises(ValueError, match="built for 8 features, and the last layer of the model takes 6 now"):
            wrapped(images())
    assert free(images()).shape == (3, 3)


def test_a_model_that_is_replaced_is_used():
    wrapped = Symmetrized(randomized(Base()), cyclic(4), "feature_mean")
    wrapped.model = randomized(MODELS["log-softmax"](), seed=1)
    expected = Symmetrized(wrapped.model, cyclic(4), "feature_mean")(images())
    assert torch.equal(wrapped(images()), expected)


@pytest.mark.parametrize("make", [Base, MODELS["log-softmax"]])
def test_copies_have_parts_of_their_own(make):
    wrapped = Symmetrized(randomized(make()), cyclic(4), "feature_mean")
    copied = copy.deepcopy(wrapped)
    expected = wrapped(images())
    wrapped.model.fc.weight.data.zero_()
    assert torch.equal(copied(images()), expected)


@pytest.mark.parametrize("name", ["a linear layer", "log-softmax"])
def test_the_head_names_its_parameters(name):
    wrapped = Symmetrized(randomized(MODELS[name]()), cyclic(4), "feature_mean")
    found = {id(p) for p in wrapped.parts.head.parameters()}
    assert found == {id(p) for p in wrapped.model.fc.parameters()}


def test_the_replay_of_the_head_leaves_batch_norm_alone():
    model = MODELS["log-softmax"]().double().train()
    wrapped = Symmetrized(model, cyclic(4), "feature_mean")
    before = model.body[1].running_mean.clone()
    wrapped.combine(torch.randn(2, 4, 8, dtype=torch.float64))
    assert torch.equal(model.body[1].running_mean, before)
    wrapped(images())
    assert not torch.equal(model.body[1].running_mean, before)
