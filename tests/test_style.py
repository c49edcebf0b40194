"""The look of the figures and the formatter of the tables."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from conftest import ROOT
from e2vit.experiments.records import Summary
from e2vit_book.hybrid.figures import counts
from e2vit_book.style import PALETTE, SERIES, TYPE, WIDTH, error_axis, interval_rows, look
from e2vit_book.tables import table


def summary(mean: float, half: float = 0.01) -> Summary:
    return Summary(mean, mean - half, mean + half, 3, 100, "seeds")


def test_every_color_stands_out_against_white():
    for color in (*SERIES, *(color for color, _ in PALETTE.values())):
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(color)]
        luminance = np.dot([0.2126, 0.7152, 0.0722], linear)
        assert 1.05 / (luminance + 0.05) > 3, color


def test_no_two_models_look_alike():
    assert len(set(PALETTE.values())) == len({color for color, _ in PALETTE.values()}) == len(PALETTE)
    assert look("hybrid, D4") == look("hybrid")
    assert look("a", 1) != look("b", 2)


def test_a_figure_leaves_the_settings_as_they_were():
    before = dict(plt.rcParams)
    counts({"ViT": 1.0}).canvas.draw()
    assert dict(plt.rcParams) == before


def test_errors_of_zero_lie_on_the_floor():
    _, ax = plt.subplots()
    ax.plot([1, 2], [0.0, 1e-3])
    error_axis(ax)
    assert list(ax.lines[0].get_ydata()) == [1e-16, 1e-3]
    assert ax.get_ylim()[0] < 1e-16 and ax.get_yscale() == "log"


def test_rows_are_in_percent_and_the_first_is_on_top():
    _, ax = plt.subplots()
    interval_rows(ax, ["hybrid", "ViT"], [summary(0.98), summary(0.9)])
    assert [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"] == [98]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_a_table_marks_the_best_within_its_interval_alone():
    rows = [{"a <b": "x<", "n": 1234, "accuracy": s} for s in (summary(0.9), summary(0.5), summary(0.885))]
    page = table(rows).data
    assert page.count("<b>") == 2 and "<b>90.00 % [89.00, 91.00]</b>" in page and "<b>50.00" not in page
    assert "1,234" in page and "x&lt;" in page and "a &lt;b" in page and page.count("<tr>") == 4
    assert "<b>" not in table(rows[::2]).data  # where all overlap, no difference is shown
    assert "–" in table([{"a": None, "b": float("nan")}]).data
    assert "no records" in table([]).data


@pytest.mark.parametrize("columns", [["n"], {"n": "number"}])
def test_columns_are_chosen_and_named(columns):
    page = table([{"n": 1, "m": 2}], columns).data
    assert ">1<" in page and ">2<" not in page and (">number<" in page) == isinstance(columns, dict)


SOURCES = sorted((ROOT / "src" / "e2vit_book").rglob("*.py"))
SIZE = re.compile(r"(?:fontsize|labelsize)\"?\s*[=:]\s*([\d.]+)")
WIDE = re.compile(r"(?:figsize|size)(?:, \w+)? ?= ?\((?!WIDTH\b)([\d.]+)?")


SETTINGS = re.compile(r"rcParams|rc_context|style\.use|\brc\(")


def unsuitable(text: str) -> list[str]:
    """Sizes that are smaller than the type of figures or wider than figures are, and changes of the settings."""
    small = [found[0] for found in SIZE.finditer(text) if float(found[1]) < TYPE]
    wide = [found[0] for found in WIDE.finditer(text) if not found[1] or float(found[1]) > WIDTH]
    return small + wide + SETTINGS.findall(text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_figure_is_wider_than_a_phone_can_show_has_smaller_type_or_changes_the_settings(path):
    allowed = ["rc_context"] if path.stem == "style" else []  # which gives them back as they were
    assert unsuitable(path.read_text(encoding="utf-8")) == allowed


def test_small_type_wide_figures_and_changed_settings_are_seen():
    """The control."""
    code = "ax.legend(fontsize=9)", "plt.subplots(figsize=(8.4, 3.4))", "size = (7.0, 2)", "plt.rcParams['a'] = 1"
    assert [len(unsuitable(line)) for line in code] == [1, 1, 1, 1]
    assert unsuitable("ax.text(0, 0, s, fontsize=20); figure(figsize=(WIDTH, 3))") == []
