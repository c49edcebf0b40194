"""Architectures drawn as boxes and arrows: the original transformer and the vision transformer."""

import matplotlib.pyplot as plt
import numpy as np
from einops import rearrange
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from numpy import ndarray

# Pale fills with dark text, told apart by their words; the hues differ in lightness too.
COLORS = {
    "attention": "#f6c98b",
    "mlp": "#bcd9ee",
    "norm": "#f3efb0",
    "embed": "#f2cfd6",
    "head": "#cfe6cd",
    "plain": "#f4f4f4",
}
LINE = {"arrowstyle": "-|>", "color": "#333333", "shrinkA": 0, "shrinkB": 0, "linewidth": 1.1, "mutation_scale": 10}
WIDTH = 3.6  # of a box


PITCH = 2.5  # height of one part of a column: branch, box, sum


def encoder_decoder(depth: int = 6) -> Figure:
    """The original transformer, drawn from bottom to top: what is read on the left, what is written on the right.

    depth: how many times each column is repeated.
    """
    left, right, bottom = 3.1, 9.6, 2.6
    figure, ax = _canvas(6.4, 7.0, width=12.9, height=bottom + 3 * PITCH + 4.0)
    for x, text in ((left, "tokens read"), (right, "tokens written so far")):
        _box(ax, x, 0.4, text, "plain")
        _arrow(ax, (x, 0.7), (x, 1.3))
        _box(ax, x, 1.6, "embedding + position", "embed")
    encoded = _column(ax, left, bottom, ["self-attention", "MLP"], f"encoder,\n{depth} times")
    decoded = _column(
        ax, right, bottom, ["masked self-attention", "cross-attention", "MLP"], f"decoder,\n{depth} times"
    )
    cross, over = bottom + PITCH + 1.2, encoded + 0.9
    _line(ax, [(left, encoded), (left, over), (6.2, over), (6.2, cross)])
    _arrow(ax, (6.2, cross), (right - WIDTH / 2, cross))
    ax.text(6.05, (over + cross) / 2, "keys, values", rotation=90, ha="right", va="center", fontsize=9)
    ax.text(right + 0.15, cross - 0.5, "queries", ha="left", va="center", fontsize=9)
    _arrow(ax, (right, decoded), (right, decoded + 1.0))
    _box(ax, right, decoded + 1.3, "linear, softmax", "head")
    _arrow(ax, (right, decoded + 1.6), (right, decoded + 2.2))
    _box(ax, right, decoded + 2.5, "next token", "plain")
    return figure


def vision_transformer(image: Float[ndarray, "height width"], patch_size: int, depth: int, classes: int = 10) -> Figure:
    """A plain vision transformer, from left to right: image, patches, tokens, blocks, class.

    image: gray values; depth: number of blocks.
    """
    patches = rearrange(image, "(row a) (column b) -> (row column) a b", a=patch_size, b=patch_size)
    brightest = patches.mean((1, 2)).argsort()[::-1][:12]  # a black patch shows nothing
    shown = np.sort(brightest)[[0, 2, 5, 7, 9, 11]] if len(brightest) == 12 else np.arange(len(patches))
    figure, ax = _canvas(7.2, 3.9, width=21.0, height=11.4)
    _picture(ax, image, 0.2, 3.9, 3.6, 3.6, grid=patch_size)
    for x, text in ((2.0, "image"), (5.4, "patches"), (8.3, "embedding\n+ position")):
        ax.text(x, 7.9 if x == 2.0 else 10.0, text, ha="center", va="bottom", fontsize=9)
    rows = np.linspace(8.6, 0.7, len(shown) + 1)
    ax.text(5.4, rows[3] + 0.5, "⋮", ha="center", va="center", fontsize=12)
    for place, y in zip(shown, np.delete(rows, 3), strict=True):
        _picture(ax, patches[place], 4.9, y, 1.0, 1.0, vmax=image.max())
        _arrow(ax, (6.0, y + 0.5), (6.8, y + 0.5))
        _box(ax, 8.3, y + 0.5, f"token {place + 1}", "embed", width=2.9, height=0.9)
        _arrow(ax, (9.8, y + 0.5), (11.0, y + 0.5))
    _vit_block(ax, 13.4, depth)
    _box(ax, 18.9, 7.2, "mean over\ntokens", "plain", width=3.2, height=1.6)
    _box(ax, 18.9, 4.7, "linear", "head", width=3.2, height=0.9)
    _line(ax, [(13.4, 0.85), (13.4, 0.2), (16.6, 0.2), (16.6, 7.2)])
    _arrow(ax, (16.6, 7.2), (17.3, 7.2))
    _arrow(ax, (18.9, 6.4), (18.9, 5.15))
    _arrow(ax, (18.9, 4.25), (18.9, 3.2))
    ax.text(18.9, 2.7, f"{classes} class scores", ha="center", va="center", fontsize=9)
    return figure


