"""The figures on faults: errors between the quarter turns, transposed digits, index tables, sizes, positions."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray

from e2vit_book.style import MARKERS, SERIES, WIDTH, error_axis, picture, styled

EXACT = 1e-16


@styled
def shares(rungs: Mapping[str, Mapping[str, Float[ndarray, " layer"]]], layers: Sequence[str]) -> Figure:
    """Draw what each cause contributes to the squared error (%), a stacked bar for each group and layer.

    rungs: group → causes in order → part of the squared error of each layer; negative parts are drawn as none.
    """
    bars = [(group, number) for group in rungs for number in range(len(layers))]
    figure, ax = plt.subplots(figsize=(WIDTH, 0.42 * len(bars) + 1.4), layout="constrained")
    left = np.zeros(len(bars))
    whole = np.array([sum(max(part[number], 0) for part in rungs[group].values()) for group, number in bars])
    for color, cause in zip(SERIES, next(iter(rungs.values())), strict=False):
        width = 100 * np.array([max(rungs[group][cause][number], 0) for group, number in bars]) / whole
        drawn = ax.barh(range(len(bars)), width, left=left, color=color, label=cause, edgecolor="white")
        ax.bar_label(
            drawn, [f"{value:.0f}" if value > 7 else "" for value in width], label_type="center", color="white"
        )
        left += width
    ax.set(xlabel="share of the squared error at 45° (%)", xlim=(0, 100))
    ax.set(yticks=range(len(bars)), yticklabels=[f"{group}, {layers[number]}" for group, number in bars])
    ax.invert_yaxis()
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@styled
def artifact(rows: Mapping[str, tuple[ndarray, ndarray, ndarray]]) -> Figure:
    """Draw for every turn: the turned image, the map of it, the turned map of the upright image, and their difference.

    rows: what is tried → image, f(turned), turned f, each (row, column). The difference has half the scale of the maps.
    """
    size = (WIDTH, 1.25 * len(rows) + 0.5)
    figure, axes = plt.subplots(len(rows), 4, figsize=size, layout="constrained", squeeze=False)
    for line, (name, (image, found, expected)) in zip(axes, rows.items(), strict=True):
        low, high = min(found.min(), expected.min()), max(found.max(), expected.max())
        reach = (high - low) / 2
        picture(line[0], image)
        for ax, values in zip(line[1:3], (found, expected), strict=True):
            picture(ax, values, cmap="cividis", vmin=low, vmax=high)
        shown = picture(line[3], found - expected, cmap="RdBu_r", vmin=-reach, vmax=reach)
        figure.colorbar(shown, ax=line[3], shrink=0.85)
        line[0].set_ylabel(name)
    for ax, title in zip(axes[0], ("turned\nimage", "map\nof it", "turned\nmap", "differ-\nence"), strict=True):
        ax.set_title(title)
    return figure


@styled
def transposed(
    images: Float[ndarray, "image row column"],
    accuracies: Mapping[str, Mapping[str, tuple[float, float, float]]],
) -> Figure:
    """Draw digits as they are and as row-by-row reading shows them, and the accuracy (%) of a network on both.

    accuracies: which digits → how they are read → accuracy, low, high (fractions).
    """
    figure = plt.figure(figsize=(WIDTH, 5.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.3), squeeze=False)[:, 0]
    axes, ax = above.subplots(2, len(images)), below.subplots()
    for row, way in enumerate(next(iter(accuracies.values()))):
        for panel, image in zip(axes[row], images, strict=True):
            picture(panel, image.T if row else image, cmap="gray_r")
        axes[row, 0].set_ylabel(way)
        rate, low, high = 100 * np.array([of[way] for of in accuracies.values()]).T
        x, reach = np.arange(len(accuracies)) + 0.4 * (row - 0.5), [rate - low, high - rate]
        bars = ax.bar(x, rate, 0.38, yerr=reach, capsize=3, color=SERIES[row], label=way, hatch=("", "//")[row])
        ax.bar_label(bars, fmt="%.1f", padding=2)
    ax.set(xticks=range(len(accuracies)), ylabel="accuracy (%)", ylim=(0, 125))
    ax.set_xticklabels([name.replace(" ", "\n") for name in accuracies])
    ax.legend(ncols=2, loc="upper center")
    return figure


@styled
def index_errors(errors: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Draw the error of each index table (marker) in each place of a network, a panel for each group; logarithmic.

    errors: group → table → place → error.
    """
    size = (WIDTH, 3.1 * len(errors) + 0.4)
    figure, axes = plt.subplots(len(errors), 1, figsize=size, layout="constrained", squeeze=False)
    for ax, (group, tables) in zip(axes[:, 0], errors.items(), strict=True):
        for k, (name, places) in enumerate(tables.items()):
            x = np.arange(len(places)) + 0.14 * (k - 1)
            ax.plot(x, np.maximum(list(places.values()), EXACT), MARKERS[k], color=SERIES[k], label=name)
        _with_rounding(ax)
        ax.set(xticks=range(len(places)), title=group)
        ax.set_xticklabels([place.replace(" of a ", "\nof a ") for place in places])
    for ax in axes[:, 0]:
        ax.set_ylabel("error (relative)")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@styled
