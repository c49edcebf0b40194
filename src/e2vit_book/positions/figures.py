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

MAP = "cividis"  # grows evenly in lightness: reads the same in gray
MARK = "#D55E00"
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "")
DASHES = ("-", "--", "-.", ":", "-", (0, (1, 1)))


def product_table(
    pictures: Float[ndarray, "element height width"], product: Int[ndarray, "element element"], names: Sequence[str]
) -> Figure:
    """The product table of a group in pictures: row g and column h meet in gh, first h, then g.

    pictures: one picture moved by each element. names: what each element does.
    """
    order = len(product)
    figure, axes = plt.subplots(
        order + 1, order + 1, figsize=(1.15 * (order + 1), 1.25 * (order + 1)), layout="constrained"
    )
    for g in range(order):
        _picture(axes[g + 1, 0], pictures[g], f"then {g}: {names[g]}")
        _picture(axes[0, g + 1], pictures[g], f"first {g}: {names[g]}")
        for h in range(order):
            ax = axes[g + 1, h + 1]
            _picture(ax, pictures[product[g, h]], str(product[g, h]))
            for side in ax.spines.values():
                side.set(color=COLORS[0], linewidth=2)
    axes[0, 0].axis("off")
    axes[0, 0].text(0.5, 0.5, "row · column", ha="center", va="center", fontsize=9)
    return figure


def lifted_maps(
    images: Float[ndarray, "case height width"], maps: Float[ndarray, "case pose height width"], names: Sequence[str]
) -> Figure:
    """Images on the left; beside each, one channel of its lifted feature map in every pose. One scale for all maps.

    names: what each case is.
    """
    cases, poses = maps.shape[:2]
    figure, axes = plt.subplots(
        cases, poses + 1, figsize=(1.4 * (poses + 1) + 0.7, 1.5 * cases), layout="constrained", squeeze=False
    )
    low, high = maps.min(), maps.max()
    for case, row in enumerate(axes):
        _picture(row[0], images[case], "input" if case == 0 else "")
        row[0].set_ylabel(names[case], fontsize=9)
        for pose, ax in enumerate(row[1:]):
            shown = ax.imshow(maps[case, pose], cmap=MAP, vmin=low, vmax=high)
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"pose {pose}" if case == 0 else "", fontsize=9)
    figure.colorbar(shown, ax=axes, label="feature (no unit)", shrink=0.8)
    return figure


def index_maps(
    seen: Float[ndarray, "pose offset 2"], names: Sequence[str], numbers: Sequence[int] | None = None
) -> Figure:
    """Which row and which column every pose finds at each place of a square window; the center is 0, 0.

    seen: the offsets (x to the right, y upwards, in pixels) as the poses see them, row by row from the top left.
    numbers: of the poses, when they are not all of them in order.
    """
    poses, side = len(seen), round(seen.shape[1] ** 0.5)
    figure, axes = plt.subplots(2, poses, figsize=(1.75 * poses + 1.0, 3.9), layout="constrained", squeeze=False)
    reach = np.abs(seen).max()
    for pose in range(poses):
        grid = seen[pose].reshape(side, side, 2)
        for ax, values in zip(axes[:, pose], (-grid[..., 1], grid[..., 0]), strict=True):  # rows grow downwards
            shown = ax.imshow(values, cmap=MAP, vmin=-reach, vmax=reach)
            _numbers(ax, values, bright=reach / 4)
            ax.set(xticks=[], yticks=[])
        axes[0, pose].set_title(f"pose {numbers[pose] if numbers else pose}\n{names[pose]}", fontsize=9)
    axes[0, 0].set_ylabel("row seen")
    axes[1, 0].set_ylabel("column seen")
    figure.colorbar(shown, ax=axes, label="offset (pixels)", shrink=0.8)
    return figure


def encodings(parts: Mapping[str, Float[ndarray, "pose row column"]], names: Sequence[str]) -> Figure:
    """What an encoding adds to the score of each offset, for every pose: one row of maps for each part. One scale.

    names: what each pose is.
    """
    poses = len(names)
    figure, axes = plt.subplots(
        len(parts), poses, figsize=(1.55 * poses + 1.3, 1.65 * len(parts)), layout="constrained", squeeze=False
    )
    low, high = (
        limit(values.min() if limit is min else values.max() for values in parts.values()) for limit in (min, max)
    )
    for row, (name, values) in zip(axes, parts.items(), strict=True):
        for pose, ax in enumerate(row):
            reach = (values.shape[-1] - 1) / 2
            shown = ax.imshow(
                values[pose],
                cmap=MAP,
                vmin=low,
                vmax=high,
                extent=(-reach - 0.5, reach + 0.5, reach + 0.5, -reach - 0.5),
            )
            ax.set(xticks=[], yticks=[])
            ax.plot(0, 0, "+", color="white", markersize=7)
        row[0].set_ylabel(name, fontsize=10)
    for pose, ax in enumerate(axes[0]):
        ax.set_title(f"pose {pose}\n{names[pose]}", fontsize=9)
    figure.colorbar(shown, ax=axes, label="added to the score", shrink=0.8)
    return figure


