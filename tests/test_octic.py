"""The vision transformer in irreducible coordinates: exact over D4, in every layer, and what would break it."""

import pytest
import torch
from einops import einsum, rearrange
from torch.utils.flop_counter import FlopCounterMode, mm_flop

from e2vit.actions import act, invariance_error
from e2vit.groups import dihedral
from e2vit.models import OcticViT, OcticViTConfig
from e2vit.models.octic import OcticLinear, OcticTable, normalized, to_parts
from e2vit.testing import randomized

D4 = dihedral(4)
SHAPE = {"image_size": 12, "in_channels": 2, "classes": 5, "patch_size": 4, "width": 48, "depth": 2, "heads": 3}
IMAGES = torch.randn(3, 2, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def moved(g: int, x: torch.Tensor) -> torch.Tensor:
    """How D4 acts on the parts of tokens without places: in the regular representation, elements are permuted."""
    regular = einsum(to_parts(D4), x, "part g, part ... -> g ...")
    return einsum(to_parts(D4), regular[D4.product[D4.inverse[g]]], "part g, g ... -> part ...")


def test_the_parts_are_orthogonal_and_each_is_moved_by_itself():
    parts = to_parts(D4)
    assert torch.allclose(parts @ parts.T, torch.eye(8, dtype=torch.float64), atol=1e-12)
    for g in range(8):
        matrix = moved(g, torch.eye(8, dtype=torch.float64))
        blocks = torch.block_diag(*[matrix[i : i + 1, i : i + 1] for i in range(4)], D4.matrices[g], D4.matrices[g])
        assert torch.allclose(matrix, blocks, atol=1e-12)


@pytest.mark.parametrize(("image_size", "patch_size"), [(12, 4), (15, 3), (8, 2)], ids=str)
def test_the_network_is_invariant_under_all_eight_elements(image_size, patch_size):
    model = randomized(OcticViT(OcticViTConfig(**SHAPE | {"image_size": image_size, "patch_size": patch_size})))
    images = torch.randn(3, 2, image_size, image_size, dtype=torch.float64)
    assert model.head.weight.any() and model(images).std() > 0
    assert invariance_error(model, images, D4) < 1e-10
    assert invariance_error(model, images, dihedral(8)) > 1e-3, "eighths of a turn leave the grid"


def test_a_free_position_table_breaks_it():
    model = randomized(OcticViT(OcticViTConfig(**SHAPE)))
    model.position.forward = lambda: torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    assert invariance_error(model, IMAGES, D4) > 1e-2


def test_a_bias_outside_a1_breaks_it():
    layer = randomized(OcticLinear(24, 40))
    x = torch.randn(8, 7, 3, dtype=torch.float64)
    for g in range(8):
        assert (layer(moved(g, x)) - moved(g, layer(x))).abs().max() < 1e-10
    assert max((moved(g, layer(x) + 1) - moved(g, layer(x)) - 1).abs().max() for g in range(8)) > 0.1


def test_tokens_move_as_their_parts_do():
    model = randomized(OcticViT(OcticViTConfig(**SHAPE)))
    expected = model.blocks[0](model.tokens(IMAGES))
    for g in range(8):
        found = model.blocks[0](model.tokens(act(D4, g, IMAGES)))
        grid = rearrange(expected, "part batch (row column) d -> batch (part d) row column", row=3)
        turned = rearrange(act(D4, g, grid), "batch (part d) row column -> part batch (row column) d", part=8)
        assert (found - moved(g, turned)).abs().max() < 1e-10 * expected.abs().max()


def test_a_linear_layer_has_an_eighth_of_the_weights_and_three_sixteenths_of_the_multiplications():
    layer = OcticLinear(64, 128)
    assert layer.signs.numel() + layer.vectors.numel() == 64 * 128 // 8
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.addmm_: lambda _, a, b, **kwargs: mm_flop(a, b)}
    ) as counter:
        layer(torch.randn(8, 10, 8))
    assert counter.get_total_flops() == 2 * 10 * 64 * 128 * 3 // 16


def test_every_table_that_the_group_moves_along_can_be_learned():
    for side in (2, 3, 4):  # the average over the group of anything is such a table, and all of them are averages
        table = randomized(OcticTable(D4, side, 1, 1.0))
        spanned = torch.autograd.functional.jacobian(
            lambda quarter, table=table: torch.func.functional_call(table, {"quarter": quarter}), table.quarter
        )
        every = torch.eye(8 * side**2, dtype=torch.float64).unflatten(1, (8, 1, side, side))
        average = sum(moved(g, act(D4, g, every[:, :, 0]).movedim(1, 0)) for g in range(8)) / 8
        assert torch.linalg.matrix_rank(spanned.reshape(8 * side**2, -1)) == torch.linalg.matrix_rank(
            average.movedim(0, 1).flatten(1)
        )


def test_gradients_are_those_of_finite_differences():
    layer = randomized(OcticLinear(16, 24))
    x = torch.randn(8, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(normalized(x)), (x, *layer.parameters()))
