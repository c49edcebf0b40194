"""The plain vision transformer: where its positions begin, and what it leaves out while it is trained."""

import pytest
import torch

from e2vit.models import ViT, ViTConfig

SHAPE = {"image_size": 12, "in_channels": 2, "classes": 5, "patch_size": 4, "width": 8, "depth": 1, "heads": 2}


def test_positions_that_begin_as_waves_are_alike_where_patches_are_near():
    vit = ViT(ViTConfig(**SHAPE | {"image_size": 28, "width": 96}, initial_position="sinusoidal"))
    grid = vit.position[0].detach().unflatten(0, (7, 7))
    to_center = (grid - grid[3, 3]).norm(dim=-1)
    assert to_center[3, 4] < to_center[3, 5] < to_center[3, 6]
    assert torch.allclose(to_center[3, 4], to_center[4, 3])
    drawn = ViT(ViTConfig(**SHAPE | {"image_size": 28, "width": 96})).position[0].detach().unflatten(0, (7, 7))
    distance = (drawn - drawn[3, 3]).norm(dim=-1)
    assert distance[3, 4] > 0.5 * distance[0, 0], "positions drawn at random know no neighbors"


def test_the_class_token_has_no_wave():
    vit = ViT(ViTConfig(**SHAPE, readout="class_token", initial_position="sinusoidal"))
    assert vit.position.shape == (1, 10, 8)
    assert vit.position[0, 0].abs().max() < 0.2 < vit.position[0, 1].abs().max()


@pytest.mark.parametrize(("readout", "kept"), [("mean", 6), ("class_token", 7)])
def test_a_share_of_the_patches_is_left_out_in_training_alone(readout, kept):
    vit = ViT(ViTConfig(**SHAPE, readout=readout, token_dropout=0.3))
    images, lengths = torch.rand(3, 2, 12, 12), []
    vit.blocks[0].register_forward_hook(lambda layer, inputs, output: lengths.append(output.shape[1]))
    vit.train()(images)
    assert torch.equal(vit.eval()(images), vit(images)), "nothing is left to chance when the model is used"
    assert lengths == [kept, *[9 + (readout == "class_token")] * 2]


def test_what_is_kept_are_tokens_of_the_image_and_the_class_token_is_among_them():
    vit = ViT(ViTConfig(**SHAPE, readout="class_token", token_dropout=0.5)).train()
    tokens = vit.tokens(torch.rand(4, 2, 12, 12))
    kept = vit._seen(tokens)
    assert torch.equal(kept[:, 0], tokens[:, 0])
    for image in range(4):
        places = [(tokens[image] == token).all(-1).nonzero().item() for token in kept[image]]
        assert len(set(places)) == len(places)