def index_cubes(cubes: Mapping[str, tuple[Int[ndarray, "v g m"], Int[ndarray, "v g m"]]]) -> Figure:
    """Index cubes, cut into slices v, each beside its turned copy; cells of the copy that differ carry a cross.

    cubes: name → the cube G[v, g, m] and its copy G[rv, rg, rm].
    """
    heights = [2 if len(cube) > 4 else 1 for cube, _ in cubes.values()]
    tall = [0.65 + 1.15 * rows for rows in heights]
    figure, axes = plt.subplots(
        len(cubes),
        2,
        figsize=(9.6, sum(tall) + 0.45 * len(cubes)),
        layout="constrained",
        squeeze=False,
        height_ratios=tall,
    )
    for (name, (cube, turned)), row, rows in zip(cubes.items(), axes, heights, strict=True):
        differ = cube != turned
        _slices(row[0], cube, rows, np.zeros_like(differ))
        _slices(row[1], turned, rows, differ)
        row[0].set_title(f"{name}: G[v, g, m]", fontsize=10)
        verdict = f"{differ.sum()} of {differ.size} cells differ" if differ.any() else "all cells agree"
        row[1].set_title(f"turned copy G[rv, rg, rm]: {verdict}", fontsize=10)
    return figure


def errors_by_angle(degrees: Sequence[float], errors: Mapping[str, Float[ndarray, " angle"]]) -> Figure:
    """The equivariance error of several layers (dimensionless) against the turn of the input, logarithmic.

    Errors at the level of rounding are drawn at the lower border.
    """
    figure, ax = plt.subplots(figsize=(6.4, 3.5), layout="constrained")
    top = max(values.max() for values in errors.values())
    floor = 1e-4 * top
    for k, (name, values) in enumerate(errors.items()):
        ax.semilogy(
            degrees,
            np.maximum(values, floor),
            color=COLORS[k % len(COLORS)],
            marker=MARKERS[k % len(MARKERS)],
            linestyle=DASHES[k % len(DASHES)],
            label=name,
            clip_on=False,
        )
    ax.set(
        xlabel="turn of the input (degrees)", ylabel="equivariance error", xticks=list(degrees), ylim=(floor, 3 * top)
    )
    ax.grid(alpha=0.3)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _picture(ax: Axes, image: ndarray, title: str) -> None:
    ax.imshow(image, cmap="gray")
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=8)


def _numbers(ax: Axes, values: ndarray, bright: float) -> None:
    """Each value in its cell; dark letters on cells above ``bright``."""
    whole = np.abs(values - values.round()).max() < 1e-6
    for (row, column), value in np.ndenumerate(values):
        text = f"{round(float(value))}" if whole else f"{value + 0.0:.1f}".replace("-0.0", "0.0")
        ax.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=8 if whole else 6,
            color="black" if value > bright else "white",
        )


def _slices(ax: Axes, cube: ndarray, rows: int, marked: ndarray) -> None:
    """The slices v of a cube side by side in some rows, with empty cells between them."""
    order = len(cube)
    columns, step = order // rows, order + 1
    down = order + (1 if rows == 1 else 2)  # room for the names of the lower slices
    sheet = np.full((rows * down - (down - order), columns * step - 1), np.nan)
    for v in range(order):
        top, left = v // columns * down, v % columns * step
        sheet[top : top + order, left : left + order] = cube[v]
        ax.text(left + (order - 1) / 2, top - 0.65, f"v = {v}", ha="center", va="bottom", fontsize=8)
        if order <= 4:
            for (g, m), entry in np.ndenumerate(cube[v]):
                ax.text(
                    left + m,
                    top + g,
                    str(entry),
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="black" if entry >= order / 2 else "white",
                )
        g, m = np.nonzero(marked[v])
        ax.plot(
            left + m,
            top + g,
            "x",
            color=MARK,
            markersize=14 if order <= 4 else 5,
            markeredgewidth=1.6 if order <= 4 else 1.0,
        )
    ax.imshow(sheet, cmap=plt.get_cmap(MAP, order), norm=BoundaryNorm(np.arange(order + 1) - 0.5, order))
    ax.set(xlabel="m, within each slice", ylabel="g", xticks=[], yticks=[])
    ax.set_ylim(sheet.shape[0] - 0.4, -1.6 if order <= 4 else -2.2)
    for side in ax.spines.values():
        side.set_visible(False)
