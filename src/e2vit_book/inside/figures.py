"""Pictures of attention: where a model looks, layer by layer, head by head and pose by pose.

The functions take arrays, as ``capture`` and ``attention_maps`` give them, and return figures.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from einops import rearrange
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy import ndarray

MAP = "cividis"  # grows evenly in lightness: reads the same in gray
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = ("o", "s", "^", "D", "v", "P")


def relevance_maps(
    images: Float[ndarray, "n height width"],
    relevance: Mapping[str, Float[ndarray, "n row column"]],
    titles: Sequence[str],
) -> Figure:
    """Images along the top; below, for each model, how much of its output comes from where, the digit outlined.

    relevance: name → maps, each from its smallest value (dark) to its largest (bright).
    """
    count = len(images)
    figure, axes = plt.subplots(
        len(relevance) + 1,
        count,
        figsize=(1.15 * count + 0.4, 1.25 * (len(relevance) + 1)),
        layout="constrained",
        squeeze=False,
    )
    side = images.shape[-1]
    for k, ax in enumerate(axes[0]):
        ax.imshow(images[k], cmap="gray", vmin=0, vmax=1)
        ax.set_title(titles[k], fontsize=10)
    for row, (name, maps) in zip(axes[1:], relevance.items(), strict=True):
        for k, ax in enumerate(row):
            ax.imshow(maps[k], cmap=MAP, extent=(-0.5, side - 0.5, side - 0.5, -0.5))
            ax.contour(images[k], levels=[0.5], colors="white", linewidths=0.8)
        row[0].set_ylabel(name, fontsize=10)
    _bare(axes)
    return figure


def heads(
    weights: Float[ndarray, "layer head row column"],
    query: tuple[int, int],
    image: Float[ndarray, "height width"],
    columns: Sequence[str] | None = None,
) -> Figure:
    """What one token looks at, for each layer and head; the asking patch is framed. Each map has its own scale.

    query: row and column of the asking token. columns: what stands above them, the number of the head when left out.
    """
    layers, count = weights.shape[:2]
    figure, axes = plt.subplots(
        layers, count, figsize=(0.98 * count + 0.5, 1.0 * layers + 0.3), layout="constrained", squeeze=False
    )
    side = image.shape[-1]
    patch = side / weights.shape[-1]
    for layer, row in enumerate(axes):
        for head, ax in enumerate(row):
            ax.imshow(weights[layer, head], cmap=MAP, extent=(-0.5, side - 0.5, side - 0.5, -0.5))
            ax.contour(image, levels=[0.5], colors="white", linewidths=0.7)
            corner = (query[1] * patch - 0.5, query[0] * patch - 0.5)
            ax.add_patch(Rectangle(corner, patch, patch, fill=False, edgecolor="#D55E00", linewidth=1.8))
            if layer == 0:
                ax.set_title(columns[head] if columns else f"head {head + 1}", fontsize=10)
        row[0].set_ylabel(f"layer {layer + 1}", fontsize=10)
    _bare(axes)
    return figure


def distances(distance: Mapping[str, Float[ndarray, "layer head"]], even: float) -> Figure:
    """The mean attention distance of every head against depth.

    distance: model → pixels. even: the distance, in pixels, of attention that is the same everywhere.
    """
    figure, ax = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    for k, (name, values) in enumerate(distance.items()):
        layer = np.repeat(np.arange(len(values)) + 1, values.shape[1]) + 0.12 * (k - (len(distance) - 1) / 2)
        ax.plot(layer, values.ravel(), MARKERS[k], color=COLORS[k], label=name, alpha=0.9, markeredgecolor="white")
    ax.axhline(even, color="0.4", linestyle="--", linewidth=1)
    ax.text(
        0.99,
        even,
        "looks everywhere alike",
        transform=ax.get_yaxis_transform(),
        ha="right",
        va="bottom",
        fontsize=9,
        color="0.3",
    )
    depth = max(len(values) for values in distance.values())
    ax.set(
        xlabel="layer",
        ylabel="mean attention distance (pixels)",
        xticks=range(1, depth + 1),
        ylim=(0, 1.15 * even),
        xlim=(0.5, depth + 0.5),
    )
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def similarity(cosine: Float[ndarray, "row column other_row other_column"]) -> Figure:
    """One tile for each position of the grid: how similar its learned position is to all the others (cosine)."""
    rows, columns, height, width = cosine.shape
    padded = np.pad(cosine, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    tiles = rearrange(padded, "row column y x -> (row y) (column x)")[:-1, :-1]
    figure, ax = plt.subplots(figsize=(5.2, 4.3), layout="constrained")
    drawn = ax.imshow(tiles, cmap=MAP, vmin=-1, vmax=1)
    ax.set_xticks(np.arange(columns) * (width + 1) + (width - 1) / 2, range(1, columns + 1))
    ax.set_yticks(np.arange(rows) * (height + 1) + (height - 1) / 2, range(1, rows + 1))
    ax.set(xlabel="column of the patch", ylabel="row of the patch")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=ax, shrink=0.8, label="cosine similarity")
    return figure


def patch_filters(filters: Float[ndarray, "count row column channel"], shares: Float[ndarray, " count"]) -> Figure:
    """The principal components of the filters that read the patches, with their share of the variance."""
    columns = min(len(filters), 8)
    rows = -(-len(filters) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(0.85 * columns, 1.05 * rows), layout="constrained", squeeze=False
    )
    for k, ax in enumerate(axes.flat):
        if k < len(filters):
            color = filters.shape[-1] == 3
            ax.imshow((filters[k] + 1) / 2 if color else filters[k].mean(-1), cmap="RdBu_r", vmin=-1, vmax=1)
            ax.set_title(f"{100 * shares[k]:.0f} %", fontsize=9)
    _bare(axes)
    return figure


def turned_windows(
    raw: Float[ndarray, "pose row column"],
    turned: Float[ndarray, "pose row column"],
    back: Float[ndarray, "pose row column"],
    image: Float[ndarray, "height width"],
    turned_image: Float[ndarray, "height width"],
    pixel: tuple[int, int],
    turned_pixel: tuple[int, int],
) -> Figure:
    """The attention of one head at one pixel, for each pose looked at: as it is, over the turned image, and back.

    back: ``turned`` with window and poses moved back. The last row is |back − raw|, on the scale of raw: all dark
    where the layer is equivariant. Its largest value, in shares of the largest weight, stands beside it.
    """
    poses, top = len(raw), raw.max()
    error = float(np.abs(back - raw).max() / top)
    rows = (
        ("attention", raw),
        ("image turned", turned),
        ("and turned back", back),
        (f"difference\n{_number(error)}", np.abs(back - raw)),
    )
    figure, axes = plt.subplots(
        4, poses + 1, figsize=(1.1 * (poses + 1) + 0.6, 4.9), layout="constrained", squeeze=False
    )
    pictures = ((image, pixel), (turned_image, turned_pixel))
    for k, (name, maps) in enumerate(rows):
        for pose in range(poses):
            axes[k, pose + 1].imshow(maps[pose], cmap=MAP, vmin=0, vmax=top)
            if k == 0:
                axes[k, pose + 1].set_title(f"pose {pose}", fontsize=10)
        if k < 2:
            _marked(axes[k, 0], *pictures[k], raw.shape[-1])
            axes[k, 0].set_ylabel(name, fontsize=10)
        else:
            axes[k, 0].axis("off")
            axes[k, 0].text(1, 0.5, name, transform=axes[k, 0].transAxes, ha="right", va="center", fontsize=10)
    _bare(axes[:, 1:])
    _bare(axes[:2, :1])
    return figure


def orbit_of_windows(
    images: Float[ndarray, "element height width"],
    windows: Float[ndarray, "element pose row column"],
    pixels: Sequence[tuple[int, int]],
    names: Sequence[str],
) -> list[Figure]:
    """One figure for each element: the moved image with the window marked, and the attention for each pose."""
    top = windows.max()
    figures = []
    for g, image in enumerate(images):
        figure, axes = plt.subplots(
            1, windows.shape[1] + 1, figsize=(1.2 * windows.shape[1] + 1.4, 1.55), layout="constrained"
        )
        _marked(axes[0], image, pixels[g], windows.shape[-1])
        axes[0].set_title(names[g], fontsize=10)
        for pose, ax in enumerate(axes[1:]):
            ax.imshow(windows[g, pose], cmap=MAP, vmin=0, vmax=top)
            ax.set_title(f"pose {pose}", fontsize=10)
        _bare(axes)
        figures.append(figure)
    return figures


def _marked(ax: Axes, image: ndarray, pixel: tuple[int, int], window: int) -> None:
    """An image with the window around one pixel framed."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=1)
    row, column = pixel
    ax.add_patch(
        Rectangle(
            (column - window / 2, row - window / 2), window, window, fill=False, edgecolor="#E69F00", linewidth=1.8
        )
    )
    ax.plot(column, row, "o", color="#D55E00", markersize=4)
    ax.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))


def _bare(axes: ndarray) -> None:
    for ax in np.asarray(axes).flat:
        ax.set(xticks=[], yticks=[])


def _number(error: float) -> str:
    return "0" if error == 0 else f"{error:.0e}" if error < 1e-3 else f"{100 * error:.1f} %"
