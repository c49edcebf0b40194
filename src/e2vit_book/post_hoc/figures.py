"""The figures of the post-hoc chapter: views, their combination, and what came of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy import ndarray
from torch import Tensor

from e2vit.experiments.records import Summary
from e2vit.metrics import reliability, wilson
from e2vit_book.style import SERIES, WIDTH, interval_rows, look, picture, styled

BLUE, ORANGE, GREEN = SERIES[:3]


@styled
def pipeline(
    views: Float[ndarray, "element row column"],
    probabilities: Float[ndarray, "element class_"],
    combined: Float[ndarray, " class_"],
    names: Sequence[str],
) -> Figure:
    """An image, its views, the probabilities that one model gives each, and the one answer that comes of them.

    names: of the views. The first view is the image itself.
    """
    count = len(views)
    figure = plt.figure(figsize=(WIDTH, 0.8 * count + 0.9))
    ratios = (1.2, 1.15, 1, 1.25, 1.2, 0.75, 1.5)
    grid = figure.add_gridspec(count, 7, width_ratios=ratios, left=0.02, right=0.98, top=0.92, bottom=0.11)
    middle = slice(count // 2 - 1, count // 2 + 1)
    image = figure.add_subplot(grid[middle, 0])
    picture(image, views[0], "image $x$", vmin=0, vmax=1)
    last = figure.add_subplot(grid[middle, 6])
    last.bar(range(len(combined)), combined, color=GREEN)
    last.set(title="one answer", xlabel="class", ylim=(0, 1), yticks=[0, 1], xticks=[0, 3, 6, 9])
    boxes = []
    for g in range(count):
        view, box, bars = (figure.add_subplot(grid[g, k]) for k in (2, 3, 4))
        picture(view, views[g], vmin=0, vmax=1)
        view.set_ylabel(names[g], rotation=0, ha="right", va="center")
        style: dict[str, Any] = {"boxstyle": "round,pad=0.05", "facecolor": "#dddddd", "edgecolor": "black"}
        box.add_patch(FancyBboxPatch((0.05, 0.22), 0.9, 0.56, **style))
        box.text(0.5, 0.5, "model", ha="center", va="center")
        box.set(xlim=(0, 1), ylim=(0, 1))
        box.axis("off")
        bars.bar(range(probabilities.shape[1]), probabilities[g], color=BLUE)
        bars.set(ylim=(0, 1), yticks=[], xticks=[])
        boxes.append((view, bars))
    boxes[0][0].set_title("views $g\\,x$")
    boxes[0][1].set_title("answers")
    boxes[-1][1].set(xlabel="class", xticks=[0, 9])
    figure.canvas.draw()
    for view, bars in boxes:
        _arrow(figure, image, view, 0.13)
        _arrow(figure, bars, last, 0.06)
    return figure


def _arrow(figure: Figure, start: Axes, end: Axes, gap: float) -> None:
    """From the right side of one panel to the left side of another, short of it by a gap."""
    a, b = start.get_position(), end.get_position()
    tail, tip = (a.x1 + 0.005, (a.y0 + a.y1) / 2), (b.x0 - gap, (b.y0 + b.y1) / 2)
    style: dict[str, Any] = {"arrowstyle": "->", "mutation_scale": 8, "color": "#888888"}
    figure.add_artist(FancyArrowPatch(tail, tip, transform=figure.transFigure, **style))


@styled
def accuracies(
    panels: Mapping[str, Mapping[str, Mapping[str, Summary]]], methods: Sequence[str], regimes: Mapping[str, str]
) -> Figure:
    """Test accuracy (%) of the methods with 95 % intervals: a panel for each setting, a look for each regime.

    panels: title → regime → method → summary. regimes: their order, and what they are called in the legend.
    """
    size = (WIDTH, (0.29 * len(methods) + 0.6) * len(panels) + 0.6)
    figure, axes = plt.subplots(len(panels), 1, figsize=size, layout="constrained", squeeze=False)
    for ax, (title, of_regime) in zip(axes.flat, panels.items(), strict=False):
        for k, (regime, label) in enumerate(regimes.items()):
            known = of_regime.get(regime, {})
            interval_rows(ax, methods, [known.get(method) for method in methods], label, k, 0.24 * (k - 1))
        ax.set_title(title)
    for ax in axes[-1]:
        ax.set_xlabel("test accuracy (%)")
    handles = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
    return figure


@styled
def winning_views(winners: Mapping[str, Float[ndarray, "turn image"]], degrees: Sequence[float], views: int) -> Figure:
    """Circular histograms of the most confident view: a row for each model, a column for each turn of the image.

    winners: the turn (degrees) of the winning view. The dashed ray marks the view that undoes the turn of the image.
    """
    shape = len(winners), len(degrees)
    size = (WIDTH, 1.5 * len(winners) + 0.2)
    polar: dict[str, Any] = {"projection": "polar"}
    figure, axes = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False, subplot_kw=polar)
    edges = (np.arange(views + 1) - 0.5) * 2 * np.pi / views
    for row, (name, turned) in zip(axes, winners.items(), strict=True):
        heights = [np.histogram(np.deg2rad(each), bins=edges)[0] / len(each) for each in turned]
        top = 1.05 * np.max(heights)
        for ax, height, degree in zip(row, heights, degrees, strict=True):
            ax.bar(edges[:-1] + np.pi / views, height, width=2 * np.pi / views, color=look(name)["color"])
            ax.plot([np.deg2rad(-degree)] * 2, [0, top], "--", color="black", linewidth=1.5)
            ax.set(ylim=(0, top), yticks=[], xticks=np.deg2rad([0, 90, 180, 270]), xticklabels=[])
            ax.set_title(f"{degree:g}°")
        row[0].set_ylabel(name, labelpad=12)
    return figure


@styled
def attention_over_views(
    weights: Float[ndarray, "turn element"],
    images: Float[ndarray, "turn row column"],
    degrees: Sequence[float],
) -> Figure:
    """The weight that the class token gives to every view (columns), for one image turned again and again (rows)."""
    count, views = weights.shape
    size = (WIDTH, 0.62 * count + 0.9)
    options: dict[str, Any] = {"sharey": "col", "width_ratios": (1, 8), "squeeze": False}
    figure, axes = plt.subplots(count, 2, figsize=size, layout="constrained", **options)
    for (view, bars), weight, image, degree in zip(axes, weights, images, degrees, strict=True):
        picture(view, image, vmin=0, vmax=1)
        view.set_ylabel(f"{degree:g}°", rotation=0, ha="right", va="center")
        shift = round(degree * views / 360)
        first = [(k + shift) % views == int(weights[0].argmax()) for k in range(views)]
        bars.bar(range(views), weight, color=[ORANGE if same else BLUE for same in first])
        bars.set(ylim=(0, 1.1 * weights.max()), xticks=[], yticks=[], xlim=(-0.6, views - 0.4))
    step = max(1, views // 8)
    axes[-1][1].set(xticks=range(0, views, step), xlabel="view (turned by, degrees)")
    axes[-1][1].set_xticklabels([f"{360 * k / views:g}" for k in range(0, views, step)])
    figure.supylabel("turn of the image", fontsize="medium")
    return figure


@styled
def six_or_nine(
    views: Float[ndarray, "element row column"],
    per_view: Float[ndarray, "element class_"],
    rules: Mapping[str, Float[ndarray, " class_"]],
) -> Figure:
    """Views of a digit with the probabilities of 6 and 9 below each; at the bottom, those of each rule for all views.

    views, per_view: the same number of views, equally spaced over the circle.
    """
    count = len(views)
    figure = plt.figure(figsize=(WIDTH, 4.6), layout="constrained")
    grid = figure.add_gridspec(3, count, height_ratios=(1, 1.2, 1.7))
    for k in range(count):
        ax, bars = figure.add_subplot(grid[0, k]), figure.add_subplot(grid[1, k])
        picture(ax, views[k], f"{360 * k / count:g}°", vmin=0, vmax=1)
        bars.bar([0, 1], per_view[k, [6, 9]], color=[BLUE, ORANGE])
        bars.set(ylim=(0, 1), xticks=[0, 1], xticklabels=["6", "9"], yticks=[0, 1])
        if k:
            bars.set_yticklabels([])
    ax = figure.add_subplot(grid[2, :])
    for offset, digit, color, hatch in ((-0.2, 6, BLUE, ""), (0.2, 9, ORANGE, "//")):
        heights = [p[digit] for p in rules.values()]
        ax.bar(np.arange(len(rules)) + offset, heights, 0.38, color=color, hatch=hatch, label=f"{digit}")
    ax.set(ylim=(0, 1), yticks=[0, 0.5, 1], xticks=range(len(rules)), xticklabels=list(rules), ylabel="all views")
    ax.legend(title="class", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@styled
def shifts(pixels: Sequence[int], changed: Mapping[str, Sequence[float]]) -> Figure:
    """The share of images (%) whose class changes when they move by some pixels."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.2), layout="constrained")
    for k, (name, fractions) in enumerate(changed.items()):
        ax.plot(pixels, 100 * np.asarray(fractions), label=name, **look(name, k))
    ax.set(xlabel="shift to the right (pixels)", ylabel="class changed (% of images)", xticks=list(pixels))
    ax.set_ylim(0, None)
    ax.legend()
    return figure


