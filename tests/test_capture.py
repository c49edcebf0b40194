"""What capture records is what the model used, and the model does not notice."""

import pytest
import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import nn

from conftest import require
from e2vit.capture import capture, fused_weights
from e2vit.groups import cyclic, dihedral
from e2vit.kernels.reference import windows
from e2vit.models import HybridViT, HybridViTConfig, ViT, ViTConfig
from e2vit.models.group_attention_net import GroupAttentionNet, GroupAttentionNetConfig
from e2vit.models.transformer import MultiHeadAttention
from e2vit.testing import randomized

SEED = torch.Generator().manual_seed(7)


def images(side: int, channels: int = 1, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, side, side, generator=SEED, dtype=torch.float64)


def hybrid(attention: str) -> HybridViT:
    return randomized(HybridViT(HybridViTConfig(cyclic(4), 12, 3, 5, (2, 3), 3, 6, 2, 2, attention=attention)))


def vit(readout: str = "mean") -> ViT:
    shape = {"image_size": 12, "in_channels": 3, "classes": 5, "patch_size": 4, "width": 6, "depth": 2, "heads": 2}
    return randomized(ViT(ViTConfig(**shape, readout=readout)))


def group_net(**changes) -> GroupAttentionNet:
    shape = {"image_size": 8, "in_channels": 3, "classes": 5, "channels": 8, "heads": 2, "window": 3}
    return randomized(GroupAttentionNet(GroupAttentionNetConfig(**shape, blocks=(0, 1), crops=(0,), **changes)))


