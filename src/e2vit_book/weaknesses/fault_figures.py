"""The figures on faults: errors between the quarter turns, transposed digits, index tables, sizes, positions."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

COLORS = sns.color_palette("colorblind").as_hex()
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
EXACT = 1e-16


def by_angle(
    degrees: Sequence[float],
    errors: Mapping[str, Mapping[str, Float[ndarray, "layer angle"]]],
    layers: Sequence[str],
) -> Figure:
    """Equivariance error against the turn (degrees): a column for each group, a row for each layer, a line for each
    way to try. Errors of rounding are drawn at the lower border.

    errors: group → way → (layer, angle).
    """
    figure, axes = plt.subplots(
        len(layers),
        len(errors),
        figsize=(2.3 * len(errors) + 0.6, 2.0 * len(layers) + 0.9),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    floor = 2e-3
    for ax, layer in zip(axes[:, 0], layers, strict=True):
        ax.set_ylabel(layer, fontsize=9)
    for column, (group, ways) in zip(axes.T, errors.items(), strict=True):
        for number, ax in enumerate(column):
            for k, (way, values) in enumerate(ways.items()):
                ax.semilogy(
                    degrees,
                    np.maximum(values[number], floor),
                    color=COLORS[k],
                    marker=MARKERS[k],
                    markersize=3,
                    linestyle=("-", "--", "-.", ":")[k],
                    label=way,
                    clip_on=False,
                )
            ax.set(xticks=(0, 30, 45, 60, 90), ylim=(floor, 3))
            ax.tick_params(labelsize=7)
            ax.grid(alpha=0.3)
        column[0].set_title(group, fontsize=10)
    figure.supxlabel("turn of the image (degrees)", fontsize=10)
    figure.supylabel("equivariance error", fontsize=10)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=9
    )
    return figure


def shares(rungs: Mapping[str, Mapping[str, Float[ndarray, " layer"]]], layers: Sequence[str]) -> Figure:
    """What each cause contributes to the squared error (%), a stacked bar for each group and layer.

    rungs: group → causes in order → part of the squared error of each layer; negative parts are drawn as none.
    """
    bars = [(group, number) for group in rungs for number in range(len(layers))]
    figure, ax = plt.subplots(figsize=(7.6, 0.42 * len(bars) + 1.4), layout="constrained")
    left = np.zeros(len(bars))
    for k, cause in enumerate(next(iter(rungs.values()))):
        parts = np.array([max(rungs[group][cause][number], 0) for group, number in bars])
        whole = np.array([sum(max(part[number], 0) for part in rungs[group].values()) for group, number in bars])
        width = 100 * parts / whole
        ax.barh(range(len(bars)), width, left=left, color=COLORS[k], label=cause, edgecolor="white")
        for row, value in enumerate(width):
            if value > 7:
                ax.text(left[row] + value / 2, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="white")
        left += width
    ax.set(
        yticks=range(len(bars)),
        yticklabels=[f"{group}, {layers[number]}" for group, number in bars],
        xlabel="share of the squared error at 45° (%)",
        xlim=(0, 100),
    )
    ax.invert_yaxis()
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def artifact(rows: Mapping[str, tuple[ndarray, ndarray, ndarray]]) -> Figure:
    """For every turn: the turned image, the map of it, the turned map of the upright image, and their difference.

    rows: what is tried → image, f(turned), turned f, each (row, column). The difference has the scale of the maps.
    """
    titles = ("turned image", "map of it", "turned map", "difference")
    figure, axes = plt.subplots(
        len(rows), 4, figsize=(7.4, 1.75 * len(rows) + 0.3), layout="constrained", squeeze=False
    )
    for line, (name, (image, found, expected)) in zip(axes, rows.items(), strict=True):
        low, high = min(found.min(), expected.min()), max(found.max(), expected.max())
        reach = (high - low) / 2
        line[0].imshow(image, cmap="gray")
        for ax, values in zip(line[1:3], (found, expected), strict=True):
            ax.imshow(values, cmap="cividis", vmin=low, vmax=high)
        shown = line[3].imshow(found - expected, cmap="RdBu_r", vmin=-reach, vmax=reach)
        figure.colorbar(shown, ax=line[3], shrink=0.85).ax.tick_params(labelsize=7)
        line[0].set_ylabel(name, fontsize=9)
        for ax in line:
            ax.set(xticks=[], yticks=[])
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=9)
    return figure


def transposed(
    images: Float[ndarray, "image row column"],
    accuracies: Mapping[str, Mapping[str, tuple[float, float, float]]],
) -> Figure:
    """Digits as they are and as row-by-row reading shows them, and the accuracy (%) of a network on both.

    accuracies: which digits → how they are read → accuracy, low, high (fractions).
    """
    figure = plt.figure(figsize=(8.4, 3.0), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    axes = left.subplots(2, len(images))
    ways = list(next(iter(accuracies.values())))
    for ax, image in zip(axes.T, images, strict=True):
        for row, picture in enumerate((image, image.T)):
            ax[row].imshow(picture, cmap="gray_r")
            ax[row].set(xticks=[], yticks=[])
    for row, way in enumerate(ways):
        axes[row, 0].set_ylabel(way, fontsize=9)
    ax = right.subplots()
    for k, way in enumerate(ways):
        rate, low, high = 100 * np.array([of[way] for of in accuracies.values()]).T
        x = np.arange(len(accuracies)) + 0.4 * (k - 0.5)
        ax.bar(
            x,
            rate,
            0.38,
            yerr=[rate - low, high - rate],
            capsize=3,
            color=COLORS[k],
            label=way,
            hatch=("", "//")[k],
            edgecolor="white",
        )
        for place, value, top in zip(x, rate, high, strict=True):
            ax.text(place, top + 1.5, f"{value:.1f}", ha="center", fontsize=8)
    ax.set(xticks=range(len(accuracies)), xticklabels=list(accuracies), ylabel="accuracy (%)", ylim=(0, 125))
    ax.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")
    sns.despine(ax=ax)
    return figure


def index_errors(errors: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Error of each index table (marker) in each place of a network, a panel for each group; logarithmic.

    errors: group → table → place → error.
    """
    figure, axes = plt.subplots(
        1, len(errors), figsize=(3.9 * len(errors) + 0.4, 3.2), layout="constrained", sharey=True, squeeze=False
    )
    for ax, (group, tables) in zip(axes[0], errors.items(), strict=True):
        for k, (name, places) in enumerate(tables.items()):
            x = np.arange(len(places)) + 0.14 * (k - 1)
            ax.plot(x, np.maximum(list(places.values()), EXACT), MARKERS[k], color=COLORS[k], label=name)
        ax.axhspan(EXACT / 10, 1e-12, color="gray", alpha=0.12)
        ax.text(0.02, 0.03, "exact, up to rounding", transform=ax.transAxes, fontsize=8, color="#444444")
        ax.set(yscale="log", xticks=range(len(places)), title=group, ylim=(EXACT / 10, 10))
        ax.set_xticklabels([place.replace(" of a ", "\nof a ") for place in places], fontsize=8)
        ax.grid(axis="y", alpha=0.3)
    axes[0, 0].set_ylabel("error (relative)")
    axes[0, -1].legend(frameon=False, fontsize=8, loc="center right")
    return figure


