"""Interactive figures as self-contained HTML: a slider and a play button over prerendered frames.

A snippet needs no library, no network and no kernel. The slider is the browser's own, so keys and touch work; each
frame also has a text. It starts by itself only with ``autoplay``, and not for readers who ask their system for less
motion. The same input gives the same bytes.
"""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image

FILES = Path(__file__).parent  # player.css, player.js and slideshow.js lie beside this file


def png_uri(pixels: UInt8[ndarray, "row column"] | UInt8[ndarray, "row column color"]) -> str:
    """Encode a small picture as a data address, without loss."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png", optimize=True)
    return _uri(file)


def figure_uri(figure: Figure, dpi: float = 110) -> str:
    """Encode a figure as a data address and close it, because a notebook would show it once more."""
    file = BytesIO(_compact_png(figure, dpi=dpi))
    plt.close(figure)
    return _uri(file)


def compact_figures() -> None:
    """Store the figures of a notebook with a palette, a third of the bytes. Outside of a notebook, do nothing."""
    if shell := get_ipython():
        plt.close(plt.figure())  # sets up the notebook's own formatter first, which would otherwise replace this one
        shell.display_formatter.formatters["image/png"].for_type(
            Figure, lambda figure: _compact_png(figure, dpi="figure", bbox_inches="tight")
        )


def _compact_png(figure: Figure, **how: Any) -> bytes:
    """Encode a figure with 256 colors; the difference is not visible."""
    file, small = BytesIO(), BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None}, facecolor="white", **how)
    Image.open(file).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(small, "png", optimize=True)
    return small.getvalue()


def sprite_uri(images: Float[ndarray, "n row column"]) -> str:
    """Put gray images in [0, 1] side by side in one picture, as a data address."""
    return png_uri(np.hstack(list((np.clip(images, 0, 1) * 255).round().astype(np.uint8))))


def snippet(
    body: str, script: str, data: dict, label: str, style: str = "", autoplay: bool = False, delay: int = 140
) -> str:
    """HTML around a body, and a script that finds ``root`` and ``data`` and defines show(step, playing).

    label: what the whole shows, for a screen reader. delay: milliseconds from one frame to the next.
    """
    given = to_json(data | {"delay": delay, "autoplay": autoplay})
    name = "e2-" + hashlib.sha256((body + given).encode()).hexdigest()[:10]
    css, wiring = ((FILES / file).read_text(encoding="utf-8") for file in ("player.css", "player.js"))
    return (
        f'<div class="e2-player" id="{name}" role="group" aria-label="{html.escape(label)}">'
        f"<style>{css}{style}</style>{body}"
        f"<script>(function(root,data){{{script}{wiring}}})(document.getElementById('{name}'),{given});</script></div>"
    )


def controls(steps: int, label: str, first: str, start: int = 0) -> str:
    """The play button, the slider from 0 to steps − 1, which begins at ``start``, and the label of the step."""
    return (
        '<div class="e2-controls"><button type="button" class="e2-play">play</button>'
        f'<input type="range" min="0" max="{steps - 1}" value="{start}" aria-label="{html.escape(label)}">'
        f"<output>{html.escape(first)}</output></div>"
    )


def slideshow(
    pictures: Sequence[str], steps: Sequence[str], texts: Sequence[str], label: str, *, delay: int = 900
) -> str:
    """A slider over prerendered pictures.

    pictures: data addresses. steps: labels beside the slider. texts: a description of each picture.
    """
    if not len(pictures):
        raise ValueError("a slideshow needs at least one picture")
    if not len(pictures) == len(steps) == len(texts):
        raise ValueError(f"{len(pictures)} pictures, {len(steps)} steps and {len(texts)} texts do not belong together")
    body = (
        f'<img src="{pictures[0]}" alt="{html.escape(texts[0])}">{controls(len(pictures), label, steps[0])}'
        f'<p class="e2-text" aria-live="polite">{html.escape(texts[0])}</p>'
    )
    data = {"pictures": list(pictures), "steps": list(steps), "texts": list(texts)}
    return snippet(body, (FILES / "slideshow.js").read_text(encoding="utf-8"), data, label, delay=delay)


def to_json(value: object) -> str:
    """JSON that is safe inside a script element."""
    return json.dumps(value, ensure_ascii=False).replace("</", "<\\/")


def _uri(file: BytesIO) -> str:
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
