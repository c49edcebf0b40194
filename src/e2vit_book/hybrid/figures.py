"""The figures of the chapter on the hybrid: counts, exactness, turned filters, ablations, cost, mistakes."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy import ndarray

from e2vit.experiments.records import Summary
from e2vit.metrics import Difference
from e2vit_book.style import SERIES, WIDTH, difference_rows, error_axis, interval_rows, look, picture, styled


@styled
def results(summaries: Mapping[str, Summary]) -> Figure:
    """Test accuracy (%) of each network with its 95 % interval, the best on top."""
    ordered = dict(sorted(summaries.items(), key=lambda item: -item[1].mean))
    figure, ax = plt.subplots(figsize=(WIDTH, 0.8 + 0.42 * len(ordered)), layout="constrained")
    interval_rows(ax, list(ordered), list(ordered.values()))
    ax.set_xlabel("test accuracy (%)")
    return figure


@styled
def counts(scores: Mapping[str, float]) -> Figure:
    """Attention scores of one image, one bar for each way to attend; a logarithmic scale."""
    figure, ax = plt.subplots(figsize=(WIDTH, 0.6 + 0.45 * len(scores)), layout="constrained")
    names = list(scores)[::-1]
    colors = [look("hybrid" if name.startswith("hybrid") else "GE-ViT")["color"] for name in names]
    bars = ax.barh(names, [scores[name] for name in names], color=colors)
    ax.bar_label(bars, [f"{scores[name]:,.0f}" for name in names], padding=4)
    ax.set(xscale="log", xlabel="attention scores for one image")
    ax.margins(x=0.35)
    return figure


@styled
def exactness(errors: Mapping[str, Mapping[str, float]]) -> Figure:
    """Relative equivariance error after every stage, one line for each model."""
    figure, ax = plt.subplots(figsize=(WIDTH, 4), layout="constrained")
    for k, (label, stages) in enumerate(errors.items()):
        ax.plot(list(stages), list(stages.values()), label=label, **look(label, 5 * k))
    error_axis(ax)
    ax.set(ylabel="equivariance error (relative)")
    ax.tick_params(axis="x", rotation=45)
    plt.setp(ax.get_xticklabels(), ha="right", rotation_mode="anchor")
    ax.legend()
    return figure


@styled
def turned_filters(filters: Mapping[str, Float[ndarray, "pose row column"]], degrees: Sequence[float]) -> Figure:
    """One filter in several poses (columns), for each way to turn it (rows); red is positive, blue negative."""
    shape = len(filters), len(degrees)
    figure, axes = plt.subplots(*shape, figsize=(WIDTH, 2.1), layout="constrained", squeeze=False)
    for row, (label, poses) in zip(axes, filters.items(), strict=True):
        for ax, pose, degree in zip(row, poses, degrees, strict=True):
            picture(ax, pose, cmap="RdBu_r", vmin=-np.abs(poses).max(), vmax=np.abs(poses).max())
            ax.set_xlabel(f"{degree:g}°")
            ax.spines[:].set_visible(False)
        row[0].set_ylabel(label)
    return figure


@styled
def turning(scales: Sequence[float], errors: Mapping[str, Sequence[float]]) -> Figure:
    """Relative error of the features after a turn, against the size of what is in the image."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.6), layout="constrained")
    for k, (label, values) in enumerate(errors.items()):
        ax.plot(scales, values, label=label, **look(label, k))
    ax.set(xlabel="standard deviation of the bumps (pixels)", ylabel="relative feature error", ylim=(0, None))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@styled
def differences(found: Mapping[str, Difference], smallest: float) -> Figure:
    """Test accuracy minus that of the reference (points), with its interval; open where the interval holds zero.

    smallest: the difference that such a comparison shows in four cases out of five (a fraction), a band around zero.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.42 * len(found)), layout="constrained")
    ax.axvspan(-100 * smallest, 100 * smallest, color="0.88", label=f"within ±{100 * smallest:.2f} points")
    difference_rows(ax, found, look("hybrid")["color"])
    ax.set(xlabel="difference from the hybrid (points)")
    figure.legend(loc="outside upper center")
    return figure


@styled
def cost(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Test error (%) against millions of multiplications, log scales; a panel for each share of the training images.

    points: keys family, fraction, summary, millions, augmented (drawn filled).
    """
    fractions = sorted({point["fraction"] for point in points}, reverse=True) or [1.0]
    shape = 1, len(fractions)
    figure, axes = plt.subplots(*shape, figsize=(WIDTH, 4), layout="constrained", squeeze=False)
    for ax, fraction in zip(axes[0], fractions, strict=True):
        for point in [point for point in points if point["fraction"] == fraction]:
            family, summary = point["family"], point["summary"]
            style = look(family)
            mean, low, high = (100 * (1 - value) for value in (summary.mean, summary.high, summary.low))
            bounds = [[mean - low], [high - mean]]
            color = style["color"]
            face: dict[str, Any] = {"markersize": 8, "markerfacecolor": color if point["augmented"] else "white"}
            ax.errorbar(point["millions"], mean, yerr=bounds, fmt=style["marker"], color=color, label=family, **face)
        ax.set(xscale="log", yscale="log", xlabel="multiplications (millions)")
        ax.set_title("all training images" if fraction == 1 else f"{100 * fraction:g} % of the training images")
        ax.margins(0.2)
        for axis in (ax.xaxis, ax.yaxis):
            low, high = axis.get_view_interval()
            wide = (1, 3) if axis is ax.yaxis else (1,)
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else wide))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("test error (%)")
    known = {label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=2)
    return figure


@styled
def mistakes(
    images: Float[ndarray, "image row column"],
    labels: Int[ndarray, " image"],
    predictions: Int[ndarray, " image"],
    confidence: Float[ndarray, " image"],
    columns: int = 6,
) -> Figure:
    """Images with their label, the wrong prediction and its confidence (percent)."""
    rows = max(1, -(-len(images) // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, 1.55 * rows), layout="constrained", squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, label, prediction, sure in zip(axes.flat, images, labels, predictions, confidence, strict=False):
        ax.imshow(image, cmap="gray_r")
        ax.set_title(f"{label} as {prediction}\n{100 * sure:.0f} %", color=SERIES[5])
    return figure
