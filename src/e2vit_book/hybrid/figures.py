"""The figures of the chapter on the hybrid: counts, exactness, turned filters, cost, curves, mistakes."""

import html
from collections.abc import Mapping, Sequence
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy import ndarray

from e2vit_book.player import to_json

COLORS = sns.color_palette("colorblind").as_hex()
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def counts(scores: Mapping[str, float]) -> Figure:
    """Attention scores of one image, one bar for each way to attend; a logarithmic scale."""
    figure, ax = plt.subplots(figsize=(7, 0.5 + 0.42 * len(scores)), layout="constrained")
    names = list(scores)[::-1]
    values = [scores[name] for name in names]
    ax.barh(names, values, color=COLORS[0])
    for row, value in enumerate(values):
        ax.annotate(f"{value:,.0f}", (value, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    ax.set(xscale="log", xlabel="attention scores for one image")
    ax.margins(x=0.25)
    sns.despine(ax=ax)
    return figure


def exactness(errors: Mapping[str, Mapping[str, float]], floor: float = 1e-17) -> Figure:
    """Relative equivariance error after every stage, one line for each model; errors of zero are drawn at the floor."""
    figure, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for k, (label, stages) in enumerate(errors.items()):
        values = [max(value, floor) for value in stages.values()]
        ax.plot(list(stages), values, marker=MARKERS[k], color=COLORS[k], label=label)
    ax.set(yscale="log", ylabel="equivariance error (relative)")
    ax.tick_params(axis="x", rotation=45)
    plt.setp(ax.get_xticklabels(), ha="right", rotation_mode="anchor", fontsize=8)
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return figure


def turned_filters(filters: Mapping[str, Float[ndarray, "pose row column"]], degrees: Sequence[float]) -> Figure:
    """One filter in several poses (columns), for each way to turn it (rows); red is positive, blue negative."""
    figure, axes = plt.subplots(
        len(filters),
        len(degrees),
        figsize=(1.35 * len(degrees), 1.5 * len(filters)),
        layout="constrained",
        squeeze=False,
    )
    for row, (label, poses) in enumerate(filters.items()):
        limit = np.abs(poses).max()
        for column, pose in enumerate(poses):
            ax = axes[row, column]
            ax.imshow(pose, cmap="RdBu_r", vmin=-limit, vmax=limit)
            ax.set(xticks=[], yticks=[])
            if row == 0:
                ax.set_title(f"{degrees[column]:g}°", fontsize=9)
        axes[row, 0].set_ylabel(label, fontsize=9)
    return figure


def turning(scales: Sequence[float], errors: Mapping[str, Sequence[float]]) -> Figure:
    """Relative error of the features after a turn, against the size of what is in the image."""
    figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for k, (label, values) in enumerate(errors.items()):
        ax.plot(scales, values, marker=MARKERS[k], color=COLORS[k], label=label)
    ax.set(
        xlabel="width of the bumps in the image (standard deviation, pixels)",
        ylabel="relative feature error",
        ylim=(0, None),
    )
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return figure


def curves(records: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Training loss and validation error of every epoch, one color for each experiment."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for k, (label, curve) in enumerate(records.items()):
        epochs = [entry["epoch"] for entry in curve]
        style = {"color": COLORS[k % len(COLORS)], "label": label, "linestyle": ("-", "--", ":", "-.")[k % 4]}
        axes[0].plot(epochs, [entry["loss"] for entry in curve], **style)
        axes[1].plot(epochs, [100 * (1 - entry["accuracy"]) for entry in curve], **style)
    axes[0].set(xlabel="epoch", ylabel="training loss (nats)", yscale="log")
    axes[1].set(xlabel="epoch", ylabel="validation error (%)", yscale="log")
    if records:
        axes[1].legend(frameon=False, fontsize=8)
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        low, high = ax.get_ylim()
        plain = FuncFormatter(lambda value, _: f"{value:.3g}")
        ax.yaxis.set_major_formatter(plain)
        ax.yaxis.set_minor_formatter(plain if high < 20 * low else NullFormatter())  # else they run into each other
        ax.tick_params(axis="y", which="minor", labelsize=6)
        sns.despine(ax=ax)
    return figure


def mistakes(
    images: Float[ndarray, "image row column"],
    labels: Int[ndarray, " image"],
    predictions: Int[ndarray, " image"],
    confidence: Float[ndarray, " image"],
    columns: int = 8,
) -> Figure:
    """Images with what they are, what they were taken for, and how surely (percent)."""
    rows = max(1, -(-len(images) // columns))
    figure, axes = plt.subplots(rows, columns, figsize=(columns, 1.35 * rows), layout="constrained", squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, label, prediction, sure in zip(axes.flat, images, labels, predictions, confidence, strict=False):
        ax.imshow(image, cmap="gray_r")
        ax.set_title(f"{label}, not {prediction}\n{100 * sure:.0f} %", fontsize=7)
    return figure


def _apart(names: Sequence[str], x: ndarray, y: ndarray, right: float) -> list[tuple[float, float]]:
    """Where the names of points begin: beside them, to the left at the right border, and none over another or a point."""
    taken = [(a - 7, b - 6, a + 7, b + 6) for a, b in zip(x, y, strict=True)]
    places = []
    for name, a, b in zip(names, x, y, strict=True):
        long = 5.6 * len(name)
        for start, shift in product([a + 10, a - 10 - long], (0, -11, 11, -22, 22, -33, 33)):
            box = start, b + shift - 5, start + long, b + shift + 5
            if box[2] <= right and not any(
                box[0] < q[2] and q[0] < box[2] and box[1] < q[3] and q[1] < box[3] for q in taken
            ):
                break
        taken.append(box)
        places.append((start, b + shift + 4))
    return places


def cost_html(points: pd.DataFrame, label: str) -> str:
    """Test error against computation, on log scales, as a drawing whose points say on hover or focus what they are.

    points: columns name, about, kind, parameters, millions, seeds, accuracy, low, high, origin.
    """
    if points.empty:
        return f"<p>{html.escape(label)}: there are no records yet.</p>"
    width, height, left, bottom, top = 640, 380, 60, 330, 16
    x = np.log10(points["millions"].to_numpy(dtype=float))
    error = np.log10(100 * (1 - points[["accuracy", "low", "high"]].to_numpy(dtype=float)).clip(0.01))
    x_low, x_high = np.floor(x.min() * 2) / 2, np.ceil(x.max() * 2) / 2 + 0.01
    y_low, y_high = error.min() - 0.05, error.max() + 0.05
    at_x = left + (x - x_low) / (x_high - x_low) * (width - left - 20)
    at_y = bottom - (error - y_low) / (y_high - y_low) * (bottom - top)
    kinds = list(dict.fromkeys(points["kind"]))
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}" '
        'style="max-width:44rem;width:100%;font:12px system-ui,sans-serif" fill="currentColor">'
    ]
    for tick in np.arange(np.ceil(x_low), x_high + 1e-9):
        place = left + (tick - x_low) / (x_high - x_low) * (width - left - 20)
        parts.append(
            f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{top}" y2="{bottom}" stroke="currentColor" '
            f'opacity=".15"/><text x="{place:.1f}" y="{bottom + 16}" text-anchor="middle">'
            f"{10**tick:g}</text>"
        )
    for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100):
        if not y_low <= np.log10(tick) <= y_high:
            continue
        place = bottom - (np.log10(tick) - y_low) / (y_high - y_low) * (bottom - top)
        parts.append(
            f'<line x1="{left}" x2="{width - 20}" y1="{place:.1f}" y2="{place:.1f}" stroke="currentColor" '
            f'opacity=".15"/><text x="{left - 6}" y="{place + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    parts.append(
        f'<text x="{(width + left) / 2}" y="{height - 8}" text-anchor="middle">million multiplications for an '
        f'image</text><text x="14" y="{(top + bottom) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(top + bottom) / 2})">test error (%)</text>'
    )
    names = [name.split("/")[-1] for name in points["name"]]
    labels = _apart(names, at_x, at_y[:, 0], width - 20)
    for k, point in enumerate(points.itertuples()):
        color = COLORS[kinds.index(point.kind) % len(COLORS)]
        text = (
            f"{point.name}: {point.about}. Test accuracy {100 * point.accuracy:.2f} % "
            f"({100 * point.low:.2f} to {100 * point.high:.2f}), {point.parameters:,} parameters, "
            f"{point.millions:.1f} million multiplications, {point.seeds} seed{'s' * (point.seeds > 1)}, "
            f"{point.origin}"
        )
        parts.append(
            f'<g tabindex="0"><title>{html.escape(text)}</title><line x1="{at_x[k]:.1f}" x2="{at_x[k]:.1f}" '
            f'y1="{at_y[k, 1]:.1f}" y2="{at_y[k, 2]:.1f}" stroke="{color}" stroke-width="2"/>'
            f'<circle cx="{at_x[k]:.1f}" cy="{at_y[k, 0]:.1f}" r="7" fill="{color}" stroke="white"/>'
            f'<text x="{labels[k][0]:.1f}" y="{labels[k][1]:.1f}" font-size="10">'
            f"{html.escape(names[k])}</text></g>"
        )
    parts.append("</svg>")
    legend = " ".join(
        f'<span style="color:{COLORS[k % len(COLORS)]}">●</span> {html.escape(kind)}' for k, kind in enumerate(kinds)
    )
    script = (
        "const out=root.querySelector('p');root.querySelectorAll('g').forEach((g,k)=>{const show=()=>"
        "{out.textContent=texts[k]};g.addEventListener('mouseenter',show);g.addEventListener('focus',show)})"
    )
    texts = to_json([part.split("<title>")[1].split("</title>")[0] for part in parts if "<title>" in part])
    return (
        f'<div class="e2-cost"><div style="font:13px system-ui,sans-serif">{legend}</div>{"".join(parts)}'
        '<p aria-live="polite" style="min-height:3em;font:13px system-ui,sans-serif">Point at a model.</p>'
        f"<script>(function(root){{const texts={texts};{script}}})(document.currentScript.parentElement);</script>"
        "</div>"
    )
