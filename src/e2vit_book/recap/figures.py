"""The figures of the recap: attention on sentences and sequences, positions as waves, patches, a classifier."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from einops import rearrange
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from numpy import ndarray

from e2vit.metrics import wilson
from e2vit_book.style import SERIES, look, picture, styled


@styled
def shaded_sentences(
    sentences: Sequence[Sequence[str]],
    weights: Sequence[Float[ndarray, " token"]],
    encoded: Sequence[int],
    names: Sequence[str],
) -> Figure:
    """Draw sentences, each word shaded by its weight when one word is encoded; the weight is written below it.

    encoded: the place of the word that is encoded, framed. names: what is written above each sentence.
    """
    size = (7.4, 0.78 * len(sentences))
    figure, axes = plt.subplots(len(sentences), 1, figsize=size, layout="constrained", squeeze=False)
    for ax, words, weight, place, name in zip(axes[:, 0], sentences, weights, encoded, names, strict=True):
        widths = np.array([len(word) + 1.6 for word in words])
        lefts = np.concatenate([[0], widths.cumsum()[:-1]])
        for k, (word, left, width) in enumerate(zip(words, lefts, widths - 0.3, strict=True)):
            ax.add_patch(Rectangle((left, 0), width, 1, facecolor=plt.cm.Blues(0.9 * weight[k]), zorder=1))
            if k == place:
                ax.add_patch(Rectangle((left, 0), width, 1, fill=False, edgecolor="#D55E00", linewidth=2))
            middle, dark = left + width / 2, weight[k] > 0.6
            ax.text(middle, 0.5, word, ha="center", va="center", fontsize=10, color="white" if dark else "black")
            ax.text(middle, -0.12, f"{weight[k]:.2f}", ha="center", va="top", fontsize=8, color="#444444")
        ax.set(xlim=(-0.2, max(70.0, widths.sum())), ylim=(-0.75, 1.9))
        ax.text(0, 1.15, name, ha="left", va="bottom", fontsize=9, style="italic")
        ax.axis("off")
    return figure


@styled
def sinusoids(positions: Float[ndarray, "place d"]) -> Figure:
    """Draw the sinusoidal encoding as a picture, one row for each place, and four of its columns as waves."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.2), layout="constrained", width_ratios=(1, 1.1))
    shown = left.imshow(positions, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    left.set(xlabel="feature", ylabel="place in the sequence")
    figure.colorbar(shown, ax=left, label="value")
    for k, feature in enumerate(np.linspace(0, positions.shape[1] // 2, 4).astype(int) // 2 * 2):
        dashes = ("-", "--", "-.", ":")[k]
        right.plot(positions[:, feature], dashes, color=SERIES[k], label=f"feature {feature}")
    right.set(xlabel="place in the sequence", ylim=(-1.1, 1.6))
    right.legend(ncols=2, loc="upper center", fontsize=9, frameon=False)
    return figure


@styled
def shift_as_rotation(
    positions: Float[ndarray, "place d"], shifted: Float[ndarray, "place d"], pairs: Sequence[int]
) -> Figure:
    """Draw some pairs (sine, cosine) of an encoding as points of the plane; a shift turns each plane by its own angle.

    shifted: the same places after the shift. pairs: which pairs to draw.
    """
    size = (2.4 * len(pairs), 3.0)
    figure, axes = plt.subplots(1, len(pairs), figsize=size, layout="constrained", sharey=True, squeeze=False)
    arrow = {"arrowstyle": "->", "color": "#777777", "connectionstyle": "arc3,rad=0.35"}
    for ax, pair in zip(axes[0], pairs, strict=True):
        before, after = positions[:, 2 * pair : 2 * pair + 2], shifted[:, 2 * pair : 2 * pair + 2]
        ax.add_patch(Circle((0, 0), 1, fill=False, edgecolor="#bbbbbb"))
        for start, end in zip(before, after, strict=True):
            ax.annotate("", end[::-1], start[::-1], arrowprops=arrow)
        ax.plot(before[:, 1], before[:, 0], "o", color=SERIES[0], label="before")
        ax.plot(after[:, 1], after[:, 0], "s", color=SERIES[1], label="after", markersize=5)
        ax.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal")
        ax.set(title=f"features {2 * pair} and {2 * pair + 1}", xlabel="cosine")
    axes[0, 0].set_ylabel("sine")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


@styled
def cross_attention(
    weights: Float[ndarray, "head target source"], source: Sequence[str], target: Sequence[str]
) -> Figure:
    """Draw a map for each head: the weight of each token read (columns) for each token written (rows)."""
    size = (1.4 + 1.75 * len(weights), 2.7)
    figure, axes = plt.subplots(1, len(weights), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for k, ax in enumerate(axes[0]):
        shown = ax.imshow(weights[k], cmap="Blues", vmin=0, vmax=1)
        ax.set(title=f"head {k + 1}", xlabel="token read", xticks=range(len(source)), yticks=range(len(target)))
        ax.set_xticklabels(source, fontsize=8)
        ax.set_yticklabels(target, fontsize=8)
    axes[0, 0].set_ylabel("token to be written")
    figure.colorbar(shown, ax=axes, label="weight", shrink=0.8)
    return figure


@styled
def patches_and_tokens(image: Float[ndarray, "height width"], patch_size: int) -> Figure:
    """Draw an image cut into patches, and the patches as rows of numbers: the input of the linear embedding."""
    patches = rearrange(image, "(row a) (column b) -> (row column) (a b)", a=patch_size, b=patch_size)
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 3.3), layout="constrained", width_ratios=(1.6, 1))
    left.imshow(image, cmap="gray", extent=(0, image.shape[1], image.shape[0], 0))
    for line in range(0, image.shape[0] + 1, patch_size):
        left.axhline(line, color="#E69F00", linewidth=1)
        left.axvline(line, color="#E69F00", linewidth=1)
    side = image.shape[1] // patch_size
    for k in range(len(patches)):
        x, y = k % side * patch_size + 0.3, k // side * patch_size + 0.3
        left.text(x, y, str(k + 1), color="#ffd08a", fontsize=7, va="top")
    left.set(xlabel="column (pixels)", ylabel="row (pixels)")
    right.imshow(patches, cmap="gray", aspect="auto", extent=(0.5, patch_size**2 + 0.5, len(patches) + 0.5, 0.5))
    right.set(xlabel="pixel of the patch", ylabel="patch")
    return figure


@styled
def learning_curve(loss: Float[ndarray, " epoch"], accuracy: Float[ndarray, " epoch"], chosen_epoch: int) -> Figure:
    """Draw training loss (nats) and validation accuracy (fraction) after each epoch; the chosen epoch is marked."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.7), layout="constrained")
    epochs = np.arange(1, len(loss) + 1)
    left.plot(epochs, loss, color=SERIES[0])
    left.set(xlabel="epoch", ylabel="training loss (nats)", ylim=(0, None))
    right.plot(epochs, accuracy, color=SERIES[1])
    right.plot(chosen_epoch, accuracy[chosen_epoch - 1], "o", color="black", label=f"chosen: epoch {chosen_epoch}")
    right.set(xlabel="epoch", ylabel="validation accuracy", ylim=(None, 1))
    right.legend(loc="lower right")
    return figure


@styled
def confusion_matrix(counts: Int[ndarray, "label predicted"]) -> Figure:
    """Draw how often each digit (row) was classified as each other (column); the diagonal is white."""
    figure, ax = plt.subplots(figsize=(4.6, 3.9), layout="constrained")
    right = np.eye(len(counts), dtype=bool)
    sns.heatmap(
        np.where(right, 0, counts),
        annot=counts,
        fmt="d",
        annot_kws={"fontsize": 8},
        cmap="Blues",
        cbar_kws={"label": "images"},
        square=True,
        ax=ax,
    )
    ax.set(xlabel="predicted digit", ylabel="true digit")
    return figure


@styled
def positional_similarity(position: Float[ndarray, "token d"], side: int) -> Figure:
    """Draw for every patch the cosine similarity of its learned position with that of every other patch."""
    unit = position / np.linalg.norm(position, axis=1, keepdims=True)
    maps = rearrange(unit @ unit.T, "(row column) (y x) -> row column y x", row=side, y=side)
    figure, axes = plt.subplots(side, side, figsize=(4.9, 4.5), layout="constrained", squeeze=False)
    for row, column in np.ndindex(side, side):
        ax: Any = axes[row, column]
        shown = picture(ax, maps[row, column], cmap="viridis", vmin=-1, vmax=1)
        ax.plot(column, row, "o", markerfacecolor="none", markeredgecolor="white", markersize=4)
    figure.supxlabel("column of the patch")
    figure.supylabel("row of the patch")
    figure.colorbar(shown, ax=axes, label="cosine similarity", shrink=0.8)
    return figure


@styled
def accuracy_by_angle(
    degrees: Float[ndarray, " angle"],
    accuracies: dict[str, Float[ndarray, " angle"]],
    count: int | None = None,
    chance: float = 0.1,
) -> Figure:
    """Draw accuracy (fraction) against the rotation of the input (degrees), one line for each model.

    count: of the images, for bands of 95 % Wilson intervals; without it there are none.
    """
    figure, ax = plt.subplots(figsize=(6.0, 3.4), layout="constrained")
    for name, accuracy in accuracies.items():
        ax.plot(degrees, accuracy, markersize=4, label=name, **look(name))
        if count is not None:
            low, high = np.array([wilson(rate, count) for rate in accuracy]).T
            ax.fill_between(degrees, low, high, color=look(name)["color"], alpha=0.2, linewidth=0)
    ax.axhline(chance, color="#555555", linewidth=1, linestyle=":")
    ax.text(np.max(degrees), chance + 0.02, "chance", ha="right", fontsize=9)
    ticks = np.arange(np.min(degrees), np.max(degrees) + 1, 45)
    ax.set(xlabel="rotation of the input (degrees)", ylabel="accuracy", ylim=(0, 1.02), xticks=ticks)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    return figure
