"""The figures on groups and positions: product tables, what each pose sees, and where an index table breaks.

The functions take arrays and return figures; poses and elements are counted from 0, as everywhere.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from numpy import ndarray

from e2vit_book.style import MARKERS, SERIES, WIDTH, picture, styled

MAP = "cividis"  # lightness grows evenly: reads the same in gray
MARK = "#D55E00"


@styled
def product_table(
    pictures: Float[ndarray, "element height width"], product: Int[ndarray, "element element"], names: Sequence[str]
) -> Figure:
    """Draw the product table of a group in pictures: row g and column h meet in gh, first h, then g.

    pictures: one picture moved by each element. names: what each element does.
    """
    order = len(product)
    size = (WIDTH, 1.2 * (order + 1))
    figure, axes = plt.subplots(order + 1, order + 1, figsize=size, layout="constrained")
    for g in range(order):
        picture(axes[g + 1, 0], pictures[g], f"then {g}:\n{names[g]}")
        picture(axes[0, g + 1], pictures[g], f"first {g}:\n{names[g]}")
        for h in range(order):
            ax = axes[g + 1, h + 1]
            picture(ax, pictures[product[g, h]], str(product[g, h]))
            for side in ax.spines.values():
                side.set(color=SERIES[0], linewidth=2)
    axes[0, 0].axis("off")
    axes[0, 0].text(0.5, 0.5, "row ·\ncolumn", ha="center", va="center")
    return figure


@styled
def lifted_maps(
    images: Float[ndarray, "case height width"], maps: Float[ndarray, "case pose height width"], names: Sequence[str]
) -> Figure:
    """Draw images on the left; beside each, one channel of its lifted feature map in every pose, on one scale.

    names: what each case is.
    """
    titles = ["", *(f"pose {pose}" for pose in range(maps.shape[1]))]
    panels = [[image, *of_case] for image, of_case in zip(images, maps, strict=True)]
    figure, axes = _maps(panels, names, titles, "feature (dimensionless)", (maps.min(), maps.max()))
    for ax, image, name in zip(axes[:, 0], images, names, strict=True):
        ax.clear()
        picture(ax, image)
        ax.set_ylabel(name)
    axes[0, 0].set_title("input")
    return figure


@styled
def index_maps(
    seen: Float[ndarray, "pose offset 2"], names: Sequence[str], numbers: Sequence[int] | None = None
) -> Figure:
    """Draw the row and the column that every pose reads at each place of a square window; the center is 0, 0.

    seen: the offsets (x to the right, y upwards, in pixels) as the poses see them, row by row from the top left.
    numbers: of the poses, when they are not all of them in order.
    """
    side, reach = round(seen.shape[1] ** 0.5), np.abs(seen).max()
    grid = seen.reshape(len(seen), side, side, 2)
    panels = [list(-grid[..., 1]), list(grid[..., 0])]  # rows grow downwards
    titles = [f"pose {k}\n{name}" for k, name in zip(numbers or range(len(seen)), names, strict=True)]
    figure, axes = _maps(panels, ("row read", "column read"), titles, "offset (pixels)", (-reach, reach))
    for line, values in zip(axes, panels, strict=True):
        for ax, of_pose in zip(line, values, strict=True):
            _numbers(ax, of_pose, bright=reach / 4)
    return figure


@styled
def encodings(parts: Mapping[str, Float[ndarray, "pose row column"]], names: Sequence[str]) -> Figure:
    """Draw what an encoding adds to the score of each offset, for every pose: one row of maps for each part, one scale.

    names: what each pose is.
    """
    limits = tuple(limit(limit(values.flat) for values in parts.values()) for limit in (min, max))
    titles = [f"pose {pose}\n{name}" for pose, name in enumerate(names)]
    figure, axes = _maps([list(values) for values in parts.values()], list(parts), titles, "added to the score", limits)
    for ax in axes.flat:
        center = (ax.images[0].get_array().shape[0] - 1) / 2
        ax.plot(center, center, "+", color="white", markersize=7)
    return figure


@styled
def index_cubes(cubes: Mapping[str, tuple[Int[ndarray, "v g m"], Int[ndarray, "v g m"]]]) -> Figure:
    """Draw the slices v = 0 to 3 of index cubes, each cube above its turned copy; cells of the copy that differ carry a
    cross. Titles count all slices.

    cubes: name → the cube G[v, g, m] and its copy G[rv, rg, rm].
    """
    tall = [1.45 if len(cube) > 4 else 1.25 for cube, _ in cubes.values() for _ in range(2)]
    size = (WIDTH, sum(tall) + 0.35 * len(tall))
    figure, axes = plt.subplots(len(tall), 1, figsize=size, layout="constrained", squeeze=False, height_ratios=tall)
    for (name, (cube, turned)), above, below in zip(cubes.items(), axes[::2, 0], axes[1::2, 0], strict=True):
        differ = cube != turned
        verdict = f"{differ.sum()} of {differ.size} cells differ" if differ.any() else "all cells agree"
        _slices(above, cube, np.zeros_like(differ))
        _slices(below, turned, differ)
        above.set_title(f"{name}: G[v, g, m]")
        below.set_title(f"G[rv, rg, rm]: {verdict}")
    axes[-1, 0].set_xlabel("m, within each slice")
    return figure


@styled
def errors_by_angle(degrees: Sequence[float], errors: Mapping[str, Float[ndarray, " angle"]]) -> Figure:
    """Draw the equivariance error of several layers (dimensionless) against the turn of the input, from zero upwards.

    Filled markers: exact, to rounding.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 3.8), layout="constrained")
    for color, marker, (name, values) in zip(SERIES, MARKERS, errors.items(), strict=False):
        exact = values < 1e-10
        ax.plot(degrees, values, color=color, marker=marker, markerfacecolor="white", label=name, clip_on=False)
        ax.plot(np.array(degrees)[exact], values[exact], marker, color=color, clip_on=False, zorder=3)
    ax.set(xlabel="turn of the input (degrees)", ylabel="equivariance error", xticks=list(degrees), ylim=(0, None))
    ax.grid(alpha=0.3)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _maps(
    panels: Sequence[Sequence[ndarray]],
    names: Sequence[str],
    titles: Sequence[str],
    label: str,
    limits: tuple[float, float],
) -> tuple[Figure, ndarray]:
    """A grid of maps on one scale, rows named on the left and columns at the top; the figure and its axes."""
    rows, columns = len(names), len(titles)
    size = (WIDTH, rows * 4.4 / columns + 1.3)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for line, values, name in zip(axes, panels, names, strict=True):
        for ax, values_of_panel in zip(line, values, strict=True):
            shown = picture(ax, values_of_panel, cmap=MAP, vmin=limits[0], vmax=limits[1])
        line[0].set_ylabel(name)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    figure.colorbar(shown, ax=axes, label=label, location="bottom", shrink=0.6, aspect=30)
    return figure, axes


