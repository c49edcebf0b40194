"""What the pictures of the visualizations chapter claim, and that they can be drawn."""

import re

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from e2vit.actions import rotate
from e2vit.capture import capture
from e2vit.groups import cayley_index, cyclic, gsa_index
from e2vit.models import HybridViT, HybridViTConfig, ViT, ViTConfig
from e2vit.models.group_attention_net import GroupAttentionNet, GroupAttentionNetConfig
from e2vit.testing import randomized
from e2vit_book.inside import figures as attention
from e2vit_book.inside import measure as inspection
from e2vit_book.inside.attention_maps import relevance, rollout
from e2vit_book.inside.turning import turning_figure, turning_html
from e2vit_book.player import compact_figures, figure_uri, slideshow

SEED = torch.Generator().manual_seed(11)
IMAGE = torch.rand(1, 12, 12, generator=SEED, dtype=torch.float64)


def hybrid(attention: str = "within_pose") -> HybridViT:
    return randomized(HybridViT(HybridViTConfig(cyclic(4), 12, 1, 5, (2, 3), 3, 6, 2, 2, attention=attention)))


def vit(readout: str = "mean") -> ViT:
    return randomized(
        ViT(ViTConfig(image_size=12, classes=5, patch_size=2, width=6, depth=2, heads=3, readout=readout))
    )


def random(*shape: int) -> np.ndarray:
    return torch.rand(*shape, generator=SEED).numpy()


def attention_of(model, image) -> list[torch.Tensor]:
    with torch.no_grad(), capture(model) as seen:
        model(image[None])
    return list(seen.attention.values())


def test_rollout_rows_add_up_to_one():
    for model in (vit(), vit("class_token"), hybrid("joint"), hybrid()):
        flow = rollout(attention_of(model, IMAGE))
        assert (flow.sum(-1) - 1).abs().max() < 1e-12


def test_rollout_of_two_layers_is_their_product():
    first, second = (torch.rand(2, 3, 5, 5, generator=SEED, dtype=torch.float64).softmax(-1) for _ in range(2))
    eye = torch.eye(5, dtype=torch.float64)
    expected = (0.7 * eye + 0.3 * second.mean(1)) @ (0.7 * eye + 0.3 * first.mean(1))
    assert (rollout([first, second], residual=0.7) - expected).abs().max() < 1e-14
    with pytest.raises(ValueError, match="at least one layer"):
        rollout([])


@pytest.mark.parametrize("mode", ["joint", "within_pose"])
def test_relevance_turns_with_the_image_in_the_hybrid(mode):
    model, poses = hybrid(mode), 4 if mode == "joint" else 1
    both = (IMAGE, IMAGE.rot90(1, (1, 2)))
    straight, turned = (relevance(rollout(attention_of(model, x)), poses=poses) for x in both)
    assert (straight.rot90(1, (1, 2)) - turned).abs().max() < 1e-12
    assert abs(straight.sum() - 1) < 1e-12


def test_relevance_of_a_plain_vit_breaks_it():
    model = vit()
    straight, turned = (relevance(rollout(attention_of(model, x))) for x in (IMAGE, IMAGE.rot90(1, (1, 2))))
    assert (straight.rot90(1, (1, 2)) - turned).abs().max() > 1e-3
    assert relevance(rollout(attention_of(vit("class_token"), IMAGE)), "class_token").shape == (1, 6, 6)


def test_feature_maps_of_the_hybrid_turn_exactly_and_those_of_a_vit_do_not():
    layers = ["stem.0", "stem.6", "blocks.0", "blocks.1.attention"]
    errors = inspection.residuals(hybrid(), layers, IMAGE, cyclic(4))
    assert list(errors) == [*layers, "logits"] and max(errors.values()) < 1e-10
    assert min(inspection.residuals(vit(), ["embed"], IMAGE, cyclic(4)).values()) > 1e-3
    found, expected = inspection.orbit_features(vit(), "blocks.0", IMAGE, cyclic(4))
    assert found.shape[2] == 1 and inspection.orbit_features(hybrid(), "blocks.0", IMAGE, cyclic(4))[0].shape[2] == 4
    assert inspection.relative_residual(found, expected) > 1e-2


@pytest.mark.parametrize("index", [cayley_index, gsa_index])
def test_feature_maps_of_a_group_attention_net(index):
    net = randomized(
        GroupAttentionNet(
            GroupAttentionNetConfig.stable(
                image_size=12, channels=8, heads=2, window=3, blocks=(0, 1), crops=(0,), index=index
            )
        )
    )
    both = [
        inspection.orbit_features(net, layer, IMAGE, cyclic(4), inverse_names=index is gsa_index)
        for layer in ("lifting", "layers.0", "layers.1")
    ]
    errors = [inspection.relative_residual(found, expected) for found, expected in both]
    assert max(errors[:2]) < 1e-10  # lifting and pool
    assert errors[2] < 1e-10 if index is cayley_index else errors[2] > 1e-8  # small here, and not rounding


