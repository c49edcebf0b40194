"""The figures of the chapter on weaknesses: consistency, shares of the data, cost, selection, comparison."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from numpy import ndarray

COLORS = sns.color_palette("colorblind").as_hex()
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
FLOOR = 1e-7  # about the rounding of float32


def consistency(
    curves: Mapping[str, tuple[Sequence[float], Float[ndarray, "angle image"]]], columns: int = 4
) -> Figure:
    """Change of the logits against the turn (degrees), a panel for each model: median, 10 to 90 % of the images.

    curves: model → its angles and the relative change of every image. Changes below the floor are drawn on it.
    """
    rows = max(1, -(-len(curves) // columns))
    columns = min(columns, max(1, len(curves)))
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.3 * columns + 0.6, 2.0 * rows + 0.4),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for ax, (name, (degrees, values)) in zip(axes.flat, curves.items(), strict=False):
        values = np.maximum(values, FLOOR)
        low, middle, high = np.quantile(values, (0.1, 0.5, 0.9), axis=1)
        gaps = np.flatnonzero(np.diff(degrees) > 1.5 * np.diff(degrees).min()) + 1  # no line over what was not tried
        degrees = np.insert(np.asarray(degrees, dtype=float), gaps, np.nan)
        low, middle, high = (np.insert(line, gaps, np.nan) for line in (low, middle, high))
        ax.fill_between(degrees, low, high, color=COLORS[0], alpha=0.3, linewidth=0)
        ax.semilogy(degrees, middle, color=COLORS[0], marker=".", markersize=4)
        ax.set_title(name, fontsize=9)
        ax.set(xticks=(0, 90, 180, 270, 360), xlim=(-5, 365), ylim=(FLOOR / 2, 3))
        ax.grid(alpha=0.3)
        ax.tick_params(labelsize=8)
    for ax in axes.flat[len(curves) :]:
        ax.axis("off")
        axes[-2 if rows > 1 else 0, list(axes.flat).index(ax) % columns].tick_params(labelbottom=True)
    figure.supxlabel("turn of the image (degrees)", fontsize=10)
    figure.supylabel("change of the logits (relative)", fontsize=10)
    return figure


def flips(rates: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> Figure:
    """How often (%) a moved image gets another class: a row for each model, a marker with interval for each motion.

    rates: model → motion → rate, low, high (fractions).
    """
    motions = list(next(iter(rates.values())))
    figure, ax = plt.subplots(figsize=(7, 0.55 * len(rates) + 1.3), layout="constrained")
    for k, motion in enumerate(motions):
        rate, low, high = 100 * np.array([of_model[motion] for of_model in rates.values()]).T
        y = np.arange(len(rates)) + 0.2 * (k - (len(motions) - 1) / 2)
        ax.errorbar(
            rate,
            y,
            xerr=[np.maximum(rate - low, 0), np.maximum(high - rate, 0)],
            fmt=MARKERS[k],
            color=COLORS[k],
            markersize=5,
            capsize=2,
            linewidth=1,
            label=motion,
        )
    ax.set(yticks=range(len(rates)), yticklabels=list(rates), xlabel="class changed (% of the images)")
    ax.set_xlim(left=-1)
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.3)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=len(motions), frameon=False)
    return figure


def efficiency(frame: pd.DataFrame, gain: pd.DataFrame) -> Figure:
    """Left: test accuracy (%) against the share of the training images (%). Right: how many points poses gain.

    frame: columns network, share, accuracy, low, high (fractions). gain: network, twin, share, points, low, high.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.5), layout="constrained")
    for k, (name, rows) in enumerate(frame.groupby("network", sort=False)):
        x, y, low, high = (100 * rows[column].to_numpy() for column in ("share", "accuracy", "low", "high"))
        axes[0].errorbar(
            x,
            y,
            yerr=[np.maximum(y - low, 0), np.maximum(high - y, 0)],
            marker=MARKERS[k],
            color=COLORS[k],
            linestyle=("-", "--")[k % 2],
            capsize=2,
            label=name,
        )
    for k, ((name, twin), rows) in enumerate(gain.groupby(["network", "twin"], sort=False)):
        x, y = 100 * rows["share"].to_numpy(), rows["points"].to_numpy()
        reach = [np.maximum(y - rows["low"], 0), np.maximum(rows["high"] - y, 0)]
        axes[1].errorbar(
            x, y, yerr=reach, marker=MARKERS[k], color=COLORS[k + 4], capsize=2, label=f"{name} over {twin}"
        )
    axes[1].axhline(0, color="gray", linewidth=1)
    axes[0].set(ylabel="test accuracy (%)")
    axes[1].set(ylabel="gain (points)")
    for ax in axes:
        ax.set(xscale="log", xlabel="share of the training images (%)")
        shares = sorted(100 * frame["share"].unique())
        ax.xaxis.set_major_locator(FixedLocator(shares))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.legend(frameon=False, fontsize=8)
        ax.grid(alpha=0.3)
    return figure