def size_rule(errors: Mapping[str, Mapping[int, tuple[float, bool]]], named: int) -> Figure:
    """Draw the error under a quarter turn against the side of the image (pixels); filled where the size rule holds.

    errors: network → side → error, rule. named: the side that the published network has.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 4.2), layout="constrained")
    for color, marker, (name, of_size) in zip(SERIES, MARKERS, errors.items(), strict=False):
        sides, values = np.array(list(of_size)), np.array([max(error, EXACT) for error, _ in of_size.values()])
        rule = np.array([holds for _, holds in of_size.values()])
        ax.plot(sides, values, color=color, linewidth=0.8, alpha=0.6)
        for where, face, word in ((rule, color, "holds"), (~rule, "white", "fails")):
            label = f"{name}, the rule {word}"
            ax.plot(sides[where], values[where], marker, color=color, markerfacecolor=face, label=label)
    ax.axvline(named, color="gray", linestyle=":", linewidth=1)
    _with_rounding(ax)
    ax.set(xlabel="side of the image (pixels)", ylabel="change of the logits (relative)", xticks=sides)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center")
    return figure


@styled
def positions(
    offsets: Float[ndarray, " offset"],
    encodings: Mapping[str, Float[ndarray, "offset d"]],
    steps: Mapping[str, Mapping[str, float]],
    limit: float,
) -> Figure:
    """Draw features of each untrained encoding along a row, and loss and gradient of the first training step.

    offsets: in units of the window's reach. steps: network → loss, gradient. limit: the largest half-precision number.
    """
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 5.6), layout="constrained")
    for ax, (name, values) in zip(axes[0], encodings.items(), strict=True):
        for color, feature in zip(SERIES, values.T, strict=False):
            ax.plot(offsets, feature, color=color)
        ax.set(title=f"positions, {name}", xlabel="offset", ylabel="features")
    labels = (("gradient", "largest gradient of positions"), ("loss", "first loss (nats)"))
    for ax, (key, label) in zip(axes[1], labels, strict=True):
        values = [step[key] for step in steps.values()]
        ax.bar_label(ax.bar(list(steps), values, color=SERIES[: len(values)], width=0.6), fmt="%.3g", padding=2)
        ax.set(yscale="log", title=label, ylim=(min(values) / 5, 30 * max(values)))
        axes[1, 0].axhline(limit, color="black", linestyle="--", linewidth=1)
    axes[1, 0].text(1.45, limit / 2, "half\nprecision\nends", ha="right", va="top")
    return figure


def _with_rounding(ax: Axes) -> None:
    """An axis of errors down to rounding, which is shaded."""
    error_axis(ax, EXACT)
    ax.axhspan(EXACT / 4, 1e-12, color="gray", alpha=0.12)
    ax.text(0.02, 8e-15, "exact, up to rounding", transform=ax.get_yaxis_transform(), color="#444444")
