"""The figures of the recap: attention on sentences and sequences, positions as waves, patches, a classifier."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from einops import rearrange
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from numpy import ndarray

COLORS = sns.color_palette("colorblind")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")


def shaded_sentences(
    sentences: Sequence[Sequence[str]],
    weights: Sequence[Float[ndarray, " token"]],
    asking: Sequence[int],
    names: Sequence[str],
) -> Figure:
    """Sentences, each word shaded by the weight it gets when one word is encoded; the weight stands below it.

    asking: the place of the word that is encoded, framed. names: what stands before each sentence.
    """
    figure, axes = plt.subplots(len(sentences), 1, figsize=(7.4, 0.78 * len(sentences)), layout="constrained")
    for ax, words, weight, place, name in zip(np.atleast_1d(axes), sentences, weights, asking, names, strict=True):
        widths = np.array([len(word) + 1.6 for word in words])
        lefts = np.concatenate([[0], widths.cumsum()[:-1]])
        for k, (word, left, width) in enumerate(zip(words, lefts, widths, strict=True)):
            ax.add_patch(Rectangle((left, 0), width - 0.3, 1, facecolor=plt.cm.Blues(0.9 * weight[k]), zorder=1))
            if k == place:
                ax.add_patch(Rectangle((left, 0), width - 0.3, 1, fill=False, edgecolor=COLORS[3], linewidth=2))
            middle = left + (width - 0.3) / 2
            ax.text(
                middle, 0.5, word, ha="center", va="center", fontsize=10, color="white" if weight[k] > 0.6 else "black"
            )
            ax.text(middle, -0.12, f"{weight[k]:.2f}", ha="center", va="top", fontsize=8, color="#444444")
        ax.set(xlim=(-0.2, max(70.0, widths.sum())), ylim=(-0.75, 1.9))
        ax.text(0, 1.15, name, ha="left", va="bottom", fontsize=9, style="italic")
        ax.axis("off")
    return figure


def sinusoids(positions: Float[ndarray, "place d"]) -> Figure:
    """The sinusoidal encoding as a picture, one row for each place, and four of its columns as waves."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.2), layout="constrained", width_ratios=(1, 1.1))
    picture = left.imshow(positions, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    left.set(xlabel="feature", ylabel="place in the sequence")
    figure.colorbar(picture, ax=left, label="value")
    for k, feature in enumerate(np.linspace(0, positions.shape[1] // 2, 4).astype(int) // 2 * 2):
        right.plot(positions[:, feature], DASHES[k], color=COLORS[k], label=f"feature {feature}")
    right.set(xlabel="place in the sequence", ylim=(-1.1, 1.6))
    right.legend(ncols=2, loc="upper center", fontsize=8, frameon=False)
    return figure


def shift_as_rotation(
    positions: Float[ndarray, "place d"], shifted: Float[ndarray, "place d"], pairs: Sequence[int]
) -> Figure:
    """Some pairs (sine, cosine) of an encoding as points of the plane; the shift turns each plane by its own angle.

    shifted: the same places after the shift. pairs: which pairs to draw.
    """
    figure, axes = plt.subplots(1, len(pairs), figsize=(2.4 * len(pairs), 3.0), layout="constrained", sharey=True)
    for ax, pair in zip(np.atleast_1d(axes), pairs, strict=True):
        before, after = positions[:, 2 * pair : 2 * pair + 2], shifted[:, 2 * pair : 2 * pair + 2]
        ax.add_patch(Circle((0, 0), 1, fill=False, edgecolor="#bbbbbb"))
        for start, end in zip(before, after, strict=True):
            ax.annotate(
                "",
                end[::-1],
                start[::-1],
                arrowprops={"arrowstyle": "->", "color": "#777777", "connectionstyle": "arc3,rad=0.35"},
            )
        ax.plot(before[:, 1], before[:, 0], "o", color=COLORS[0], label="before")
        ax.plot(after[:, 1], after[:, 0], "s", color=COLORS[1], label="after", markersize=5)
        ax.set(
            title=f"features {2 * pair} and {2 * pair + 1}",
            xlabel="cosine",
            xlim=(-1.2, 1.2),
            ylim=(-1.2, 1.2),
            aspect="equal",
        )
    np.atleast_1d(axes)[0].set_ylabel("sine")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def cross_attention(
    weights: Float[ndarray, "head target source"], source: Sequence[str], target: Sequence[str]
) -> Figure:
    """One map for each head: what the decoder looks at (columns) when it writes each token (rows)."""
    heads = len(weights)
    figure, axes = plt.subplots(1, heads, figsize=(1.4 + 1.75 * heads, 2.7), layout="constrained", sharey=True)
    for k, ax in enumerate(np.atleast_1d(axes)):
        picture = ax.imshow(weights[k], cmap="Blues", vmin=0, vmax=1)
        ax.set(title=f"head {k + 1}", xlabel="token read", xticks=range(len(source)), yticks=range(len(target)))
        ax.set_xticklabels(source, fontsize=8)
        ax.set_yticklabels(target, fontsize=8)
    np.atleast_1d(axes)[0].set_ylabel("token to be written")
    figure.colorbar(picture, ax=axes, label="weight", shrink=0.8)
    return figure


def losses(curve: Sequence[float], chance: float) -> Figure:
    """The training loss at every step (nats per token), on a logarithmic scale; chance: the loss of a blind guess."""
    figure, ax = plt.subplots(figsize=(5.2, 2.6), layout="constrained")
    ax.semilogy(np.arange(1, len(curve) + 1), curve, color=COLORS[0])
    ax.axhline(chance, color="#555555", linestyle="--", linewidth=1)
    ax.text(len(curve), chance * 1.15, "blind guess", ha="right", va="bottom", fontsize=8)
    ax.set(xlabel="step", ylabel="loss (nats per token)", ylim=(None, chance * 4))
    return figure


def patches_and_tokens(image: Float[ndarray, "height width"], patch_size: int) -> Figure:
    """An image cut into patches, and the patches as rows of numbers: what the linear embedding is given."""
    patches = rearrange(image, "(row a) (column b) -> (row column) (a b)", a=patch_size, b=patch_size)
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 3.3), layout="constrained", width_ratios=(1.6, 1))
    left.imshow(image, cmap="gray", extent=(0, image.shape[1], image.shape[0], 0))
    for line in range(0, image.shape[0] + 1, patch_size):
        left.axhline(line, color=COLORS[1], linewidth=1)
        left.axvline(line, color=COLORS[1], linewidth=1)
    side = image.shape[1] // patch_size
    for k in range(len(patches)):
        left.text(
            k % side * patch_size + 0.3, k // side * patch_size + 0.3, str(k + 1), color="#ffd08a", fontsize=7, va="top"
        )
    left.set(xlabel="column (pixels)", ylabel="row (pixels)")
    right.imshow(patches, cmap="gray", aspect="auto", extent=(0.5, patch_size**2 + 0.5, len(patches) + 0.5, 0.5))
    right.set(xlabel="pixel of the patch", ylabel="patch")
    return figure


def learning_curve(loss: Float[ndarray, " epoch"], accuracy: Float[ndarray, " epoch"], chosen_epoch: int) -> Figure:
    """Training loss (nats) and validation accuracy (fraction) after each epoch; the chosen epoch is marked."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.7), layout="constrained")
    epochs = np.arange(1, len(loss) + 1)
    left.plot(epochs, loss, color=COLORS[0])
    left.set(xlabel="epoch", ylabel="training loss (nats)", ylim=(0, None))
    right.plot(epochs, accuracy, color=COLORS[1])
    right.plot(chosen_epoch, accuracy[chosen_epoch - 1], "o", color="black", label=f"chosen: epoch {chosen_epoch}")
    right.set(xlabel="epoch", ylabel="validation accuracy", ylim=(None, 1))
    right.legend(loc="lower right", frameon=False)
    return figure


def confusion_matrix(counts: Int[ndarray, "label predicted"]) -> Figure:
    """How often each digit (row) was read as each other (column). The diagonal stays white: errors matter."""
    figure, ax = plt.subplots(figsize=(4.6, 3.9), layout="constrained")
    errors = np.ma.masked_where(np.eye(len(counts), dtype=bool), counts)
    picture = ax.imshow(errors, cmap="Blues", vmin=0, vmax=max(1, errors.max()))
    for row, column in np.ndindex(*counts.shape):
        dark = row != column and counts[row, column] > 0.6 * max(1, errors.max())
        ax.text(
            column,
            row,
            counts[row, column],
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "#999999" if counts[row, column] == 0 else "black",
        )
    ax.set(xlabel="predicted digit", ylabel="true digit", xticks=range(len(counts)), yticks=range(len(counts)))
    figure.colorbar(picture, ax=ax, label="images")
    return figure


def positional_similarity(position: Float[ndarray, "token d"], side: int) -> Figure:
    """For every patch, the cosine similarity of its learned position with that of every other patch."""
    unit = position / np.linalg.norm(position, axis=1, keepdims=True)
    maps = rearrange(unit @ unit.T, "(row column) (y x) -> row column y x", row=side, y=side)
    figure, axes = plt.subplots(side, side, figsize=(4.9, 4.5), layout="constrained", squeeze=False)
    for row, column in np.ndindex(side, side):
        ax = axes[row, column]
        picture = ax.imshow(maps[row, column], cmap="viridis", vmin=-1, vmax=1)
        ax.plot(column, row, "o", markerfacecolor="none", markeredgecolor="white", markersize=4)
        ax.set(xticks=[], yticks=[])
        if column == 0:
            ax.set_ylabel(row + 1, rotation=0, ha="right", va="center")
        if row == side - 1:
            ax.set_xlabel(column + 1)
    figure.supxlabel("column of the patch")
    figure.supylabel("row of the patch")
    figure.colorbar(picture, ax=axes, label="cosine similarity", shrink=0.8)
    return figure


def accuracy_by_angle(
    degrees: Float[ndarray, " angle"], accuracies: dict[str, Float[ndarray, " angle"]], count: int, chance: float = 0.1
) -> Figure:
    """Accuracy (fraction) against the rotation of the input (degrees), one line for each model.

    count: how many images each point rests on; the bands are ± 2 standard errors.
    """
    figure, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for k, (name, accuracy) in enumerate(accuracies.items()):
        error = 2 * np.sqrt(accuracy * (1 - accuracy) / count)
        ax.plot(degrees, accuracy, DASHES[k], marker=MARKERS[k], markersize=4, color=COLORS[k], label=name)
        ax.fill_between(degrees, accuracy - error, accuracy + error, color=COLORS[k], alpha=0.2, linewidth=0)
    ax.axhline(chance, color="#555555", linewidth=1, linestyle=":")
    ax.text(np.max(degrees), chance + 0.02, "chance", ha="right", fontsize=8)
    ax.set(
        xlabel="rotation of the input (degrees, counter-clockwise)",
        ylabel="accuracy",
        ylim=(0, 1.02),
        xticks=np.arange(np.min(degrees), np.max(degrees) + 1, 45),
    )
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0)
    return figure
