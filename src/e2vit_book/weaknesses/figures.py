"""The figures of the chapter on weaknesses: consistency, shares of the data, cost, selection, attention networks."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from numpy import ndarray

from e2vit_book.style import MARKERS, SERIES, WIDTH, interval_rows, look, styled

FLOOR = 1e-7  # about the rounding of float32
LOOKS = tuple(zip(SERIES, MARKERS, strict=True))  # what is no model


@styled
def consistency(
    changes: Mapping[str, Mapping[str, Float[ndarray, " image"]]],
    rates: Mapping[str, Mapping[str, tuple[float, float, float]]],
) -> Figure:
    """Draw for each network and motion how much the logits change (relative; median, and the middle 80 % of the images)
    and how often the class changes (%, with its interval).

    changes, rates: network → motion → change of each image; rate, low and high as fractions.
    """
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 0.9 * len(changes) + 2.2), layout="constrained", sharey=True)
    motions = list(next(iter(changes.values())))
    for k, (motion, (color, marker)) in enumerate(zip(motions, LOOKS, strict=False)):
        y = np.arange(len(changes)) + 0.22 * (k - 1)
        low, middle, high = (
            np.array([max(np.quantile(of[motion], q), FLOOR) for of in changes.values()]) for q in (0.1, 0.5, 0.9)
        )
        style = {"fmt": marker, "color": color, "markersize": 5, "linewidth": 1.2, "label": motion}
        axes[0].errorbar(middle, y, xerr=[middle - low, high - middle], **style)
        rate, low, high = 100 * np.array([of[motion] for of in rates.values()]).T
        axes[1].errorbar(rate, y, xerr=[np.maximum(rate - low, 0), np.maximum(high - rate, 0)], capsize=2, **style)
    axes[0].set(xscale="log", xlim=(FLOOR / 2, 3), xlabel="change of the logits (relative)")
    axes[1].set(xlim=(-2, 102), xlabel="class changed (% of moved images)")
    axes[0].set(yticks=range(len(changes)), yticklabels=list(changes))
    axes[0].invert_yaxis()
    for ax in axes:
        ax.grid(axis="x", alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@styled
def efficiency(rows: Sequence[Mapping[str, Any]], gain: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw test accuracy (%) against the share of the training images (left) and what poses gain, in points (right).

    rows: network, fraction, summary. gain: network, twin, fraction, difference.
    """
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 7), layout="constrained")
    for k, name in enumerate(dict.fromkeys(row["network"] for row in rows)):
        of_name = sorted((row for row in rows if row["network"] == name), key=lambda row: row["fraction"])
        values = [(row["summary"].mean, row["summary"].low, row["summary"].high) for row in of_name]
        x, y = [100 * row["fraction"] for row in of_name], 100 * np.array(values)
        _line(axes[0], x, y, name, ("-", "--")[k % 2])
    for network, twin in dict.fromkeys((row["network"], row["twin"]) for row in gain):
        of_pair = [row for row in gain if row["network"] == network]
        values = [(row["difference"].mean, row["difference"].low, row["difference"].high) for row in of_pair]
        x, y = [100 * row["fraction"] for row in of_pair], 100 * np.array(values)
        _line(axes[1], x, y, network, "-", f"{network} over {twin}")
    axes[1].axhline(0, color="gray", linewidth=1)
    axes[0].set(ylabel="test accuracy (%)")
    axes[1].set(ylabel="gain (points)")
    for ax in axes:
        ax.set(xscale="log", xlabel="share of the training images (%)")
        _ticks(ax, sorted({100 * row["fraction"] for row in rows}))
        ax.legend()
        ax.grid(alpha=0.3)
    axes[1].set_ylim(top=1.3 * axes[1].get_ylim()[1])  # room for the legend
    axes[1].legend(loc="upper left")
    return figure


@styled
def scores_by_layer(scores: Mapping[str, int]) -> Figure:
    """Draw the attention scores (millions) of every layer for one image; the first layer lifts."""
    figure, ax = plt.subplots(figsize=(WIDTH, 0.36 * len(scores) + 0.9), layout="constrained")
    values = np.array(list(scores.values())) / 1e6
    bars = ax.barh(list(scores), values, color=[SERIES[1], *[SERIES[0]] * (len(scores) - 1)])
    ax.bar_label(bars, fmt="%.2f", padding=4)
    ax.set(xlabel="attention scores (millions)")
    ax.margins(x=0.12)
    ax.invert_yaxis()
    return figure


@styled
def growth(panels: Mapping[str, Mapping[str, tuple[ndarray, ndarray, tuple[float, float, float]]]]) -> Figure:
    """Draw measured seconds against a size, log-log, with the fitted power laws: a panel for each kind of size.

    panels: name of the axis → method → sizes, seconds, and the exponent with its interval.
    """
    figure, axes = plt.subplots(len(panels), 1, figsize=(WIDTH, 4.2 * len(panels)), layout="constrained", squeeze=False)
    for ax, (axis, methods) in zip(axes[:, 0], panels.items(), strict=True):
        for (color, marker), (name, (sizes, seconds, fit)) in zip(LOOKS, methods.items(), strict=False):
            exponent, low, high = fit
            label = f"{name}: {exponent:.2f} [{low:.2f}, {high:.2f}]"
            ax.loglog(sizes, 1e3 * seconds, marker, color=color, label=label)
            fitted = slice(-5, None)  # the sizes that the exponent is fitted to
            middle = np.exp(np.log(1e3 * seconds[fitted]).mean() - exponent * np.log(sizes[fitted]).mean())
            ax.plot(sizes, middle * sizes**exponent, color=color, linewidth=1)
        _ticks(ax, sorted({size for sizes, _, _ in methods.values() for size in sizes}))
        ax.set(xlabel=axis, ylabel="milliseconds of one layer")
        ax.legend(title="exponent [95 % interval]")
        ax.set_ylim(top=60 * ax.get_ylim()[1])
        ax.grid(alpha=0.3)
    return figure


