"""The figures of the chapter on the layers: attention, feature maps, paths and predictions of a turning digit."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from einops import rearrange
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy import ndarray

from e2vit_book.style import SERIES, WIDTH, error_axis, look, styled

MAP = "cividis"  # its lightness increases evenly, so it reads the same in gray
QUARTERS = {0: "o", 90: "s", 180: "^", 270: "D"}  # degrees → marker


@styled
def relevance_maps(
    images: Float[ndarray, "n height width"],
    relevance: Mapping[str, Float[ndarray, "n row column"]],
    titles: Sequence[str],
) -> Figure:
    """Images along the top; below, for each model, where its output comes from, with the digit outlined.

    relevance: name → maps, each from its smallest value (dark) to its largest (bright).
    """
    shape, side = (len(relevance) + 1, len(images)), images.shape[-1]
    figure, axes = plt.subplots(*shape, figsize=(WIDTH, 1.25 * shape[0]), layout="constrained", squeeze=False)
    for ax, image, title in zip(axes[0], images, titles, strict=True):
        ax.imshow(image, cmap="gray", vmin=0, vmax=1)
        ax.set_title(title)
    for row, (name, maps) in zip(axes[1:], relevance.items(), strict=True):
        for ax, one, image in zip(row, maps, images, strict=True):
            ax.imshow(one, cmap=MAP, extent=(-0.5, side - 0.5, side - 0.5, -0.5))
            ax.contour(image, levels=[0.5], colors="white", linewidths=0.9)
        row[0].set_ylabel(name)
    _bare(axes)
    return figure


@styled
def relevance_row(
    image: Float[ndarray, "height width"], relevance: Mapping[str, Float[ndarray, "row column"]], title: str
) -> Figure:
    """One image and its map for each model, side by side: one picture of a slideshow."""
    side = image.shape[-1]
    figure, axes = plt.subplots(1, len(relevance) + 1, figsize=(WIDTH, 2.3), layout="constrained")
    axes[0].imshow(image, cmap="gray", vmin=0, vmax=1)
    axes[0].set_title(title)
    for ax, (name, one) in zip(axes[1:], relevance.items(), strict=True):
        ax.imshow(one, cmap=MAP, extent=(-0.5, side - 0.5, side - 0.5, -0.5))
        ax.contour(image, levels=[0.5], colors="white", linewidths=1.2)
        ax.set_title(name)
    _bare(axes)
    return figure


@styled
def heads(
    weights: Float[ndarray, "turn head row column"],
    query: tuple[int, int],
    images: Float[ndarray, "turn height width"],
    rows: Sequence[str],
    columns: Sequence[str],
) -> Figure:
    """Attention of one token, a row for each turn of the image; the query is framed. Each map has its own scale.

    query: row and column of the token that attends.
    """
    shape, side = weights.shape[:2], images.shape[-1]
    figure, axes = plt.subplots(*shape, figsize=(WIDTH, 1.25 * shape[0] + 0.2), layout="constrained", squeeze=False)
    patch = side / weights.shape[-1]
    corner = (query[1] * patch - 0.5, query[0] * patch - 0.5)
    for line, maps, image, name in zip(axes, weights, images, rows, strict=True):
        for ax, one in zip(line, maps, strict=True):
            ax.imshow(one, cmap=MAP, extent=(-0.5, side - 0.5, side - 0.5, -0.5))
            ax.contour(image, levels=[0.5], colors="white", linewidths=0.9)
            ax.add_patch(Rectangle(corner, patch, patch, fill=False, edgecolor="#D55E00", linewidth=2))
        line[0].set_ylabel(name)
    for ax, name in zip(axes[0], columns, strict=True):
        ax.set_title(name)
    _bare(axes)
    return figure


def mosaic(maps: Float[ndarray, "pose row column"]) -> Float[ndarray, "height width"]:
    """The poses of a lifted map as tiles of one picture, with an empty line between them."""
    maps, poses = maps.repeat(3, -1).repeat(3, -2), len(maps)  # so that the line is thin
    across = int(np.ceil(np.sqrt(poses)))
    padded = np.pad(maps, ((0, -poses % across), (0, 1), (0, 1)), constant_values=np.nan)
    return rearrange(padded, "(down across) y x -> (down y) (across x)", across=across)[:-1, :-1]


@styled
def square(
    images: Float[ndarray, "two height width"],
    found: Float[ndarray, "two pose row column"],
    expected: Float[ndarray, "pose row column"],
) -> Figure:
    """The commutative square: first turn and then the layer, or first the layer and then turn, and the difference.

    images: x and gx. found: f(x) and f(gx). expected: g f(x).
    """
    size = np.abs(found).max()
    error = float(np.abs(found[1] - expected).max() / np.abs(expected).max())
    figure, axes = plt.subplots(2, 3, figsize=(WIDTH, 3.9))
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.05, top=0.92, wspace=0.45, hspace=0.5)
    titles = "x", "f(x)", "g·f(x)", "g·x", "f(g·x)", f"difference\n{_number(error)}"
    maps = [mosaic(each) for each in (found[0], expected, found[1], found[1] - expected)]
    for ax, title, picture in zip(axes.flat, titles, [images[0], *maps[:2], images[1], *maps[2:]], strict=True):
        gray = title in ("x", "g·x")
        scale: dict[str, Any] = (
            {"cmap": "gray", "vmin": 0, "vmax": 1} if gray else {"cmap": "RdBu_r", "vmin": -size, "vmax": size}
        )
        ax.imshow(picture, **scale)
        ax.set_title(title)
    arrow: dict[str, Any] = {"arrowstyle": "->", "color": "0.2", "linewidth": 1.4}
    for start, name in (((0, 0), "f"), ((1, 0), "f"), ((0, 1), "g")):
        axes[start].annotate("", (1.4, 0.5), (1.06, 0.5), xycoords="axes fraction", arrowprops=arrow)
        axes[start].text(1.23, 0.56, name, transform=axes[start].transAxes, ha="center")
    axes[0, 0].annotate("", (0.5, -0.32), (0.5, -0.04), xycoords="axes fraction", arrowprops=arrow)
    axes[0, 0].text(0.56, -0.22, "g", transform=axes[0, 0].transAxes)
    sign, color = ("=", SERIES[0]) if error < 1e-4 else ("≠", SERIES[5])
    place: dict[str, Any] = {"transform": axes[1, 1].transAxes, "ha": "center", "va": "center"}
    axes[1, 1].text(1.23, 0.5, sign, fontsize=20, color=color, **place)
    _bare(axes)
    return figure


@styled
def residuals(errors: Mapping[str, Mapping[str, float]]) -> Figure:
    """The relative residual of each layer against depth, on a log scale, for several models."""
    figure, ax = plt.subplots(figsize=(WIDTH, 4.4), layout="constrained")
    for k, (name, layers) in enumerate(errors.items()):
        style = look(name, k)
        ax.plot(np.linspace(0, 1, len(layers)), list(layers.values()), ("-", "--")[k % 2], label=name, **style)
    error_axis(ax, floor=1e-9)
    ax.axhspan(ax.get_ylim()[0], 1e-5, color="0.92", zorder=0)
    ax.text(0.01, 1.5e-9, "rounding (32 bits)", color="0.3", transform=ax.get_yaxis_transform())
    ax.set(xlabel="depth: first layer to logits", ylabel="max |f(gx) − g f(x)| / max |f(x)|", xticks=[])
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@styled
def paths(points: Mapping[str, Mapping[str, Float[ndarray, "angle two"]]], degrees: Sequence[float]) -> Figure:
    """The features of each layer along their first two principal components; markers show the quarter turns.

    points: model → layer → path. The panels of a column share their scale, so that a short path looks short.
    """
    if not len(degrees):
        raise ValueError("the list of angles is empty")
    shape = len(points), len(next(iter(points.values())))
    figure, axes = plt.subplots(*shape, figsize=(WIDTH, 1.95 * shape[0] + 0.4), layout="constrained", squeeze=False)
    for row, (model, layers) in zip(axes, points.items(), strict=True):
        for ax, (layer, path) in zip(row, layers.items(), strict=True):
            ax.plot(*np.vstack([path, path[:1]]).T, color="0.6", linewidth=0.8, zorder=1)
            ax.scatter(*path.T, c=list(degrees), cmap="twilight", vmin=0, vmax=360, s=9, zorder=2)
            for size, (quarter, marker) in zip((11, 9, 7, 5), QUARTERS.items(), strict=True):  # all remain visible
                at = path[np.abs(np.asarray(degrees) - quarter).argmin()]
                ax.plot(*at, marker, color="none", markeredgecolor="black", markersize=size, zorder=3)
            reach = 1.2 * max(np.abs(of_model[layer]).max() for of_model in points.values())
            ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=layer)
        row[0].set_ylabel(model)
    _bare(axes, frame=True)
    marks = [Line2D([], [], color="none", marker=m, markeredgecolor="black") for m in QUARTERS.values()]
    figure.legend(marks, [f"{quarter}°" for quarter in QUARTERS], loc="outside lower center", ncols=4)
    return figure


@styled
def ring(activity: Float[ndarray, " pose"], image: Float[ndarray, "height width"], top: float, title: str) -> Figure:
    """The numbered poses of one unit around its input, each at its angle; the length of a bar is the activation.

    top: the activation that is drawn longest, the same for all pictures of a series.
    """
    figure = plt.figure(figsize=(4.5, 4.5))
    ax = figure.add_axes((0.02, 0.02, 0.96, 0.9), projection="polar")
    poses = len(activity)
    angles = np.arange(poses) * 2 * np.pi / poses + np.pi / 2  # pose 0 is up, then counter-clockwise
    share = np.clip(activity / max(top, 1e-30), 0, 1)
    ax.bar(angles, share, width=1.6 * np.pi / max(poses, 4), bottom=0.9, color=SERIES[0])
    for pose, angle in enumerate(angles):
        ax.text(angle, 2.02, str(pose), ha="center", va="center")
    ax.set(ylim=(0, 2.1), xticks=[], yticks=[])
    ax.spines["polar"].set_visible(False)
    inset = figure.add_axes((0.37, 0.34, 0.26, 0.26))
    inset.imshow(image, cmap="gray", vmin=0, vmax=1)
    inset.axis("off")
    figure.suptitle(title)
    return figure


@styled
def polar_probabilities(probability: Mapping[str, Float[ndarray, "image angle"]], degrees: Sequence[float]) -> Figure:
    """Probability of the true class against the angle of the input, as the distance from the center.

    The line is the median over images; the band holds the middle 80 %. A circle at the rim: always right and certain.
    """
    figure, axes, radians = _polar_axes(len(probability), degrees)
    for k, (ax, (name, p)) in enumerate(zip(axes, probability.items(), strict=True)):
        low, middle, high = np.quantile(np.hstack([p, p[:, :1]]), (0.1, 0.5, 0.9), axis=0)
        color = look(name, k)["color"]
        ax.fill_between(radians, low, high, color=color, alpha=0.25, linewidth=0)
        ax.plot(radians, middle, color=color, linewidth=2.5)
        ax.set(ylim=(0, 1.02), yticks=(0.5, 1), yticklabels=())
        ax.set_title(f"{name}\nmean {p.mean():.2f}")
    return figure


@styled
def polar_logits(logits: Mapping[str, Float[ndarray, "angle class_"]], degrees: Sequence[float], label: int) -> Figure:
    """All logits of one image against its angle; the true class is thick. Each model has its own scale."""
    figure, axes, radians = _polar_axes(len(logits), degrees)
    for ax, (name, values) in zip(axes, logits.items(), strict=True):
        closed = np.vstack([values, values[:1]])
        others = np.arange(values.shape[-1]) != label
        ax.plot(radians, closed[:, others], color=SERIES[1], linewidth=0.8)
        ax.plot(radians, closed[:, label], color=SERIES[0], linewidth=2.5)
        low, high = closed.min(), closed.max()
        ax.set(ylim=(low - 0.25 * (high - low), high), yticks=(), title=name)
    return figure


def _polar_axes(count: int, degrees: Sequence[float]) -> tuple[Figure, list, ndarray]:
    """Polar axes in rows of three, or two of two, and the angles in radians, closed to a circle."""
    if not len(degrees):
        raise ValueError("the list of angles is empty")
    columns = 2 if count == 4 else min(count, 3)
    rows = -(-count // columns)
    options: dict[str, Any] = {"subplot_kw": {"projection": "polar"}, "squeeze": False}
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, 2.7 * rows), layout="constrained", **options)
    for ax in axes.flat[:count]:
        ax.set_theta_zero_location("N")
        ax.set_xticks(np.deg2rad([0, 90, 180, 270]), ["0°", "", "180°", ""])
        ax.tick_params(axis="x", pad=-1)
    for ax in axes.flat[count:]:
        ax.axis("off")
    return figure, list(axes.flat[:count]), np.deg2rad(np.append(degrees, degrees[0] + 360))


def _bare(axes: ndarray, frame: bool = False) -> None:
    for ax in np.asarray(axes).flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(frame)


def _number(error: float) -> str:
    return "0" if error == 0 else f"{error:.0e}" if error < 1e-3 else f"{100 * error:.0f} %"