def _numbers(ax: Axes, values: ndarray, bright: float) -> None:
    """Write whole values into their cells, dark letters on cells above ``bright``; others are too long for a cell."""
    if np.abs(values - values.round()).max() > 1e-6:
        return
    for (row, column), value in np.ndenumerate(values):
        color = "black" if value > bright else "white"
        ax.text(column, row, f"{round(float(value))}", ha="center", va="center", color=color)


def _slices(ax: Axes, cube: ndarray, marked: ndarray) -> None:
    """Draw up to four slices v of a cube side by side, with empty cells between them."""
    order, slices = len(cube), min(len(cube), 4)
    sheet = np.full((order, slices * (order + 1) - 1), np.nan)
    for v in range(slices):
        left = v * (order + 1)
        sheet[:, left : left + order] = cube[v]
        ax.text(left + (order - 1) / 2, -0.6, f"v = {v}", ha="center", va="bottom")
        for (g, m), entry in np.ndenumerate(cube[v] if order <= 4 else cube[v, :0]):
            color = "black" if entry >= order / 2 else "white"
            ax.text(left + m, g, str(entry), ha="center", va="center", color=color)
        g, m = np.nonzero(marked[v])
        ax.plot(left + m, g, "x", color=MARK, markersize=12 if order <= 4 else 5, markeredgewidth=1.3)
    ax.imshow(sheet, cmap=plt.get_cmap(MAP, order), norm=BoundaryNorm(np.arange(order + 1) - 0.5, order))
    ax.set(xticks=[], yticks=[], ylabel="g")
    ax.set_ylim(order - 0.4, -0.3 * order - 0.6)
    for side in ax.spines.values():
        side.set_visible(False)
