"""Pictures of predictions against the angle: polar plots, errors on a log scale, and which view decides."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from numpy import ndarray

from e2vit_book.inside.figures import COLORS, MARKERS, _bare


def polar_probabilities(probability: Mapping[str, Float[ndarray, "image angle"]], degrees: Sequence[float]) -> Figure:
    """The probability of the true class against the angle of the input, as the distance from the center.

    Thin lines are single images, the thick line is their mean. A circle at the rim: always right and always sure.
    """
    if not len(degrees):
        raise ValueError("the list of angles is empty")
    figure, axes = _polar_axes(len(probability))
    radians = np.deg2rad(np.append(degrees, degrees[0] + 360))
    for k, (ax, (name, p)) in enumerate(zip(axes, probability.items(), strict=True)):
        closed = np.hstack([p, p[:, :1]])
        ax.plot(radians, closed.T, color="0.65", linewidth=0.5, alpha=0.7)
        ax.plot(radians, closed.mean(0), color=COLORS[k % len(COLORS)], linewidth=2.5)
        ax.set(ylim=(0, 1), yticks=(0.5, 1), yticklabels=("0.5", "1"), theta_zero_location="N")
        ax.set_xticks(np.deg2rad([0, 90, 180, 270]), ["0°", "90°", "180°", "270°"], fontsize=9)
        ax.tick_params(axis="y", labelsize=8)
        ax.set_title(f"{name}\nmean {p.mean():.2f}", fontsize=10)
    return figure


def polar_logits(logits: Mapping[str, Float[ndarray, "angle class_"]], degrees: Sequence[float], label: int) -> Figure:
    """All logits of one image against its angle; the true class is thick. Each model has its own scale."""
    if not len(degrees):
        raise ValueError("the list of angles is empty")
    figure, axes = _polar_axes(len(logits))
    radians = np.deg2rad(np.append(degrees, degrees[0] + 360))
    for ax, (name, values) in zip(axes, logits.items(), strict=True):
        closed = np.vstack([values, values[:1]])
        others = np.arange(values.shape[-1]) != label
        ax.plot(radians, closed[:, others], color="#E69F00", linewidth=0.8)
        ax.plot(radians, closed[:, label], color="#0072B2", linewidth=2.5)
        low, high = closed.min(), closed.max()
        ax.set(ylim=(low - 0.25 * (high - low), high), yticks=(), theta_zero_location="N")
        ax.set_xticks(np.deg2rad([0, 90, 180, 270]), ["0°", "90°", "180°", "270°"], fontsize=9)
        ax.set_title(name, fontsize=10)
    return figure


def _polar_axes(count: int) -> tuple[Figure, list]:
    """Polar axes in rows of three."""
    rows, columns = -(-count // 3), min(count, 3)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.15 * columns, 2.6 * rows),
        layout="constrained",
        subplot_kw={"projection": "polar"},
        squeeze=False,
    )
    for ax in axes.flat[count:]:
        ax.axis("off")
    return figure, list(axes.flat[:count])


def errors_by_angle(errors: Mapping[str, Mapping[str, Float[ndarray, " angle"]]], degrees: Sequence[float]) -> Figure:
    """The equivariance error of each layer against the angle, on a log scale, one panel for each model.

    errors: model → layer → dimensionless error; what is below 1e-8 is drawn there.
    """
    if not len(degrees):
        raise ValueError("the list of angles is empty")
    figure, axes = plt.subplots(
        len(errors), 1, figsize=(6.2, 1.9 * len(errors) + 0.4), layout="constrained", sharex=True, squeeze=False
    )
    for ax, (name, layers) in zip(axes[:, 0], errors.items(), strict=True):
        for k, (layer, values) in enumerate(layers.items()):
            ax.plot(
                degrees,
                np.maximum(values, 1e-8),
                ("-", "--", "-.", ":")[k % 4] + MARKERS[k % 6],
                markersize=3,
                color=COLORS[k % 6],
                linewidth=1.1,
                label=layer,
            )
        ax.set(
            yscale="log",
            ylim=(3e-9, 8),
            yticks=(1e-8, 1e-6, 1e-4, 1e-2, 1),
            xticks=np.arange(0, max(degrees) + 1, 45 if max(degrees) <= 180 else 90),
        )
        ax.set_title(name, fontsize=10)
        ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    axes[-1, 0].set_xlabel("turn of the input (degrees)")
    figure.supylabel("‖f(turned x) − turned f(x)‖ / ‖f(x)‖", fontsize=10)
    return figure


def views(
    images: Float[ndarray, "view height width"],
    probability: Float[ndarray, "view class_"],
    attention: Float[ndarray, "head view"] | None = None,
) -> Figure:
    """The views of one image: what the model says of each and how surely; the surest one, framed, decides.

    attention: of a class token over the views, if there is one: one line of bars for each head.
    """
    count = len(images)
    rows = 2 + (attention is not None)
    figure, axes = plt.subplots(
        rows,
        count,
        figsize=(0.72 * count + 0.6, 0.95 * rows + 0.1),
        layout="constrained",
        squeeze=False,
        sharey="row",
        height_ratios=[0.85] + [1] * (rows - 1),
    )
    top = probability.max(-1)
    for k in range(count):
        axes[0, k].imshow(images[k], cmap="gray", vmin=0, vmax=1)
        axes[0, k].set_title(f"says {probability[k].argmax()}", fontsize=10)
        decides = k == top.argmax()
        for spine in axes[0, k].spines.values():
            spine.set(edgecolor="#D55E00" if decides else "none", linewidth=3)
        axes[1, k].bar([0], top[k], color=COLORS[0] if decides else "0.6")
        axes[1, k].set(xlim=(-1, 1), ylim=(0, 1.25))
        axes[1, k].text(0, top[k] + 0.03, f"{top[k]:.2f}", ha="center", fontsize=8)
        if attention is not None:
            heads = np.arange(len(attention))
            axes[2, k].bar(heads, attention[:, k], color=[COLORS[h % 6] for h in heads])
            axes[2, k].set(ylim=(0, 1))
            axes[2, k].axhline(1 / count, color="0.4", linewidth=0.8, linestyle="--")
    axes[0, 0].set_ylabel("view", fontsize=10)
    axes[1, 0].set_ylabel("sureness", fontsize=10)
    if attention is not None:
        axes[2, 0].set_ylabel("attention\nby head", fontsize=10)
    _bare(axes[:1])
    for ax in axes[1:].flat:
        ax.set(xticks=[])
    return figure


def deciding_view(
    sureness: Float[ndarray, "angle view"],
    degrees: Sequence[float],
    decides: Int[ndarray, " angle"],
    names: Sequence[str],
) -> Figure:
    """How sure the model is of each view while the image turns; a dot marks the view that decides."""
    if not len(degrees):
        raise ValueError("the list of angles is empty")
    figure, ax = plt.subplots(figsize=(6.2, 0.3 * len(names) + 1.2), layout="constrained")
    step = degrees[1] - degrees[0] if len(degrees) > 1 else 1.0
    extent = (degrees[0] - step / 2, degrees[-1] + step / 2, len(names) - 0.5, -0.5)
    drawn = ax.imshow(sureness.T, cmap="cividis", vmin=0, vmax=1, aspect="auto", extent=extent)
    ax.plot(degrees, decides, "o", color="#D55E00", markersize=4, markeredgecolor="white")
    ax.set(
        xlabel="turn of the input (degrees)",
        ylabel="view",
        yticks=range(len(names)),
        yticklabels=names,
        xticks=range(0, int(extent[1]) + 1, 45),
    )
    figure.colorbar(drawn, ax=ax, label="largest probability")
    return figure