def size_rule(errors: Mapping[str, Mapping[int, tuple[float, bool]]], named: int) -> Figure:
    """Error under a quarter turn against the side of the image (pixels); filled where the size rule holds.

    errors: network → side → error, rule. named: the side that the published network has.
    """
    figure, ax = plt.subplots(figsize=(7, 3.3), layout="constrained")
    for k, (name, of_size) in enumerate(errors.items()):
        sides, values = list(of_size), [max(error, EXACT) for error, _ in of_size.values()]
        ax.plot(sides, values, color=COLORS[k], linewidth=0.8, alpha=0.6)
        for holds, face in ((True, COLORS[k]), (False, "white")):
            where = [i for i, (_, rule) in enumerate(of_size.values()) if rule == holds]
            ax.plot(
                [sides[i] for i in where],
                [values[i] for i in where],
                MARKERS[k],
                color=COLORS[k],
                markerfacecolor=face,
                linestyle="",
                label=f"{name}, the rule {'holds' if holds else 'fails'}",
            )
    ax.axvline(named, color="gray", linestyle=":", linewidth=1)
    ax.set(
        yscale="log",
        xlabel="side of the image (pixels)",
        ylabel="error of the logits (relative)",
        xticks=sides,
        ylim=(EXACT / 10, 10),
    )
    ax.tick_params(axis="x", labelsize=8)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure


def positions(
    offsets: Float[ndarray, " offset"],
    encodings: Mapping[str, Float[ndarray, "offset d"]],
    steps: Mapping[str, Mapping[str, float]],
    limit: float,
) -> Figure:
    """Features of each untrained encoding along a row, and what the first training step meets.

    offsets: in units of the window's reach. steps: network → loss, gradient. limit: the largest half-precision number.
    """
    figure, axes = plt.subplots(1, len(encodings) + 2, figsize=(2.5 * (len(encodings) + 2), 3.0), layout="constrained")
    for ax, (name, values) in zip(axes, encodings.items(), strict=False):
        for k, feature in enumerate(values.T):
            ax.plot(offsets, feature, color=COLORS[k], linestyle=("-", "--", "-.")[k % 3])
        ax.set(title=f"encoding {name}", xlabel="offset (half windows)", ylabel="features")
        ax.title.set_fontsize(10)
    for ax, key, label in zip(
        axes[-2:], ("gradient", "loss"), ("largest gradient of positions", "first loss (nats)"), strict=True
    ):
        values = [step[key] for step in steps.values()]
        ax.bar(list(steps), values, color=COLORS[: len(values)], width=0.6)
        for k, value in enumerate(values):
            ax.text(k, 1.3 * value, f"{value:.3g}", ha="center", fontsize=8)
        ax.set(yscale="log", title=label, ylim=(min(values) / 5, 30 * max(values)))
        ax.title.set_fontsize(10)
        sns.despine(ax=ax)
    axes[-2].axhline(limit, color="black", linestyle="--", linewidth=1)
    axes[-2].text(1.45, 1.5 * limit, "half precision ends", ha="right", fontsize=8)
    return figure
