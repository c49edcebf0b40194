"""Figures of the chapter on real images."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from e2vit.experiments.records import Summary
from e2vit.metrics import Difference
from e2vit_book.real.measure import percent
from e2vit_book.style import WIDTH, difference_rows, look, styled


@styled
def tiles(images: Tensor, titles: Sequence[str]) -> Figure:
    """Images (n, 1 or 3, height, width) of bytes side by side, each under its title, in rows of four."""
    count = -(-len(images) // 4)
    figure, axes = plt.subplots(count, 4, figsize=(WIDTH, 1.7 * count), layout="constrained", squeeze=False)
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        ax.imshow(image.permute(1, 2, 0).squeeze(-1), cmap="gray")
        ax.set_title(title)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure


@styled
def by_share(found: Mapping[str, Mapping[str, Mapping[float, Summary]]]) -> Figure:
    """Test accuracy (%) against the share of the training images, a panel for each data set, with 95 % intervals."""
    figure, axes = plt.subplots(1, len(found), figsize=(WIDTH, 3.4), layout="constrained", squeeze=False)
    for ax, (data, networks) in zip(axes[0], found.items(), strict=True):
        for k, (name, summaries) in enumerate(networks.items()):
            shares = sorted(summaries)
            mean, low, high = (
                np.array([100 * getattr(summaries[share], field) for share in shares])
                for field in ("mean", "low", "high")
            )
            x = np.array(shares) * 1.04 ** (k - (len(networks) - 1) / 2)  # side by side, so that intervals can be read
            ax.errorbar(x, mean, [mean - low, high - mean], capsize=2, label=name, **look(name))
        if not networks:
            ax.text(0.5, 0.5, "no records yet", ha="center", transform=ax.transAxes)
        ax.set(title=data, xscale="log", xlabel="training images used")
        ax.set_xlim(0.075, 1.35)
        ax.set_xticks([0.1, 1 / 3, 1], [percent(0.1), percent(1 / 3), percent(1)])
        ax.minorticks_off()
    axes[0, 0].set_ylabel("test accuracy (%)")
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes[0]), key=lambda found: len(found[1]))
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


@styled
def paired_differences(found: Mapping[str, Difference | None]) -> Figure:
    """A row for each comparison: hybrid minus ViT (percentage points), mean over folds and 95 % interval."""
    known = {name: each for name, each in found.items() if each is not None}
    figure, ax = plt.subplots(figsize=(WIDTH, 1.2 + 0.32 * max(len(known), 1)), layout="constrained")
    difference_rows(ax, known, look("hybrid")["color"])
    if not known:
        ax.text(0.5, 0.5, "no records yet", ha="center", transform=ax.transAxes)
    ax.set_xlabel("hybrid minus ViT (points)")
    return figure


@styled
def attention(images: Sequence[Tensor], maps: Mapping[str, Sequence[Tensor]]) -> Figure:
    """Two images (height, width), upright and turned; below, for each network, what one place attends to in them."""
    count = len(maps) + 1
    figure, axes = plt.subplots(2, count, figsize=(WIDTH, 4.2), layout="constrained")
    for row, words in enumerate(("at 0°", "turned by 90°")):
        axes[row, 0].imshow(images[row], cmap="gray")
        axes[row, 0].set_title(words)
        for ax, (name, pair) in zip(axes[row, 1:], maps.items(), strict=True):
            both = np.stack(pair)
            ax.imshow(pair[row], cmap="magma", vmin=both.min(), vmax=both.max())
            ax.set_title(name)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure
