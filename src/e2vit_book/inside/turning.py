"""The opening figure: a digit turns through a full circle, and beside it what several models say."""

import html
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from e2vit_book.player import controls, snippet, sprite_uri
from e2vit_book.style import WIDTH, styled

RIGHT, WRONG = "#0072B2", "#E69F00"  # dark and light, so that they differ in gray too

FILES = Path(__file__).parent  # turning.css and turning.js lie beside this file


def turning_html(
    frames: Float[ndarray, "digit angle row column"],
    degrees: Sequence[float],
    labels: Sequence[int],
    models: Mapping[str, Float[ndarray, "digit angle class_"]],
    *,
    start: int = 0,
    autoplay: bool = False,
) -> str:
    """A digit to turn with a slider, and the class probabilities of each model, as a self-contained HTML snippet.

    frames: gray images in [0, 1]. labels: the true class of each digit. models: name → probabilities.
    start: the step that is shown first. autoplay: turn once around, unless the reader's system asks for less motion.
    """
    _check(frames, degrees, labels, models)
    sprites = [sprite_uri(images) for images in frames]
    data = {
        "degrees": [round(float(angle), 1) for angle in degrees],
        "labels": [int(c) for c in labels],
        "sprites": sprites,
        "names": list(models),
        "p": [(p * 1000).round().astype(int).tolist() for p in models.values()],  # thousandths
    }
    choice = "".join(
        f'<button type="button" data-digit="{d}" aria-pressed="{"true" if d == 0 else "false"}">a {label}</button>'
        for d, label in enumerate(labels)
    )
    picture = f"background-image:url({sprites[0]});background-size:{168 * len(degrees)}px 168px"
    body = (
        f'<div class="e2-turn"><div><div class="e2-digit" role="img" style="{picture}"></div>'
        f'<div class="e2-choice" role="group" aria-label="which digit">{choice}</div></div><div class="e2-models">'
        + "".join(_panel(name, p, labels) for name, p in models.items())
        + f"</div></div>{controls(len(degrees), 'turn of the digit, degrees', f'{degrees[start]:g}°', start)}"
        '<p class="e2-text" aria-live="polite"></p>'
    )
    label = f"A digit turns through a full circle; beside it the class probabilities of {', '.join(models)}"
    css, script = ((FILES / f"turning.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return snippet(body, script, data, label, css, autoplay)


@styled
def turning_figure(
    frames: Float[ndarray, "angle row column"],
    degrees: Sequence[float],
    label: int,
    models: Mapping[str, Float[ndarray, "angle class_"]],
    pictures: int = 13,
) -> Figure:
    """The opening figure for print: the digit along the top, below it each model's answer against the angle.

    The height of an area is the probability of the class that the model names; its color says whether that is right.
    """
    _check(frames[None], degrees, [label], {name: p[None] for name, p in models.items()})
    figure, axes = plt.subplots(
        len(models) + 1,
        1,
        figsize=(WIDTH, 1.0 + 0.8 * len(models)),
        layout="constrained",
        sharex=True,
        height_ratios=[0.62] + [1] * len(models),
    )
    step = degrees[1] - degrees[0] if len(degrees) > 1 else 360.0
    width = 360 / (pictures - 1)
    for center in np.arange(pictures) * width:
        nearest = int(np.abs(np.asarray(degrees) - center % 360).argmin())
        size = 0.46 * width
        axes[0].imshow(
            frames[nearest], cmap="gray", vmin=0, vmax=1, aspect="auto", extent=(center - size, center + size, 0, 1)
        )
    axes[0].set(ylim=(0, 1), xlim=(-0.5 * width, 360 + 0.5 * width))
    axes[0].axis("off")
    for ax, (name, p) in zip(axes[1:], models.items(), strict=True):
        best = p.argmax(-1)
        top = p.max(-1)
        for right, color in ((True, RIGHT), (False, WRONG)):
            chosen = (best == label) == right
            ax.bar(np.asarray(degrees)[chosen], top[chosen], width=step, color=color, linewidth=0)
        for first, last, c in _runs(best):
            if last - first >= 3 * 5 / max(step, 1e-9) - 1:
                ax.text(
                    (degrees[first] + degrees[last]) / 2,
                    0.12,
                    str(c),
                    ha="center",
                    va="bottom",
                    color="white" if c == label else "black",
                    fontweight="bold",
                )
        ax.set(ylim=(0, 1), yticks=(0, 1), ylabel=name)
        ax.yaxis.label.set(rotation=0, ha="right", va="center")
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1].set(xlabel="turn of the digit (degrees)", xticks=range(0, 361, 45))
    return figure


def _check(frames, degrees, labels, models) -> None:
    if not len(degrees):
        raise ValueError("the list of angles is empty")
    if not models:
        raise ValueError("there is no model to look at")
    expected = (len(labels), len(degrees))
    for name, array in {"frames": frames, **models}.items():
        if array.shape[:2] != expected:
            raise ValueError(f"{name}: {array.shape[:2]} digits and angles, where there are {expected}")


def _panel(name: str, p: Float[ndarray, "digit angle class_"], labels: Sequence[int]) -> str:
    """One model: its name, what it says, a bar for each class, and a band over the circle for each digit."""
    first = p[0, 0]
    bars = "".join(
        f'<i{" class=e2-true" if c == labels[0] else ""} style="height:{100 * v:.1f}%"></i>'
        for c, v in enumerate(first)
    )
    ticks = "".join(f"<span>{c}</span>" for c in range(len(first)))
    bands = "".join(_band(p[d], label, d) for d, label in enumerate(labels))
    return (
        f'<div><b>{html.escape(name)}</b><span class="e2-says">says {first.argmax()} ({100 * first.max():.0f} %)'
        f'</span><div class="e2-bars" aria-hidden="true">{bars}</div>'
        f'<div class="e2-ticks" aria-hidden="true">{ticks}</div>{bands}</div>'
    )


def _runs(classes: ndarray) -> list[tuple[int, int, int]]:
    """(first, last, class) of each stretch of equal classes."""
    runs = []
    for value, group in groupby(enumerate(classes), key=lambda pair: int(pair[1])):
        steps = [k for k, _ in group]
        runs.append((steps[0], steps[-1], value))
    return runs


def _band(p: Float[ndarray, "angle class_"], label: int, d: int) -> str:
    """All answers over the circle, with the class written into each long stretch."""
    count = len(p)
    areas, words = [], []
    for first, last, c in _runs(p.argmax(-1)):
        color = RIGHT if c == label else WRONG
        areas.append(f'<rect x="{first}" width="{last - first + 1}" height="22" fill="{color}"/>')
        if last - first >= count / 24:
            words.append(
                f'<text x="{100 * (first + last + 1) / 2 / count:.2f}%" y="16" text-anchor="middle" '
                f'font-size="14" fill="{"#fff" if c == label else "#000"}">{c}</text>'
            )
    return (
        f'<svg class="e2-band" data-of="{d}" style="display:{"block" if d == 0 else "none"}" aria-hidden="true">'
        f'<svg viewBox="0 0 {count} 22" preserveAspectRatio="none" width="100%" height="22">{"".join(areas)}'
        '<rect class="e2-cursor" x="0" width="1" height="22" fill="#000" stroke="#fff" stroke-width=".3"/></svg>'
        f"{''.join(words)}</svg>"
    )