@styled
def calibration(
    answers: Mapping[str, Float[Tensor, "image class_"]], labels: Int64[Tensor, " image"], least: int = 20
) -> Figure:
    """Accuracy against confidence with 95 % intervals in ten bins, a panel for each method.

    answers: logits. least: bins with fewer images are left out.
    """
    shape = -(-len(answers) // 2), 2
    options: dict[str, Any] = {"sharex": True, "sharey": True, "squeeze": False}
    figure, axes = plt.subplots(*shape, figsize=(WIDTH, 2.5 * shape[0] + 0.3), layout="constrained", **options)
    for ax, (name, logits) in zip(axes.flat, answers.items(), strict=False):
        confidence, right, count = (x.numpy() for x in reliability(logits, labels))
        full = count >= least
        low, high = (
            np.array([wilson(p, int(n)) for p, n in zip(right[full], count[full], strict=True)]).reshape(-1, 2).T
        )
        reach = np.clip([right[full] - low, high - right[full]], 0, None)
        ax.plot([0, 1], [0, 1], ":", color="gray")
        ax.errorbar(confidence[full], right[full], yerr=reach, fmt="o-", color=BLUE, capsize=2)
        ax.set(
            title=name.replace(" of ", "\nof "), xlim=(0, 1.03), ylim=(0, 1.03), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1]
        )
    for ax in axes[-1]:
        ax.set_xlabel("confidence")
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy")
    return figure
