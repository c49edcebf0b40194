"""One look for all figures: a color and a marker for each model, an axis for errors, a dot plot with intervals.

Figures stand on a white card in both themes of the page, so colors are chosen for contrast against white (3:1 or more).
They are at most WIDTH inches wide with type of TYPE points, so that type is as large as captions on a phone.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from types import MappingProxyType
from typing import Any, ParamSpec

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import LogLocator

from e2vit.experiments.records import Summary
from e2vit.metrics import Difference

P = ParamSpec("P")
WIDTH = 4.8  # inches; book.css shows a figure as wide as that or as the screen, whichever is less
TYPE = 12.0  # points
DPI = 135
LOOK = {
    "font.size": TYPE,
    "axes.titlesize": "medium",
    "figure.titlesize": "medium",
    "figure.labelsize": "medium",
    "figure.dpi": DPI,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a function that draws a figure: type of TYPE points, no frame around legends, axes on two sides.

    The figure is closed, so that a notebook shows it once, as the value of its cell.
    """

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(LOOK):
            figure = draw(*args, **kwargs)
        plt.close(figure)
        return figure

    return drawn


# Hues after Okabe and Ito (2008), darkened until thin lines can be seen on white.
PALETTE: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "hybrid": ("#0072B2", "o"),
        "hybrid over D8": ("#4B5FBF", "H"),
        "pooled hybrid": ("#7A94B8", "<"),
        "octic ViT": ("#A3403B", "p"),
        "ViT": ("#C97B00", "s"),  # trained on turned digits
        "ViT, upright": ("#D55E00", "D"),
        "symmetrized ViT": ("#8C5A00", "h"),
        "G-CNN": ("#008F68", "^"),
        "CNN": ("#6B6B6B", "v"),
        "GE-ViT": ("#BF5690", "P"),
        "GSA-Net": ("#7B4FA3", "X"),
        "Cayley table": ("#2B8CC4", "d"),
        "stable positions": ("#117A6B", "*"),  # the Cayley table with the stable positions
        "attention without a group": ("#93752F", ">"),
    }
)
SERIES = ("#0072B2", "#C97B00", "#008F68", "#BF5690", "#2B8CC4", "#D55E00", "#7B4FA3", "#6B6B6B")  # what is no model
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def look(name: str, k: int = 0) -> dict[str, Any]:
    """Color and marker of a model; of the k-th series when the name, up to a comma, is not in the palette."""
    for key in (name, name.split(", ")[0]):
        if key in PALETTE:
            return dict(zip(("color", "marker"), PALETTE[key], strict=True))
    return {"color": SERIES[k % len(SERIES)], "marker": MARKERS[k % len(MARKERS)]}


def picture(
    ax: Axes, image: np.ndarray, title: str = "", cmap: str = "gray", size: float | None = None, **how: Any
) -> AxesImage:
    """Draw an image or a map without ticks, under its title of that size (points); how: as for ``imshow``."""
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=size)
    return ax.imshow(image, cmap=cmap, **how)


def error_axis(ax: Axes, floor: float = 1e-16) -> None:
    """Make the vertical axis a logarithmic one of errors: what lies below the floor, such as zero, is drawn on it."""
    for line in ax.lines:
        line.set_ydata(np.maximum(np.asarray(line.get_ydata(), dtype=float), floor))
    ax.set_yscale("log")
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ax.lines] or [np.array([1.0])])
    ax.set_ylim(floor / 4, max(4 * float(np.nanmax(values)), 10 * floor))
    ax.yaxis.set_major_locator(LogLocator(numticks=8))
    ax.grid(axis="y", alpha=0.3)


def interval_rows(
    ax: Axes, names: Sequence[str], summaries: Sequence[Summary | None], label: str = "", k: int = 0, shift: float = 0.0
) -> None:
    """Draw a row for each name, the first on top: the mean (%) as a dot and its 95 % interval as a line.

    summaries: None leaves its row empty.
    label: of the series, drawn in the k-th look; without one each row has the look of its own name.
    shift: of the dots, in rows, so that several series share the same rows.
    """
    for row, (name, summary) in enumerate(zip(names, summaries, strict=True)):
        if summary is not None:
            color, marker = (look(label, k) if label else look(name)).values()
            mean, low, high = (100 * value for value in (summary.mean, summary.low, summary.high))
            reach = np.nan_to_num([[max(mean - low, 0)], [max(high - mean, 0)]])
            ax.errorbar(mean, row + shift, xerr=reach, fmt=marker, color=color, capsize=3, label=label)
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    ax.grid(axis="x", alpha=0.3)


def difference_rows(ax: Axes, found: Mapping[str, Difference], color: str) -> None:
    """Draw a row for each difference (points), the first on top, with its interval; gray and open: it holds zero."""
    for row, each in enumerate(found.values()):
        mean, low, high = (100 * value for value in (each.mean, each.low, each.high))
        drawn = color if each.shown else "0.45"
        face = drawn if each.shown else "white"
        ax.errorbar(mean, row, xerr=[[mean - low], [high - mean]], fmt="o", color=drawn, mfc=face, capsize=3)
    ax.axvline(0, color="0.3", linewidth=1)
    ax.set(yticks=range(len(found)), yticklabels=list(found), ylim=(max(len(found), 1) - 0.5, -0.5))
    ax.grid(axis="x", alpha=0.3)