def test_embeddings_make_a_closed_path_in_the_hybrid():
    images = inspection.turned(IMAGE, [0, 90, 180, 270])
    vectors = inspection.embeddings(hybrid(), ["blocks.1", "head"], images, poses=4)
    rings = vectors["blocks.1"].unflatten(1, (-1, 4))
    for k in range(4):
        assert (rings[k] - rings[0].roll(k, -1)).abs().max() < 1e-10
    assert (vectors["head"] - vectors["head"][0]).abs().max() < 1e-10  # a point
    outside = inspection.embeddings(vit(), ["head"], images)["head"]
    assert (outside - outside[0]).abs().max() > 1e-2


def test_tuning_curves_of_poses_are_shifted_copies():
    curves = inspection.tuning(hybrid(), "stem.2", IMAGE, [0, 90, 180, 270])
    for pose in range(4):
        assert (curves[:, :, pose] - curves[:, :, 0].roll(pose, 0)).abs().max() < 1e-10


def test_components_are_ordered_and_centered():
    points, shares = inspection.components(torch.randn(20, 6, generator=SEED), 3)
    assert points.mean(0).abs().max() < 1e-6
    assert shares[0] >= shares[1] >= shares[2] > 0


def test_probabilities_and_bad_input():
    model = vit()
    p = inspection.probabilities(model, IMAGE, [0, 30, 90])
    assert torch.allclose(p.sum(-1), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(p[1], model(rotate(IMAGE[None], 30)).softmax(-1)[0])
    with pytest.raises(ValueError, match="angles is empty"):
        inspection.probabilities(model, IMAGE, [])
    with pytest.raises(ValueError, match=r"\(channel, side, side\)"):
        inspection.turned(torch.ones(1, 4, 5), [0])
    with pytest.raises(KeyError, match="no layer 'blocks.7'"):
        inspection.features(model, ["blocks.7"], IMAGE[None])
    with pytest.raises(KeyError, match="recorded for a layer 'embed'"):
        inspection.attention(model, ["embed"], IMAGE[None])
    with pytest.raises(ValueError, match="as a map"):
        inspection.as_map(torch.ones(2, 7, 3))


def test_the_six_that_is_a_nine_upside_down():
    images = torch.zeros(3, 1, 4, 4)
    images[0, 0, 0], images[1, 0, 0, 0], images[1, 0, 3, 3] = 1, 1, 1  # a bar above; one dot above and one below

    def model(x):  # class 0: bright above; class 1: bright below
        return 20 * torch.stack([x[:, 0, 0].sum(-1) - x[:, 0, 3].sum(-1), x[:, 0, 3].sum(-1) - x[:, 0, 0].sum(-1)], 1)

    assert inspection.most_ambiguous(model, images, label=0, other=1) == 0


def test_compact_figures_are_for_notebooks_alone():
    assert compact_figures() is None


def test_the_opening_figure():
    frames, p = random(2, 8, 12, 12), {"one": random(2, 8, 5), "two <b>": random(2, 8, 5)}
    degrees = [45 * k for k in range(8)]
    page = turning_html(frames, degrees, [1, 3], p)
    assert page == turning_html(frames, degrees, [1, 3], p)
    assert "<b>two <b></b>" not in page and "two &lt;b&gt;" in page
    assert page.count("<svg class") == 4 and 'type="range"' in page and "aria-live" in page
    assert not re.search(r"https?:|src=[\"'](?!data:)", page)
    assert "prefers-reduced-motion" in page and '"autoplay": true' in turning_html(
        frames, degrees, [1, 3], p, autoplay=True
    )
    assert isinstance(turning_figure(frames[0], degrees, 1, {"one": p["one"][0]}), Figure)
    with pytest.raises(ValueError, match="angles is empty"):
        turning_html(frames, [], [1, 3], p)
    with pytest.raises(ValueError, match="where there are"):
        turning_html(frames, degrees[:7], [1, 3], p)
    with pytest.raises(ValueError, match="no model"):
        turning_html(frames, degrees, [1, 3], {})


def test_a_slideshow_describes_its_pictures():
    picture = figure_uri(attention.polar_logits({"a": random(8, 5)}, range(8), 2), dpi=30)
    page = slideshow([picture] * 2, ["0°", "45°"], ["first", "se</script>cond"], "a picture")
    assert 'alt="first"' in page and page.count("</script>") == 1
    with pytest.raises(ValueError, match="belong together"):
        slideshow([picture], ["0°", "45°"], ["first"], "a picture")
    with pytest.raises(ValueError, match="at least one"):
        slideshow([], [], [], "a picture")


def test_probabilities_at_no_angle_are_not_drawn():
    with pytest.raises(ValueError, match="angles is empty"):
        attention.polar_probabilities({"a": random(5, 4)}, [])
