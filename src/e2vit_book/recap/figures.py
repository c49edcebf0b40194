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
from e2vit_book.style import SERIES, WIDTH, look, picture, styled


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
    size, measure = (WIDTH, 1.75 * len(sentences)), 40  # letters in a line
    figure, axes = plt.subplots(len(sentences), 1, figsize=size, layout="constrained", squeeze=False)
    for ax, words, weight, place, name in zip(axes[:, 0], sentences, weights, encoded, names, strict=True):
        left, top = 0.0, 0.0
        for k, word in enumerate(words):
            width = max(len(word), 3) + 1.6
            if left + width > measure:
                left, top = 0.0, top - 2.4
            box = (left, top), width - 0.3, 1
            ax.add_patch(Rectangle(*box, facecolor=plt.cm.Blues(0.9 * weight[k])))
            if k == place:
                ax.add_patch(Rectangle(*box, fill=False, edgecolor="#D55E00", linewidth=2, zorder=2))
            middle, color = left + width / 2 - 0.15, "white" if weight[k] > 0.6 else "black"
            ax.text(middle, top + 0.5, word, ha="center", va="center", color=color)
            ax.text(middle, top - 0.1, f"{weight[k]:.2f}", ha="center", va="top", color="#444444")
            left += width
        ax.set(xlim=(-0.2, measure), ylim=(-3.3, 2.2))
        ax.text(0, 1.2, name, ha="left", va="bottom", style="italic")
        ax.axis("off")
    return figure


@styled
def sinusoids(positions: Float[ndarray, "place d"]) -> Figure:
    """Draw the sinusoidal encoding as a picture, one row for each place, and four of its columns as waves."""
    figure, (left, right) = plt.subplots(2, 1, figsize=(WIDTH, 5.2), layout="constrained")
    shown = left.imshow(positions, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    left.set(xlabel="feature", ylabel="place in the sequence")
    figure.colorbar(shown, ax=left, label="value")
    for k, feature in enumerate(np.linspace(0, positions.shape[1] // 2, 4).astype(int) // 2 * 2):
        dashes = ("-", "--", "-.", ":")[k]
        right.plot(positions[:, feature], dashes, color=SERIES[k], label=f"feature {feature}")
    right.set(xlabel="place in the sequence", ylim=(-1.1, 1.9))
    right.legend(ncols=2, loc="upper center")
    return figure


@styled
def shift_as_rotation(
    positions: Float[ndarray, "place d"], shifted: Float[ndarray, "place d"], pairs: Sequence[int]
) -> Figure:
    """Draw some pairs (sine, cosine) of an encoding as points of the plane; a shift turns each plane by its own angle.

    shifted: the same places after the shift. pairs: which pairs to draw.
    """
    size = (WIDTH, 2.7)
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
        ax.set(title=f"features\n{2 * pair} and {2 * pair + 1}", xlabel="cosine")
    axes[0, 0].set_ylabel("sine")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


@styled
def cross_attention(
    weights: Float[ndarray, "head target source"], source: Sequence[str], target: Sequence[str]
) -> Figure:
    """Draw a map for each head: the weight of each token read (columns) for each token written (rows)."""
    rows = -(-len(weights) // 2)
    size = (WIDTH, 2.6 * rows + 0.5)
    figure, axes = plt.subplots(rows, 2, figsize=size, layout="constrained", sharey=True, squeeze=False)
    for k, (ax, weight) in enumerate(zip(axes.flat, weights, strict=False)):
        shown = ax.imshow(weight, cmap="Blues", vmin=0, vmax=1)
        ax.set(title=f"head {k + 1}", xticks=range(len(source)), yticks=range(len(target)))
        ax.set(xticklabels=source, yticklabels=target)
        ax.tick_params(axis="x", rotation=90)
    for ax in axes.flat[len(weights) :]:
        ax.axis("off")
    figure.supxlabel("token read")
    figure.supylabel("token to be written")
    figure.colorbar(shown, ax=axes, label="weight", shrink=0.6)
    return figure


@styled
def patches_and_tokens(image: Float[ndarray, "height width"], patch_size: int) -> Figure:
    """Draw an image cut into patches, and the patches as rows of numbers: the input of the linear embedding."""
    patches = rearrange(image, "(row a) (column b) -> (row column) (a b)", a=patch_size, b=patch_size)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9), layout="constrained", width_ratios=(1.7, 1))
    left.imshow(image, cmap="gray", extent=(0, image.shape[1], image.shape[0], 0))
    for line in range(0, image.shape[0] + 1, patch_size):
        left.axhline(line, color="#E69F00", linewidth=1)
        left.axvline(line, color="#E69F00", linewidth=1)
    side = image.shape[1] // patch_size
    for k in range(len(patches)):
        x, y = k % side * patch_size + 0.3, k // side * patch_size + 0.3
        left.text(x, y, str(k + 1), color="#ffd08a", va="top")
    left.set(xlabel="column (pixels)", ylabel="row (pixels)")
    right.imshow(patches, cmap="gray", aspect="auto", extent=(0.5, patch_size**2 + 0.5, len(patches) + 0.5, 0.5))
    right.set(xlabel="pixel of the patch", ylabel="patch")
    return figure


@styled
def learning_curve(loss: Float[ndarray, " epoch"], accuracy: Float[ndarray, " epoch"], chosen_epoch: int) -> Figure:
    """Draw training loss (nats) and validation accuracy (fraction) after each epoch; the chosen epoch is marked."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.8), layout="constrained")
    epochs = np.arange(1, len(loss) + 1)
    left.plot(epochs, loss, color=SERIES[0])
    left.set(xlabel="epoch", ylabel="training loss (nats)", ylim=(0, None))
    right.plot(epochs, accuracy, color=SERIES[1])
    chosen = chosen_epoch, accuracy[chosen_epoch - 1]
    right.plot(*chosen, "o", color="black")
    right.annotate("chosen epoch", chosen, (0, -18), textcoords="offset points", ha="right", va="top")
    right.set(xlabel="epoch", ylabel="validation accuracy", ylim=(None, 1))
    return figure


@styled
def confusion_matrix(counts: Int[ndarray, "label predicted"]) -> Figure:
    """Draw how often each digit (row) was classified as each other (column); the diagonal is white."""
    figure, ax = plt.subplots(figsize=(WIDTH, 4.6), layout="constrained")
    right = np.eye(len(counts), dtype=bool)
    sns.heatmap(
        np.where(right, 0, counts),
        annot=counts,
        fmt="d",
        cmap="Blues",
        cbar=False,
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
    figure, axes = plt.subplots(side, side, figsize=(WIDTH, 4.4), layout="constrained", squeeze=False)
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
    figure, ax = plt.subplots(figsize=(WIDTH, 3.6), layout="constrained")
    for name, accuracy in accuracies.items():
        ax.plot(degrees, accuracy, markersize=4, label=name, **look(name))
        if count is not None:
            low, high = np.array([wilson(rate, count) for rate in accuracy]).T
            ax.fill_between(degrees, low, high, color=look(name)["color"], alpha=0.2, linewidth=0)
    ax.axhline(chance, color="#555555", linewidth=1, linestyle=":")
    ax.text(np.max(degrees), chance + 0.02, "chance", ha="right")
    ticks = np.arange(np.min(degrees), np.max(degrees) + 1, 90)
    ax.set(xlabel="rotation of the input (degrees)", ylabel="accuracy", ylim=(0, 1.02), xticks=ticks)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return figure