def mixed(weights: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The values as the weights of each head mix them."""
    heads = rearrange(value, "... key (head d) -> ... head key d", head=weights.shape[-3])
    return rearrange(weights @ heads, "... head query d -> ... query (head d)")


MODELS = {
    "vit": (vit, 12),
    "vit with a class token": (lambda: vit("class_token"), 12),
    "hybrid, joint": (lambda: hybrid("joint"), 12),
    "hybrid, within a pose": (lambda: hybrid("within_pose"), 12),
    "group attention": (group_net, 8),
    "diagonal": (lambda: group_net(query_pose="diagonal"), 8),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model_and_images(request):
    make, side = request.param
    return make(), images(side, channels=3)


def test_every_query_spreads_a_weight_of_one(model_and_images):
    model, x = model_and_images
    with capture(model) as seen:
        model(x)
    assert len(seen.attention) == 2
    for weights in seen.attention.values():
        if weights.ndim == 8:  # batch head v g m offset height width
            weights = rearrange(weights, "b head v g m o y x -> b head v g y x (m o)")
        assert (weights.sum(-1) - 1).abs().max() < 1e-12
        assert weights.min() >= 0


def test_the_model_does_not_notice(model_and_images):
    model, x = model_and_images
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    plain = model(x)
    with capture(model) as seen:
        assert (model(x) - plain).abs().max() == 0
    assert (seen.features[""] - plain).abs().max() == 0
    for name, module in model.named_modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert set(vars(module)) == before[name]
    recorded = dict(seen.features)
    model(x + 1)
    assert all(seen.features[name] is value for name, value in recorded.items())


@pytest.mark.parametrize("model", [vit(), hybrid("joint"), hybrid("within_pose")], ids=lambda m: type(m).__name__)
def test_the_weights_give_the_output_of_the_layer(model):
    with capture(model) as seen:
        model(images(12, channels=3))
    weights, layer = seen.attention["blocks.1.attention"], model.blocks[1].attention
    value = seen.features["blocks.1.attention.qkv"].chunk(3, -1)[2]
    joint = value.ndim == weights.ndim == 4  # over the tokens of all poses
    out = layer.out(mixed(weights, value.flatten(1, 2) if joint else value).reshape(value.shape))
    assert (out - seen.features["blocks.1.attention"]).abs().max() < 1e-10


def test_group_attention_gives_the_output_of_the_layer():
    model = group_net(group=dihedral(4))
    with capture(model) as seen:
        model(images(8, channels=3))
    value = model.lifting.qkv(seen.features["input_dropout"][:, :, None]).chunk(3, 1)[2]
    value = rearrange(value, "b (head d) g y x -> b head d g y x", head=2)
    attended = einsum(
        seen.attention["lifting"],
        windows(F.pad(value, (1,) * 4), 3).flatten(-2),
        "b head v g m o y x, b head d m y x o -> b head d v y x",
    )
    out = model.lifting.out(rearrange(attended, "b head d v y x -> b (head d) v y x"))
    assert (out - seen.features["lifting"]).abs().max() < 1e-10


def test_without_the_bias_the_weights_are_others():
    """Control: what is recorded includes the relative position."""
    model = hybrid("within_pose")
    with capture(model, ["blocks.0.attention"]) as with_bias:
        model(images(12, channels=3))
    with torch.no_grad():
        model.blocks[0].attention.bias.network[-1].weight.zero_()
    with capture(model, "blocks.0.attention") as without:
        model(images(12, channels=3))
    assert (with_bias.attention["blocks.0.attention"] - without.attention["blocks.0.attention"]).abs().max() > 1e-2


def test_a_strangers_vit_from_timm():
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", img_size=12, patch_size=4, embed_dim=12, num_heads=3, depth=2)
    model = randomized(model)
    with capture(model, ["blocks.1.attn", "blocks.1.attn.qkv"]) as seen:
        model(images(12, channels=3))
    assert list(seen.attention) == ["blocks.1.attn"]
    out = mixed(seen.attention["blocks.1.attn"], seen.features["blocks.1.attn.qkv"].chunk(3, -1)[2])
    assert (model.blocks[1].attn.proj(out) - seen.features["blocks.1.attn"]).abs().max() < 1e-10


@pytest.mark.parametrize("grad", [True, False])
def test_torch_multi_head_attention(grad):
    encoder = randomized(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 2, enable_nested_tensor=False)
    )
    x = torch.randn(3, 5, 6, generator=SEED, dtype=torch.float64)
    with torch.set_grad_enabled(grad), capture(encoder) as seen:
        encoder(x)
    name, attention = "layers.0.self_attn", encoder.layers[0].self_attn
    expected = attention(x, x, x, average_attn_weights=False)[1]
    assert (seen.attention[name] - expected).abs().max() < 1e-12
    assert not seen.attention[name].requires_grad


def test_attention_to_another_sequence():
    layer = randomized(MultiHeadAttention(6, 2))
    x, memory = (torch.randn(3, n, 6, generator=SEED, dtype=torch.float64) for n in (4, 5))
    with capture(layer) as seen:
        out = layer(x, memory)
    value = layer.qkv(memory).chunk(3, -1)[2]
    assert (layer.out(mixed(seen.attention[""], value)) - out).abs().max() < 1e-10


def test_a_softmax_that_is_a_layer():
    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.normalize = nn.Softmax(dim=-1)

        def forward(self, x):
            return self.normalize(x @ x.mT) @ x

    x = torch.randn(3, 5, 6, generator=SEED, dtype=torch.float64)
    layer = nn.Sequential(Scores())
    with capture(layer, ["0"]) as seen:
        out = layer(x)
    assert (seen.attention["0"] @ x - out).abs().max() < 1e-12


@pytest.mark.parametrize(
    "changes",
    [{}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": "bool"}, {"attn_mask": "float"}, {"enable_gqa": True}],
    ids=str,
)
def test_fused_weights_agree_with_torch(changes):
    heads = 1 if "enable_gqa" in changes else 2
    shapes = (2, 5), (heads, 7), (heads, 7)
    q, k, v = (torch.randn(3, *shape, 4, generator=SEED, dtype=torch.float64) for shape in shapes)
    mask = torch.randn(5, 7, generator=SEED, dtype=torch.float64)
    if "attn_mask" in changes:
        changes = {"attn_mask": mask if changes["attn_mask"] == "float" else (mask > 0) | (torch.arange(7) == 0)}
    if changes.get("enable_gqa"):
        require("enable_gqa" in (F.scaled_dot_product_attention.__doc__ or ""), "a torch with grouped queries (2.5)")
    expected = F.scaled_dot_product_attention(q, k, v, **changes)
    assert (fused_weights(q, k, v, **changes) @ v - expected).abs().max() < 1e-12


def test_a_layer_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(KeyError, match="no layer 'blocks.9'.*blocks.0.attention"), capture(vit(), ["blocks.9"]):
        pass
    model = vit()
    with capture(model) as seen:
        model(images(12, channels=3))
    with pytest.raises(KeyError, match="'embed'; there are: blocks.0.attention, blocks.1.attention"):
        seen.attention["embed"]


def test_hooks_go_when_the_model_refuses_an_image():
    model = vit()
    with pytest.raises(ValueError, match="this model takes"), capture(model):
        model(images(13, channels=3))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_error_inside_leaves_the_next_pass_in_order():
    model = hybrid("joint")
    with capture(model) as seen:
        with pytest.raises(ValueError, match="this model takes"):
            model(images(10, channels=3))
        model(images(12, channels=3))
    assert list(seen.attention) == ["blocks.0.attention", "blocks.1.attention"]