@styled
def memory(sides: Sequence[int], gigabytes: Mapping[str, Float[ndarray, " side"]], card: float) -> Figure:
    """Draw the memory of a training step (GB) against the side of the image (pixels), and the memory of a card."""
    figure, ax = plt.subplots(figsize=(WIDTH, 4.2), layout="constrained")
    for (color, marker), (name, values) in zip(LOOKS, gigabytes.items(), strict=False):
        ax.loglog(sides, values, marker=marker, markersize=4, color=color, label=name)
    ax.axhline(card, color="black", linestyle="--", linewidth=1, label=f"a card with {card:g} GB")
    ax.set(xlabel="side of the image (pixels)", ylabel="memory of a training step (GB)")
    _ticks(ax, sides)
    ax.grid(alpha=0.3)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@styled
def selection(curve: Sequence[Mapping[str, float]], rows: Sequence[Mapping[str, Any]], gap: float) -> Figure:
    """Draw validation and test accuracy (%) of one run and the epochs that each would choose (left), and the optimism
    of every run beside a gap between published networks, both in points (right).

    curve: entries with epoch, accuracy (validation) and watched (test). rows: network, optimism.
    """
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 7), layout="constrained")
    epochs = [entry["epoch"] for entry in curve]
    lowest = 1.0
    for (color, marker), key, name in zip(LOOKS, ("accuracy", "watched"), ("validation", "test"), strict=False):
        values = np.array([entry[key] for entry in curve])
        best = int(values.argmax())
        on_test, lowest = 100 * curve[best]["watched"], min(lowest, np.quantile(values, 0.15))
        axes[0].plot(epochs, 100 * values, color=color, linestyle="--" if key == "accuracy" else "-", label=name)
        label = f"chosen on {name}: {on_test:.2f} on test"
        axes[0].plot(epochs[best], on_test, marker, color=color, markersize=9, markeredgecolor="black", label=label)
    axes[0].set(xlabel="epoch", ylabel="accuracy (%)", ylim=(100 * lowest, None))
    axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
    names = list(dict.fromkeys(row["network"] for row in rows))
    for k, name in enumerate(names):
        values = [row["optimism"] for row in rows if row["network"] == name]
        x = np.linspace(-0.12, 0.12, len(values)) + k
        axes[1].plot(x, values, linestyle="", **look(name, k))
        axes[1].plot([k - 0.25, k + 0.25], [np.mean(values)] * 2, color="black", linewidth=1.5)
    axes[1].axhline(gap, color="#D55E00", linestyle="--", linewidth=1, label=f"published gap: {gap:.2f} points")
    axes[1].set(xticks=range(len(names)), xticklabels=names, ylabel="optimism (points)", xlim=(-0.6, len(names) - 0.4))
    axes[1].set_ylim(0, 1.3 * max(gap, *(row["optimism"] for row in rows)))
    axes[1].legend(loc="upper right")
    return figure


@styled
def attention_networks(
    curves: Mapping[str, Sequence[Float[ndarray, " epoch"]]], summaries: Mapping[str, Any]
) -> Figure:
    """Draw the validation accuracy (%) of each network after each epoch, a line for each seed (left), and the test
    accuracy with its interval (right). Without any network the axes say so."""
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 5.6), layout="constrained", height_ratios=(1.6, 1))
    for name, of_name in curves.items():
        for k, values in enumerate(of_name):
            label = name if k == 0 else None
            axes[0].plot(np.arange(1, len(values) + 1), 100 * values, **look(name), markersize=4, label=label)
    if not curves:
        figure.text(0.5, 0.5, "no finished run yet", ha="center")
        for ax in axes:
            ax.axis("off")
        return figure
    axes[0].set(xlabel="epoch", ylabel="validation accuracy (%)")
    axes[0].grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    interval_rows(axes[1], list(summaries), list(summaries.values()))
    axes[1].set(xlabel="test accuracy (%)")
    return figure


def _line(ax: Axes, x: Sequence[float], y: Float[ndarray, "point 3"], name: str, dashes: str, label: str = "") -> None:
    """A line with intervals; y: middle, low, high."""
    reach = [np.maximum(y[:, 0] - y[:, 1], 0), np.maximum(y[:, 2] - y[:, 0], 0)]
    color, marker = look(name)["color"], look(name)["marker"]
    ax.errorbar(x, y[:, 0], reach, None, marker, color=color, linestyle=dashes, capsize=2, label=label or name)


def _ticks(ax: Axes, places: Sequence[float]) -> None:
    """Ticks of a logarithmic x axis at these places alone."""
    ax.xaxis.set_major_locator(FixedLocator(list(places)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
