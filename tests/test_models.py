"""The protocol of the models, for each of them: configuration, features and head, and what it refuses."""

import dataclasses
from dataclasses import replace

import pytest
import torch

from conftest import untyped
from e2vit.groups import cyclic, dihedral
from e2vit.models import (
    MODELS,
    GCNNConfig,
    GroupAttentionNetConfig,
    HybridViT,
    HybridViTConfig,
    OcticViTConfig,
    PooledHybridConfig,
    Transformer,
    TransformerConfig,
    ViTConfig,
)
from e2vit.testing import randomized

TINY = {config.__name__: config().tiny() for config in MODELS}
each = pytest.mark.parametrize("config", TINY.values(), ids=TINY)


def images(config, batch: int = 2) -> torch.Tensor:
    shape = batch, config.in_channels, config.image_size, config.image_size
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("config", MODELS, ids=lambda config: config.__name__)
def test_a_configuration_has_the_fields_of_the_protocol(config):
    default = config()
    assert (default.image_size, default.in_channels, default.classes) == (28, 1, 10)
    assert dataclasses.is_dataclass(default) and type(default.tiny()) is config
    assert default.attention_scores >= 0 and hash(default) == hash(config())
    with pytest.raises(dataclasses.FrozenInstanceError):
        default.classes = 3
    size = lambda config: sum(p.numel() for p in MODELS[type(config)](config).parameters())  # noqa: E731
    assert size(default.tiny()) < size(default)


@each
def test_features_and_head_make_the_logits(config):
    model = randomized(MODELS[type(config)](config))
    x = images(config).double()
    features = model.features(x)
    assert model.config == config and features.ndim == 2 and isinstance(model.head, torch.nn.Module)
    assert torch.equal(model.head(features), model(x)) and model(x).shape == (2, config.classes)
    assert model(x[:0]).shape == (0, config.classes)


@each
def test_every_parameter_gets_a_gradient(config):
    model = randomized(MODELS[type(config)](config))
    model(images(config).double()).square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@each
def test_no_model_has_a_buffer_in_double_precision(config):
    """Apple GPUs have none."""
    model = MODELS[type(config)](config)
    assert not [name for name, buffer in model.named_buffers() if buffer.dtype == torch.float64]


@each
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x[0], ValueError, r"\(batch, channel, height, width\), but .* \(1, 28, 28\); .* pass image\[None\]"),
        (lambda x: x[:, 0, 0], ValueError, r"\(batch, channel, height, width\), but their shape is \(2, 28\)$"),
        (
            lambda x: x.repeat(1, 3, 1, 1),
            ValueError,
            r"images have shape \(3, 28, 28\), this model takes \(1, 28, 28\)",
        ),
        (lambda x: x[..., 1:], ValueError, r"images have shape \(1, 28, 27\), this model takes"),
        (lambda x: (x * 255).byte(), ValueError, r"images are torch.uint8, .* images.float\(\) / 255"),
        (lambda x: x.double(), ValueError, "images are torch.float64, the weights of .* are torch.float32"),
        (lambda x: x.to("meta"), ValueError, "the images are on meta, the weights of .* are on cpu"),
        (lambda x: x.numpy(), TypeError, "takes images as a torch tensor, not ndarray"),
    ],
    ids=["one image", "no channels", "channels", "size", "bytes", "dtype", "device", "numpy"],
)
def test_images_that_do_not_fit_are_refused_in_one_sentence(config, change, error, message):
    model = MODELS[type(config)](config)
    for call in (model, model.features):
        with untyped(), pytest.raises(error, match=message):
            call(change(images(config)))


@pytest.mark.parametrize("model", [*MODELS.values(), Transformer], ids=lambda model: model.__name__)
@pytest.mark.parametrize("wrong", [type, lambda config: 4], ids=["a class", "a number"])
def test_what_is_not_a_configuration_is_refused(model, wrong):
    config = TransformerConfig() if model is Transformer else next(c for c, m in MODELS.items() if m is model)()
    with untyped(), pytest.raises(TypeError, match=rf"takes a configuration such as {type(config).__name__}\(\), not"):
        model(wrong(config))


@pytest.mark.parametrize("config", [GCNNConfig, GroupAttentionNetConfig, HybridViTConfig])
@pytest.mark.parametrize("group", [4, "C4", cyclic])
def test_what_is_not_a_group_is_refused(config, group):
    with untyped(), pytest.raises(TypeError, match=r"such as cyclic\(4\) or dihedral\(4\), not"):
        config(group=group)


