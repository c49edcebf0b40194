"""The figures and drawings of the recap show their arguments."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from e2vit.models.transformer import sinusoidal_positions
from e2vit_book.drawing import drawing
from e2vit_book.recap import figures as recap

RANDOM = np.random.RandomState(0)
IMAGE = RANDOM.rand(28, 28)


def test_every_pair_of_axes_with_numbers_names_them():
    for figure in (
        recap.sinusoids(sinusoidal_positions(20, 12).numpy()),
        recap.learning_curve(np.array([2.0, 1.0]), np.array([0.5, 0.8]), 2),
        recap.confusion_matrix(np.diag([5, 6, 7])),
        recap.patches_and_tokens(IMAGE, 4),
    ):
        assert all(ax.get_xlabel() for ax in figure.axes if ax.get_xaxis().get_visible() and not ax.get_label())


@pytest.mark.parametrize("name", ["attention", "transformer", "vit", "hybrid"])
def test_a_drawing_has_a_title_and_takes_the_color_of_the_page(name):
    svg = drawing(name, "a < b").data
    tree = ElementTree.fromstring(svg)
    root = tree.find("{http://www.w3.org/2000/svg}svg")
    title, description = (root.find(f"{{http://www.w3.org/2000/svg}}{tag}") for tag in ("title", "desc"))
    assert root.get("aria-labelledby").split() == [title.get("id"), description.get("id")]
    assert len(title.text) > 10 and len(description.text) > 50
    assert "currentColor" in (root.get("stroke"), root.get("fill")) and not re.search(
        r'(stroke|fill)="(black|#0{3,6})"', svg
    )
    assert tree.find("figcaption").text == "a < b"


def test_the_words_show_their_weights():
    figure = recap.shaded_sentences([["it", "was", "wide"]], [np.array([0.2, 0.1, 0.7])], [0], ["after"])
    assert {"it", "was", "wide", "0.20", "0.10", "0.70"} <= {text.get_text() for text in figure.axes[0].texts}


def test_a_patch_is_a_row_of_its_own_pixels():
    shown = recap.patches_and_tokens(IMAGE, 4).axes[1].images[0].get_array()
    assert np.array_equal(shown[8], IMAGE[4:8, 4:8].ravel())  # the second patch of the second row
    assert shown.shape == (49, 16)


def test_similarity_of_a_place_with_itself_is_one_and_does_not_see_length():
    position = RANDOM.randn(9, 5)
    plain, scaled = (recap.positional_similarity(p, 3) for p in (position, position * RANDOM.rand(9, 1)))
    for k in range(9):
        first, second = (figure.axes[k].images[0].get_array() for figure in (plain, scaled))
        assert abs(first[k // 3, k % 3] - 1) < 1e-10 and np.abs(first - second).max() < 1e-10


def test_the_confusion_matrix_hides_what_was_right():
    ax = recap.confusion_matrix(np.array([[50, 1], [2, 60]])).axes[0]
    assert ax.collections[0].get_array().ravel().tolist() == [0, 1, 2, 0]
    assert [text.get_text() for text in ax.texts] == ["50", "1", "2", "60"]


def test_a_wider_band_says_fewer_images():
    few, many = (recap.accuracy_by_angle(np.arange(0, 91, 45.0), {"a": np.full(3, 0.8)}, n).axes[0] for n in (25, 2500))
    heights = [np.ptp(ax.collections[0].get_paths()[0].vertices[:, 1]) for ax in (few, many)]
    assert 8 < heights[0] / heights[1] < 11
