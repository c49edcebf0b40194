"""Pictures of representation space: the path of one image's features while the image turns once around."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from e2vit_book.inside.figures import COLORS


def paths(
    points: Mapping[str, Mapping[str, Float[ndarray, "angle two"]]],
    degrees: Sequence[float],
    reach: float,
) -> Figure:
    """Each layer's features along their first two principal components; the quarter turns are marked by numbers.

    points: model → layer → path. reach: half the width of all axes, so that a short path looks short.
    """
    degrees = np.asarray(degrees)
    if not len(degrees):
        raise ValueError("the list of angles is empty")
    columns = max(len(layers) for layers in points.values())
    figure, axes = plt.subplots(
        len(points), columns, figsize=(1.5 * columns + 0.5, 1.75 * len(points)), layout="constrained", squeeze=False
    )
    for row, (model, layers) in zip(axes, points.items(), strict=True):
        for ax in row[len(layers) :]:
            ax.axis("off")
        for ax, (layer, path) in zip(row, layers.items(), strict=False):
            closed = np.vstack([path, path[:1]])
            ax.plot(*closed.T, color="0.6", linewidth=0.8, zorder=1)
            ax.scatter(*path.T, c=degrees, cmap="twilight", vmin=0, vmax=360, s=9, zorder=2)
            for at, name in _quarters(path, degrees, reach):
                ax.plot(*at, "o", color="white", markeredgecolor="black", markersize=5, zorder=3)
                ax.annotate(name, at, (0, 4), textcoords="offset points", ha="center", fontsize=8, zorder=4)
            ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
            ax.set_title(layer, fontsize=10)
        row[0].set_ylabel(model, fontsize=10)
    return figure


def _quarters(path: ndarray, degrees: ndarray, reach: float) -> list[tuple[ndarray, str]]:
    """Where the quarter turns lie, and their names; those that fall on one another share one place."""
    found: list[tuple[ndarray, str]] = []
    for quarter in (0, 90, 180, 270):
        at = path[np.abs(degrees - quarter).argmin()]
        near = [k for k, (other, _) in enumerate(found) if np.abs(other - at).max() < 0.05 * reach]
        if near:
            found[near[0]] = (found[near[0]][0], f"{found[near[0]][1]}, {quarter}")
        else:
            found.append((at, str(quarter)))
    return found


def tuning_curves(curves: Float[ndarray, "angle unit pose"], degrees: Sequence[float], names: Sequence[str]) -> Figure:
    """How strongly some units answer, in each pose, against the angle of the input.

    Each pose is the same curve, shifted by the step between poses, exactly at multiples of 90 degrees.
    """
    units, poses = curves.shape[1:]
    figure, axes = plt.subplots(1, units, figsize=(1.9 * units + 0.7, 2.7), layout="constrained", squeeze=False)
    styles = ("-", "--", "-.", ":")
    for unit, ax in enumerate(axes[0]):
        for pose in range(poses):
            ax.plot(
                degrees, curves[:, unit, pose], styles[pose % 4], color=COLORS[pose % len(COLORS)], label=f"pose {pose}"
            )
        ax.set(xlabel="turn of the input (degrees)", xticks=range(0, 361, 90))
        ax.set_title(names[unit], fontsize=10)
    axes[0, 0].set_ylabel("answer (mean over positions)")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=min(poses, 6),
        frameon=False,
        fontsize=9,
    )
    return figure


def ring(activity: Float[ndarray, " pose"], image: Float[ndarray, "height width"], top: float, title: str) -> Figure:
    """The poses of one unit as a ring around its input: each stands at its own angle, its size is its answer.

    top: the answer that is drawn largest, the same for all pictures of a series.
    """
    figure = plt.figure(figsize=(3.1, 3.1))
    ax = figure.add_axes((0.02, 0.02, 0.96, 0.9), projection="polar")
    poses = len(activity)
    angles = np.arange(poses) * 2 * np.pi / poses + np.pi / 2  # pose 0 is up, then counter-clockwise
    share = np.clip(activity / max(top, 1e-30), 0, 1)
    ax.bar(angles, share, width=0.8 * 2 * np.pi / max(poses, 4), bottom=0.9, color=COLORS[0], alpha=0.9)
    for pose, angle in enumerate(angles):
        ax.text(angle, 2.02, str(pose), ha="center", va="center", fontsize=10)
    ax.set(ylim=(0, 2.1), xticks=[], yticks=[])
    ax.spines["polar"].set_visible(False)
    inset = figure.add_axes((0.37, 0.34, 0.26, 0.26))
    inset.imshow(image, cmap="gray", vmin=0, vmax=1)
    inset.axis("off")
    figure.suptitle(title, fontsize=10)
    return figure