@pytest.mark.parametrize(
    ("config", "field", "value", "message"),
    [
        *((config, "classes", 0, "whole number from 1 on, not 0") for config in MODELS if config != PooledHybridConfig),
        (HybridViTConfig, "depth", -1, "whole number from 0 on, not -1"),
        (ViTConfig, "depth", -1, "whole number from 0 on, not -1"),
        (TransformerConfig, "depth", 1.5, "whole number from 0 on, not 1.5"),
        (PooledHybridConfig, "layers", -1, "whole number from 0 on, not -1"),
        (ViTConfig, "patch_size", 0, "whole number from 1 on, not 0"),
        (ViTConfig, "heads", 0, "whole number from 1 on, not 0"),
        (ViTConfig, "in_channels", True, "whole number from 1 on, not True"),
        (HybridViTConfig, "patch", -1, "whole number from 0 on, not -1"),
        (HybridViTConfig, "stem", (), r"one or more whole numbers from 1 on, not \(\)"),
        (HybridViTConfig, "stem", (8, 0), r"one or more whole numbers from 1 on, not \(8, 0\)"),
        (HybridViTConfig, "kernel", 0, "whole number from 1 on, not 0"),
        (GCNNConfig, "kernel", 0, "whole number from 1 on, not 0"),
        (GCNNConfig, "widths", (), r"one or more whole numbers from 1 on, not \(\)"),
        (GroupAttentionNetConfig, "blocks", (2, -1), r"one or more whole numbers from 0 on, not \(2, -1\)"),
        (GroupAttentionNetConfig, "window", 0, "whole number from 1 on, not 0"),
    ],
)
def test_counts_that_make_no_model_are_refused(config, field, value, message):
    with untyped(), pytest.raises(ValueError, match=f"^{field} takes (a )?{message}$"):
        config(**{field: value})


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (ViTConfig, {"token_dropout": 1.0}, "token_dropout is at least 0 and below 1, got 1.0"),
        (ViTConfig, {"token_dropout": -0.1}, "token_dropout is at least 0 and below 1, got -0.1"),
        (ViTConfig, {"initial_position": "sine"}, "initial_position is 'normal' or 'sinusoidal', not 'sine'"),
        (ViTConfig, {"initial_position": "sinusoidal", "width": 6, "heads": 2}, "multiple of 4 channels, not 6"),
        (OcticViTConfig, {"group": cyclic(4)}, "octic coordinates are those of D4, not of"),
        (OcticViTConfig, {"width": 32, "heads": 3}, "width 32 is not a multiple of 8 parts times 3 heads"),
        (OcticViTConfig, {"image_size": 13, "patch_size": 4}, "image size 13 is not a multiple of patch size 4"),
        (GCNNConfig.p4cnn, {"image_size": 29}, "sizes that work: 22, 24, 26, 28"),
        (GCNNConfig.p4cnn, {"image_size": 16}, "convolved and pooled to nothing"),
        (HybridViTConfig, {"heads": 5}, "width 24 is not a multiple of heads 5"),
        (HybridViTConfig, {"image_size": 30}, "multiple of 4"),
        (HybridViTConfig, {"patch": 5, "stem": (8,)}, "patches of 5 pixels need"),
        (HybridViTConfig, {"position": "sinusoidal"}, "position is one of"),
        (HybridViTConfig, {"position": "rotary", "width": 6, "heads": 2}, "rotary positions turn pairs"),
        (GroupAttentionNetConfig, {"window": 31}, "larger than the image"),
        (GroupAttentionNetConfig, {"channels": 7}, "multiple of 2"),
        (GroupAttentionNetConfig, {"crops": (1,)}, "need 2 expansions and 5 crops"),
        (GroupAttentionNetConfig, {"crops": (9, 9, 9, 9, 9)}, "to nothing"),
        (GroupAttentionNetConfig, {"channels": 6}, "multiple of 4 channels"),
        (GroupAttentionNetConfig, {"readout": "max"}, "readout is one of"),
        (GroupAttentionNetConfig, {"score_scale": "none"}, "score_scale is one of"),
        (TransformerConfig, {"width": 10, "heads": 4}, "width 10 is not an even multiple of heads 4"),
        (TransformerConfig, {"width": 9, "heads": 3}, "width 9 is not an even multiple of heads 3"),
        (TransformerConfig, {"padding": 13}, "padding 13 is not one of the"),
    ],
)
def test_settings_that_make_no_model_are_refused(config, changes, message):
    with pytest.raises(ValueError, match=message):
        made = config(**changes)
        MODELS[type(made)](made)


@pytest.mark.parametrize("size", [27, 29, 31])
def test_no_model_of_a_group_takes_an_image_size_that_breaks_it_without_a_word(size):
    for config in (GroupAttentionNetConfig, HybridViTConfig, GCNNConfig):
        with pytest.raises(ValueError, match="equivariance|halved"):
            config(image_size=size)
    assert not GroupAttentionNetConfig(image_size=size, size_rule=False).obeys_size_rule  # who insists


def test_the_stem_of_the_hybrid_follows_from_the_image_size():
    assert HybridViTConfig().stem == (8, 16, 24)  # of recorded runs
    for size in (28, 32, 48, 64, 96, 128, 224, 256):
        config = HybridViTConfig(image_size=size, group=dihedral(4))
        assert config.side <= 14 and len(config.stem) >= 3
    assert HybridViTConfig(image_size=224).stem == (8, 16, 24, 32, 40)
    assert HybridViTConfig(patch=4).stem == (8,)
    assert len(HybridViTConfig(image_size=224).tiny().stem) == 5
    with pytest.warns(UserWarning, match="attention scores for one image"):
        replace(HybridViTConfig(), image_size=224)


def test_the_pooled_hybrid_takes_the_shape_of_its_front():
    front = HybridViTConfig(image_size=12, in_channels=2, classes=5, stem=(2, 3))
    config = PooledHybridConfig(front, channels=8, heads=1, layers=1, window=3)
    assert (config.image_size, config.in_channels, config.classes) == (12, 2, 5)
    assert MODELS[type(config)](config)(torch.zeros(1, 2, 12, 12)).shape == (1, 5)


def test_autocast_may_give_another_precision():
    model = HybridViT(HybridViTConfig().tiny())
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images(model.config).bfloat16()).isfinite().all()
