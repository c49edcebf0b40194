"""The figures on groups and positions show what they were given, and keep to themselves."""

import numpy as np
import pytest
import torch

from e2vit.groups import cayley_index, cyclic, dihedral, gevit_index, gsa_index
from e2vit.layers.position import seen_offsets
from e2vit_book.positions import figures as position

RANDOM = np.random.RandomState(0)
QUARTERS = ["0°", "90°", "180°", "270°"]


def seen(group, side):
    return (side // 2) * seen_offsets(group, side, side, False, torch.float64, torch.device("cpu")).numpy()


def cube(group, index, r=1):
    table, p = index(group), group.product[r]
    return table.numpy(), table[p][:, p][:, :, p].numpy()


def test_the_product_table_shows_products():
    group, pictures = dihedral(2), RANDOM.rand(4, 3, 3)
    axes = np.array(position.product_table(pictures, group.product.numpy(), list("abcd")).axes).reshape(5, 5)
    for g in range(4):
        for h in range(4):
            assert np.array_equal(axes[g + 1, h + 1].images[0].get_array(), pictures[group.product[g, h]])


def test_index_maps_of_the_identity_are_the_rows_and_columns_and_a_quarter_turn_turns_them():
    axes = np.array(position.index_maps(seen(cyclic(4), 5), QUARTERS).axes[:8]).reshape(2, 4)
    rows, columns = ([ax.images[0].get_array() for ax in line] for line in axes)
    assert np.allclose(rows[0], np.arange(-2, 3)[:, None] * np.ones(5))
    assert np.allclose(columns[0], np.arange(-2, 3) * np.ones((5, 1)))
    for pose in range(4):
        assert np.allclose(rows[pose], np.rot90(rows[0], pose))
        assert np.allclose(columns[pose], np.rot90(columns[0], pose))


@pytest.mark.parametrize(
    ("group", "index", "differ"),
    [
        (cyclic(4), gsa_index, True),
        (cyclic(4), gevit_index, False),
        (cyclic(4), cayley_index, False),
        (dihedral(4), gevit_index, True),
        (dihedral(4), cayley_index, False),
    ],
)
def test_crosses_mark_where_the_turned_copy_differs(group, index, differ):
    table, turned = cube(group, index)
    copy = position.index_cubes({"some": (table, turned)}).axes[1]
    assert sum(len(line.get_xdata()) for line in copy.lines) == (table != turned)[:4].sum()
    assert (table != turned).any() == differ