def scores_by_layer(frame: pd.DataFrame) -> Figure:
    """Attention scores (millions) of every layer for one image. frame: columns layer, side, scores."""
    figure, ax = plt.subplots(figsize=(7, 0.36 * len(frame) + 0.9), layout="constrained")
    names = [f"{row.layer}, {row.side}×{row.side}" for row in frame.itertuples()]
    values = frame["scores"].to_numpy() / 1e6
    ax.barh(names, values, color=[COLORS[1], *[COLORS[0]] * (len(frame) - 1)])
    for row, value in enumerate(values):
        ax.annotate(f"{value:.2f}", (value, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    ax.set(xlabel="attention scores for one image (millions)")
    ax.margins(x=0.12)
    ax.invert_yaxis()
    sns.despine(ax=ax)
    return figure


def growth(panels: Mapping[str, Mapping[str, tuple[ndarray, ndarray, tuple[float, float, float]]]]) -> Figure:
    """Measured seconds against a size, log-log, with the fitted power laws: a panel for each kind of size.

    panels: name of the axis → method → sizes, seconds, and the exponent with its interval.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.4 * len(panels), 3.6), layout="constrained", squeeze=False)
    for ax, (axis, methods) in zip(axes[0], panels.items(), strict=True):
        for k, (name, (sizes, seconds, (exponent, low, high))) in enumerate(methods.items()):
            ax.loglog(
                sizes,
                1e3 * seconds,
                MARKERS[k],
                color=COLORS[k],
                label=f"{name}: {exponent:.2f} [{low:.2f}, {high:.2f}]",
            )
            fitted = slice(-5, None)  # the sizes that the exponent is fitted to
            middle = np.exp(np.log(1e3 * seconds[fitted]).mean() - exponent * np.log(sizes[fitted]).mean())
            ax.plot(sizes, middle * sizes**exponent, color=COLORS[k], linewidth=1)
        ticks = sorted({size for sizes, _, _ in methods.values() for size in sizes})
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.tick_params(axis="x", labelsize=7)
        ax.set(xlabel=axis, ylabel="milliseconds of one layer")
        ax.legend(frameon=False, fontsize=8, title="exponent [95 % interval]", title_fontsize=8)
        ax.set_ylim(top=60 * ax.get_ylim()[1])
        ax.grid(alpha=0.3)
    return figure


def memory(sides: Sequence[int], gigabytes: Mapping[str, Float[ndarray, " side"]], card: float) -> Figure:
    """Memory of a training step (GB) against the side of the image (pixels), and the memory of a card."""
    figure, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for k, (name, values) in enumerate(gigabytes.items()):
        ax.loglog(sides, values, marker=MARKERS[k], markersize=4, color=COLORS[k], label=name)
    ax.axhline(card, color="black", linestyle="--", linewidth=1)
    ax.annotate(
        f"a card with {card:g} GB", (sides[-1], card), xytext=(0, 4), textcoords="offset points", fontsize=8, ha="right"
    )
    ax.set(xlabel="side of the image (pixels)", ylabel="memory of a training step (GB)", xticks=list(sides))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="x", labelsize=7)
    ax.grid(alpha=0.3)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure


def selection(curve: Sequence[Mapping[str, float]], frame: pd.DataFrame, gap: float) -> Figure:
    """Left: validation and test accuracy (%) of one run, and the epochs that each would choose. Right: the optimism of
    every run (points), and a gap between published models (points).

    curve: entries with epoch, accuracy (validation) and watched (test). frame: columns network, seed, optimism.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.4), layout="constrained", width_ratios=(1.5, 1))
    epochs = [entry["epoch"] for entry in curve]
    for k, (key, name) in enumerate((("accuracy", "validation"), ("watched", "test"))):
        values = 100 * np.array([entry[key] for entry in curve])
        axes[0].plot(epochs, values, color=COLORS[k], linestyle=("--", "-")[k], label=name)
        best = int(values.argmax())
        on_test = 100 * curve[best]["watched"]
        axes[0].plot(
            epochs[best],
            on_test,
            MARKERS[k],
            color=COLORS[k],
            markersize=9,
            markeredgecolor="black",
            label=f"chosen on {name}: {on_test:.2f} on test",
        )
    tail = 100 * np.array([[entry["accuracy"], entry["watched"]] for entry in curve])
    low = np.quantile(tail, 0.15)
    axes[0].set(xlabel="epoch", ylabel="accuracy (%)", ylim=(low, tail.max() + 0.25 * (tail.max() - low) + 1e-3))
    axes[0].legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)  # not on a line
    names = list(dict.fromkeys(frame["network"]))
    for k, name in enumerate(names):
        values = frame.loc[frame["network"] == name, "optimism"].to_numpy()
        axes[1].plot(
            np.linspace(-0.12, 0.12, len(values)) + k if len(values) > 1 else [k],
            values,
            MARKERS[k],
            color=COLORS[2 + k],
        )
        axes[1].plot([k - 0.25, k + 0.25], [values.mean()] * 2, color="black", linewidth=1.5)
    axes[1].axhline(gap, color=COLORS[3], linestyle="--", linewidth=1, label=f"published gap: {gap:.2f} points")
    axes[1].set(
        xticks=range(len(names)),
        xticklabels=names,
        ylabel="optimism (points)",
        ylim=(0, None),
        xlim=(-0.6, len(names) - 0.4),
    )
    axes[1].set_ylim(top=1.3 * max(gap, frame["optimism"].max()))
    axes[1].legend(frameon=False, fontsize=8, loc="upper right")
    return figure


def differences(frame: pd.DataFrame) -> Figure:
    """How many points the second network is ahead of the first, with its interval; right of zero it is better.

    frame: columns first, second, points, low, high.
    """
    figure, ax = plt.subplots(figsize=(7, 0.45 * max(len(frame), 1) + 1.0), layout="constrained")
    points, low, high = (frame[name].to_numpy(dtype=float) for name in ("points", "low", "high"))
    y = np.arange(len(frame))
    ax.errorbar(points, y, xerr=[points - low, high - points], fmt="o", color=COLORS[0], capsize=3)
    ax.axvline(0, color="gray", linewidth=1)
    ax.set(yticks=y, xlabel="difference in test accuracy (points)", ylim=(len(frame) - 0.5, -0.5))
    ax.set_yticklabels([f"{row.second}\nover {row.first}" for row in frame.itertuples()], fontsize=8)
    ax.grid(axis="x", alpha=0.3)
    return figure
