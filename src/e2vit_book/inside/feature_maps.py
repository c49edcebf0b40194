"""Pictures of feature maps: what a layer does with a turned image, and what is left when it is turned back."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from einops import rearrange
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from e2vit_book.inside.figures import COLORS, MARKERS, _bare, _number


def relative_residual(found: Float[ndarray, "..."], expected: Float[ndarray, "..."]) -> float:
    """max |f(gx) − g f(x)| / max |f(x)|: dimensionless, zero for an equivariant layer."""
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def orbit(
    images: Float[ndarray, "element height width"],
    found: Float[ndarray, "element pose row column"],
    expected: Float[ndarray, "element pose row column"],
    names: Sequence[str],
) -> Figure:
    """The orbit of an image, f(gx) below it, then g f(x), then their difference with its largest value.

    One channel; the poses of a lifted map stand side by side in a square. All maps share one scale.
    """
    count, size = len(images), np.abs(found).max()
    figure, axes = plt.subplots(4, count, figsize=(1.4 * count + 0.5, 5.9), layout="constrained", squeeze=False)
    rows = (
        ("input", images),
        ("layer of\nturned input", mosaic(found)),
        ("turned layer\nof input", mosaic(expected)),
        ("difference", mosaic(found - expected)),
    )
    for k, (name, pictures) in enumerate(rows):
        for g, ax in enumerate(axes[k]):
            scale = dict(cmap="gray", vmin=0, vmax=1) if k == 0 else dict(cmap="RdBu_r", vmin=-size, vmax=size)
            ax.imshow(pictures[g], **scale)
            if k == 0:
                ax.set_title(names[g], fontsize=10)
        axes[k, 0].set_ylabel(name, fontsize=10)
    for g, ax in enumerate(axes[3]):
        ax.set_xlabel(_number(relative_residual(found[g], expected[g])), fontsize=10)
    _bare(axes)
    return figure


def mosaic(maps: Float[ndarray, "n pose row column"]) -> Float[ndarray, "n height width"]:
    """The poses of a lifted map as tiles of one picture, with a line of nothing between them."""
    maps, poses = maps.repeat(3, -1).repeat(3, -2), maps.shape[1]  # so that the line is thin
    across = int(np.ceil(np.sqrt(poses)))
    padded = np.pad(maps, ((0, 0), (0, -poses % across), (0, 1), (0, 1)), constant_values=np.nan)
    tiles = rearrange(padded, "n (down across) y x -> n (down y) (across x)", across=across)
    return tiles[:, :-1, :-1]


def square(
    image: Float[ndarray, "height width"],
    turned_image: Float[ndarray, "height width"],
    maps: Float[ndarray, "pose row column"],
    turned_maps: Float[ndarray, "pose row column"],
    maps_of_turned: Float[ndarray, "pose row column"],
    layer: str = "f",
    action: str = "g",
) -> Figure:
    """The commutative square: first turn and then the layer, or first the layer and then turn. The error is on it."""
    size = max(np.abs(maps).max(), np.abs(maps_of_turned).max())
    error = relative_residual(maps_of_turned, turned_maps)
    figure, axes = plt.subplots(2, 3, figsize=(6.6, 3.9), width_ratios=(1, 1, 1))
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.05, top=0.9, wspace=0.45, hspace=0.5)
    scale = dict(cmap="RdBu_r", vmin=-size, vmax=size)
    top = mosaic(maps[None])[0], mosaic(turned_maps[None])[0]
    axes[0, 0].imshow(image, cmap="gray", vmin=0, vmax=1)
    axes[1, 0].imshow(turned_image, cmap="gray", vmin=0, vmax=1)
    axes[0, 1].imshow(top[0], **scale)
    axes[0, 2].imshow(top[1], **scale)
    axes[1, 1].imshow(mosaic(maps_of_turned[None])[0], **scale)
    axes[1, 2].imshow(mosaic((maps_of_turned - turned_maps)[None])[0], **scale)
    titles = (
        ("x", f"{layer}(x)", f"{action}·{layer}(x)"),
        (f"{action}·x", f"{layer}({action}·x)", f"difference: {_number(error)}"),
    )
    for row, names in zip(axes, titles, strict=True):
        for ax, name in zip(row, names, strict=True):
            ax.set_title(name, fontsize=11)
    arrow = dict(arrowstyle="->", color="0.2", linewidth=1.4)
    for start, name in (((0, 0), layer), ((1, 0), layer), ((0, 1), action)):
        axes[start].annotate("", (1.4, 0.5), (1.06, 0.5), xycoords="axes fraction", arrowprops=arrow)
        axes[start].text(1.23, 0.56, name, transform=axes[start].transAxes, ha="center", fontsize=11)
    axes[0, 0].annotate("", (0.5, -0.32), (0.5, -0.04), xycoords="axes fraction", arrowprops=arrow)
    axes[0, 0].text(0.56, -0.22, action, transform=axes[0, 0].transAxes, fontsize=11)
    axes[1, 1].text(
        1.23,
        0.5,
        "=" if error < 1e-4 else "≠",
        transform=axes[1, 1].transAxes,
        ha="center",
        va="center",
        fontsize=20,
        color=COLORS[0] if error < 1e-4 else "#D55E00",
    )
    _bare(axes)
    return figure


def residuals(errors: Mapping[str, Mapping[str, float]]) -> Figure:
    """The residual of each layer against depth, on a log scale, for several models.

    errors: model → layer → dimensionless residual; zeros are drawn at the foot.
    """
    figure, ax = plt.subplots(figsize=(6.2, 3.8), layout="constrained")
    foot = 1e-9
    for k, (name, layers) in enumerate(errors.items()):
        depth = np.linspace(0, 1, len(layers))
        heights = np.maximum(list(layers.values()), foot)
        ax.plot(depth, heights, ("-", "--")[k % 2] + MARKERS[k % 6], color=COLORS[k % 6], label=name)
    ax.axhspan(foot / 2, 1e-5, color="0.9", zorder=0)
    ax.text(0.01, 1.3e-9, "rounding (32 bits)", fontsize=9, color="0.3", transform=ax.get_yaxis_transform())
    ax.set(
        yscale="log",
        ylim=(foot / 2, 5),
        xlabel="depth: first layer to logits (share of the layers)",
        ylabel="max |f(gx) − g f(x)| / max |f(x)|",
    )
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure
