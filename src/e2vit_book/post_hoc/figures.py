"""The figures of the post-hoc chapter: views, their combination, and what came of it."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy import ndarray

COLORS = sns.color_palette("colorblind")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def pipeline(
    views: Float[ndarray, "element row column"],
    probabilities: Float[ndarray, "element class_"],
    combined: Float[ndarray, " class_"],
    names: Sequence[str],
) -> Figure:
    """An image, its views, what one model says of each, and the one answer that comes of them.

    names: of the views. The first view is the image itself.
    """
    count = len(views)
    figure = plt.figure(figsize=(7.6, 0.95 * count + 0.6))
    grid = figure.add_gridspec(
        count, 7, width_ratios=(1.2, 0.5, 1, 0.9, 1.6, 0.5, 1.8), left=0.02, right=0.98, top=0.9, bottom=0.08
    )
    middle = slice(count // 2 - 1, count // 2 + 1)
    image = figure.add_subplot(grid[middle, 0])
    image.imshow(views[0], cmap="gray", vmin=0, vmax=1)
    image.set(title="image $x$", xticks=[], yticks=[])
    last = figure.add_subplot(grid[middle, 6])
    last.bar(range(len(combined)), combined, color=COLORS[2])
    last.set(title="one answer", xlabel="class", ylabel="probability", ylim=(0, 1), xticks=range(len(combined)))
    boxes = []
    for g in range(count):
        view, box, bars = (figure.add_subplot(grid[g, k]) for k in (2, 3, 4))
        view.imshow(views[g], cmap="gray", vmin=0, vmax=1)
        view.set(xticks=[], yticks=[])
        view.set_ylabel(names[g], rotation=0, ha="right", va="center", fontsize=8)
        box.add_patch(
            FancyBboxPatch((0.12, 0.25), 0.76, 0.5, boxstyle="round,pad=0.05", facecolor="#dddddd", edgecolor="black")
        )
        box.text(0.5, 0.5, "model", ha="center", va="center", fontsize=8, color="black")
        box.set(xlim=(0, 1), ylim=(0, 1))
        box.axis("off")
        bars.bar(range(probabilities.shape[1]), probabilities[g], color=COLORS[0])
        bars.set(ylim=(0, 1), yticks=[], xticks=[])
        boxes.append((view, bars))
    boxes[0][0].set_title("views $g\\,x$")
    boxes[0][1].set_title("probabilities")
    boxes[-1][1].set(xlabel="class", xticks=range(probabilities.shape[1]))
    figure.canvas.draw()
    for view, bars in boxes:
        _arrow(figure, image, view, 0.065)
        _arrow(figure, bars, last, 0.085)
    return figure


def _arrow(figure: Figure, start, end, gap: float) -> None:
    """From the right side of one panel to the left side of another, short of it by a gap."""
    a, b = start.get_position(), end.get_position()
    figure.add_artist(
        FancyArrowPatch(
            (a.x1 + 0.005, (a.y0 + a.y1) / 2),
            (b.x0 - gap, (b.y0 + b.y1) / 2),
            transform=figure.transFigure,
            arrowstyle="->",
            mutation_scale=8,
            color="#888888",
        )
    )


def accuracies(tables: Mapping[str, pd.DataFrame], regimes: Mapping[str, str]) -> Figure:
    """Test accuracy (%) of every method with its interval: a panel for each setting, a marker for each regime.

    tables: a setting's name → columns method, regime, accuracy, low, high (fractions).
    regimes: their order, and what they are called in the legend.
    """
    methods = list(dict.fromkeys(name for frame in tables.values() for name in frame["method"]))
    figure, axes = plt.subplots(
        1,
        len(tables),
        figsize=(3.9 * len(tables) + 1.2, 0.25 * len(methods) + 1.4),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for ax, (setting, frame) in zip(axes[0], tables.items(), strict=True):
        for k, (regime, label) in enumerate(regimes.items()):
            rows = frame[frame["regime"] == regime]
            if rows.empty:
                continue
            y = np.array([methods.index(name) for name in rows["method"]]) + 0.22 * (k - 1)
            x, low, high = (100 * rows[name].to_numpy() for name in ("accuracy", "low", "high"))
            ax.errorbar(
                x,
                y,
                xerr=[np.maximum(x - low, 0), np.maximum(high - x, 0)],
                fmt=MARKERS[k],
                color=COLORS[k],
                markersize=4.5,
                capsize=2,
                linewidth=1,
                label=label,
            )
        ax.set(
            title=setting,
            xlabel="test accuracy (%)",
            yticks=range(len(methods)),
            yticklabels=[name.replace("_", " ") for name in methods],
        )
        ax.grid(axis="x", alpha=0.3)
    axes[0][0].invert_yaxis()
    handles = {label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def agreement(fractions: Float[ndarray, "method method"], names: Sequence[str]) -> Figure:
    """How often (%) two methods give an image the same class."""
    figure, ax = plt.subplots(figsize=(6.8, 5.6), layout="constrained")
    percent = 100 * fractions
    picture = ax.imshow(percent, cmap="cividis", vmin=percent.min(), vmax=100)
    for i in range(len(names)):
        for j in range(len(names)):
            dark = percent[i, j] < (percent.min() + 100) / 2
            ax.text(
                j, i, f"{percent[i, j]:.4g}", ha="center", va="center", fontsize=7, color="white" if dark else "black"
            )
    ax.set(xticks=range(len(names)), yticks=range(len(names)), yticklabels=names)
    ax.set_xticklabels(names, rotation=40, ha="right")
    figure.colorbar(picture, ax=ax, label="same class (% of the images)")
    return figure


def winning_views(winners: Mapping[str, Float[ndarray, "turn image"]], degrees: Sequence[float], views: int) -> Figure:
    """Circular histograms of the view that is surest, one row for each model, one column for each turn of the image.

    winners: the turn (degrees) of the winning view. The dashed ray marks the view that undoes the turn of the image.
    """
    figure, axes = plt.subplots(
        len(winners),
        len(degrees),
        figsize=(1.9 * len(degrees), 2.3 * len(winners) + 0.2),
        layout="constrained",
        squeeze=False,
        subplot_kw={"projection": "polar"},
    )
    edges = (np.arange(views + 1) - 0.5) * 2 * np.pi / views
    for row, (name, turned) in zip(axes, winners.items(), strict=True):
        top = max(np.histogram(np.deg2rad(each), bins=edges)[0].max() for each in turned) / turned.shape[1]
        for k, (ax, each, degree) in enumerate(zip(row, turned, degrees, strict=True)):
            counts, _ = np.histogram(np.deg2rad(each), bins=edges)
            ax.bar(
                edges[:-1] + np.pi / views,
                100 * counts / len(each),
                width=2 * np.pi / views,
                color=COLORS[0],
                edgecolor="white",
                linewidth=0.5,
            )
            ax.plot([np.deg2rad(-degree)] * 2, [0, 105 * top], "--", color=COLORS[1], linewidth=2)
            ax.set(ylim=(0, 105 * top), yticks=[], xticks=np.deg2rad([0, 90, 180, 270]))
            ax.set_title(f"turned by {degree:g}°", fontsize=9)
            ax.tick_params(labelsize=7, pad=-2)
            if k == 0:
                ax.set_ylabel(f"{name}\n(% of the images)", labelpad=22, fontsize=8)
    return figure


def attention_over_views(
    weights: Float[ndarray, "turn element"],
    images: Float[ndarray, "turn row column"],
    degrees: Sequence[float],
) -> Figure:
    """The weight that the class token gives to every view (columns), for one image turned again and again (rows)."""
    count, views = weights.shape
    figure, axes = plt.subplots(
        count,
        2,
        figsize=(7, 0.62 * count + 0.7),
        layout="constrained",
        sharey="col",
        width_ratios=(1, 11),
        squeeze=False,
    )
    top = weights.max() * 1.1
    for (picture, bars), weight, image, degree in zip(axes, weights, images, degrees, strict=True):
        picture.imshow(image, cmap="gray", vmin=0, vmax=1)
        picture.set(xticks=[], yticks=[])
        picture.set_ylabel(f"{degree:g}°", rotation=0, ha="right", va="center")
        shift = round(degree * views / 360)
        colors = [COLORS[1] if (k + shift) % views == int(weights[0].argmax()) else COLORS[0] for k in range(views)]
        bars.bar(range(views), weight, color=colors)
        bars.set(ylim=(0, top), xticks=[], xlim=(-0.6, views - 0.4))
    axes[-1][1].set(xticks=range(views), xlabel="view (turned by, degrees)")
    axes[-1][1].set_xticklabels([f"{360 * k / views:g}" for k in range(views)], fontsize=7)
    figure.supylabel("turn of the image, and the weight of each view")
    return figure


def six_or_nine(
    views: Float[ndarray, "element row column"],
    per_view: Float[ndarray, "element class_"],
    rules: Mapping[str, Float[ndarray, " class_"]],
) -> Figure:
    """Some views of a digit, each view's probabilities of 6 and 9 under it, and those of each rule for all of them.

    views, per_view: the same number of views, equally spaced over the circle.
    """
    count = len(views)
    figure = plt.figure(figsize=(7.6, 3.6), layout="constrained")
    grid = figure.add_gridspec(2, count + 4, height_ratios=(1, 1.6))
    for k in range(count):
        ax, bars = figure.add_subplot(grid[0, k]), figure.add_subplot(grid[1, k])
        ax.imshow(views[k], cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[], title=f"{360 * k / count:g}°")
        bars.bar([0, 1], per_view[k, [6, 9]], color=[COLORS[0], COLORS[1]])
        bars.set(ylim=(0, 1), xticks=[0, 1], yticks=[0, 0.5, 1])
        bars.set_xticklabels(["6", "9"])
        if k:
            bars.set_yticklabels([])
        else:
            bars.set_ylabel("probability of a view")
    ax = figure.add_subplot(grid[:, count:])
    x = np.arange(len(rules))
    for offset, digit, color, hatch in ((-0.2, 6, COLORS[0], ""), (0.2, 9, COLORS[1], "//")):
        ax.bar(x + offset, [p[digit] for p in rules.values()], 0.38, color=color, hatch=hatch, label=f"{digit}")
    ax.set(ylim=(0, 1.4), yticks=[0, 0.5, 1], xticks=x, ylabel="probability, all views")  # room for the legend
    ax.set_xticklabels([name.replace(" ", "\n") for name in rules], fontsize=8)
    ax.legend(title="class", frameon=False, ncols=2, loc="upper center")
    return figure


def shifts(pixels: Sequence[int], changed: Mapping[str, Sequence[float]]) -> Figure:
    """The share of images (%) whose class changes when they move by some pixels."""
    figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    for k, (name, fractions) in enumerate(changed.items()):
        ax.plot(pixels, 100 * np.asarray(fractions), marker=MARKERS[k], color=COLORS[k], label=name)
    ax.set(xlabel="shift to the right (pixels)", ylabel="class changed (% of the images)", xticks=list(pixels))
    ax.legend(frameon=False)
    return figure


def reliability(curves: Mapping[str, tuple[ndarray, ndarray, ndarray]]) -> Figure:
    """Accuracy against confidence, one curve for each method; on the diagonal confidence is deserved.

    curves: mean confidence, accuracy and number of images of each bin. Small bins are drawn small.
    """
    figure, ax = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
    ax.plot([0, 1], [0, 1], ":", color="gray", label="deserved")
    for k, (name, (confidence, right, count)) in enumerate(curves.items()):
        full = count > 0
        ax.plot(confidence[full], right[full], color=COLORS[k], linewidth=1, alpha=0.7)
        ax.scatter(
            confidence[full],
            right[full],
            s=12 + 60 * np.sqrt(count[full] / count.sum()),
            color=COLORS[k],
            marker=MARKERS[k],
            label=name,
        )
    ax.set(xlabel="confidence (largest probability)", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
    ax.legend(frameon=False, loc="upper left", fontsize=8)
    return figure


def cost_against_accuracy(frame: pd.DataFrame, regimes: Mapping[str, str]) -> Figure:
    """Test accuracy (%) against milliseconds for each image.

    frame: columns method, regime, accuracy (a fraction), milliseconds.
    """
    figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for k, (regime, label) in enumerate(regimes.items()):
        rows = frame[frame["regime"] == regime]
        if not rows.empty:
            ax.scatter(rows["milliseconds"], 100 * rows["accuracy"], marker=MARKERS[k], color=COLORS[k], label=label)
    # Methods of equal cost stand in one column: only the cheap ones, the best and the worst carry names.
    named = {
        frame["accuracy"].idxmax(),
        frame["accuracy"].idxmin(),
        *frame.index[frame["milliseconds"] < 0.5 * frame["milliseconds"].max()],
    }
    for index in named:
        row = frame.loc[index]
        ax.annotate(
            row["method"].replace("_", " "),
            (row["milliseconds"], 100 * row["accuracy"]),
            fontsize=7,
            xytext=(4, 4),
            textcoords="offset points",
        )
    ax.set(xlabel="milliseconds for an image, one core", ylabel="test accuracy (%)", xscale="log")
    ax.margins(x=0.15)
    ax.legend(frameon=False)
    return figure