def _vit_block(ax: Axes, x: float, depth: int) -> None:
    """A pre-norm block from top to bottom: normalize, attend, add; normalize, MLP, add."""
    _frame(ax, x, 0.55, 4.7, 9.45)
    ax.text(x, 10.1, f"block, {depth} times", ha="center", va="bottom", fontsize=9, style="italic")
    for branch, text, kind in ((9.6, "self-attention", "attention"), (5.15, "MLP", "mlp")):
        norm, box, add = branch - 1.05, branch - 2.4, branch - 3.8
        _arrow(ax, (x, branch + 0.1), (x, norm + 0.4))
        _box(ax, x, norm, "norm", "norm", width=2.9, height=0.8)
        _arrow(ax, (x, norm - 0.4), (x, box + 0.4))
        _box(ax, x, box, text, kind, width=2.9, height=0.8)
        _arrow(ax, (x, box - 0.4), (x, add + 0.3))
        _line(ax, [(x, branch), (x + 1.9, branch), (x + 1.9, add)])
        _arrow(ax, (x + 1.9, add), (x + 0.3, add))
        _plus(ax, x, add)
        _line(ax, [(x, add - 0.3), (x, add - 0.6)])


def _column(ax: Axes, x: float, bottom: float, parts: list[str], name: str) -> float:
    """Parts of a block, one above the other, each with the branch that goes around it. Returns the upper end."""
    aside, y = x - 2.1, bottom
    _line(ax, [(x, 1.9), (x, bottom)])
    for part in parts:
        branch, box, norm = y + 0.45, y + 1.2, y + 2.15
        _arrow(ax, (x, y), (x, box - 0.3))
        _line(ax, [(x, branch), (aside, branch), (aside, norm)])
        _arrow(ax, (aside, norm), (x - WIDTH / 2, norm))
        _box(ax, x, box, part, "mlp" if part == "MLP" else "attention")
        _arrow(ax, (x, box + 0.3), (x, norm - 0.3))
        _box(ax, x, norm, "add, normalize", "norm")
        y += PITCH
    _frame(ax, x, bottom, 5.0, y - bottom + 0.25)
    ax.text(x + 0.2, y + 0.65, name, ha="left", va="center", fontsize=9, style="italic")
    _line(ax, [(x, y - 0.05), (x, y + 0.25)])
    return y + 0.25


def _canvas(inches_wide: float, inches_high: float, width: float, height: float) -> tuple[Figure, Axes]:
    figure, ax = plt.subplots(figsize=(inches_wide, inches_high), layout="constrained")
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    return figure, ax


def _box(ax: Axes, x: float, y: float, text: str, kind: str, width: float = WIDTH, height: float = 0.6) -> None:
    """A box about its center."""
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            facecolor=COLORS[kind],
            linewidth=1,
            edgecolor="#333333",
            boxstyle="round,pad=0,rounding_size=0.15",
            zorder=2,
        )
    )
    ax.text(x, y, text, ha="center", va="center", fontsize=9, color="black", zorder=3)


def _frame(ax: Axes, x: float, y: float, width: float, height: float) -> None:
    """A dashed frame about x, from y upwards."""
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y),
            width,
            height,
            facecolor="none",
            edgecolor="#777777",
            linestyle="--",
            boxstyle="round,pad=0,rounding_size=0.3",
        )
    )


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.annotate("", end, start, arrowprops=LINE, zorder=4)


def _line(ax: Axes, points: list[tuple[float, float]]) -> None:
    ax.plot(*zip(*points, strict=True), color=LINE["color"], linewidth=LINE["linewidth"], solid_capstyle="butt")


def _plus(ax: Axes, x: float, y: float) -> None:
    ax.text(
        x,
        y,
        "+",
        ha="center",
        va="center",
        fontsize=9,
        zorder=5,
        bbox={"boxstyle": "circle,pad=0.12", "facecolor": "white", "edgecolor": "#333333"},
    )


def _picture(
    ax: Axes, image: ndarray, x: float, y: float, width: float, height: float, grid: int = 0, vmax: float | None = None
) -> None:
    ax.imshow(image, cmap="gray", extent=(x, x + width, y, y + height), vmin=0, vmax=vmax, zorder=2)
    for k in range(0, len(image) + 1, grid) if grid else ():
        share = k / len(image)
        ax.plot([x, x + width], [y + share * height] * 2, color="#e69f00", linewidth=0.7, zorder=3)
        ax.plot([x + share * width] * 2, [y, y + height], color="#e69f00", linewidth=0.7, zorder=3)
    ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
