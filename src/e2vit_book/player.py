"""Pictures to drag, as self-contained HTML: a slider, a play button and frames that were drawn beforehand.

A snippet needs no library, no network and no kernel. The slider is the browser's own, so keys and touch work; what a
frame shows is also said in words. It never moves by itself for readers who ask their system for less motion, and never
starts unasked unless ``autoplay`` is set. The same input gives the same bytes.
"""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image

STYLE = """
.e2-player{font:14px/1.4 system-ui,sans-serif;max-width:46rem;margin:1em auto;color:inherit}
.e2-player .e2-controls{display:flex;align-items:center;gap:.6em;margin:.5em 0}
.e2-player button{font:inherit;color:inherit;background:transparent;border:1px solid currentColor;border-radius:.4em;
 padding:.3em .7em;min-height:2.2em;cursor:pointer}
.e2-player button[aria-pressed=true]{background:#0072B2;color:#fff;border-color:#0072B2}
.e2-player input[type=range]{flex:1;min-width:6em;height:2em;accent-color:#0072B2}
.e2-player output{min-width:3.2em;text-align:right;font-variant-numeric:tabular-nums}
.e2-player :focus-visible{outline:3px solid #E69F00;outline-offset:2px}
.e2-player p{margin:.4em 0}
.e2-player img{max-width:100%;height:auto}
"""

# Wires the slider and the button of one snippet to its function show(step, playing).
CONTROLS = """
const range=root.querySelector('input[type=range]'),play=root.querySelector('.e2-play');
const still=matchMedia('(prefers-reduced-motion: reduce)');let timer=null;
const stop=()=>{clearInterval(timer);timer=null;play.textContent='\\u25b6 play';show(+range.value,false)};
const start=()=>{play.textContent='\\u23f8 pause';timer=setInterval(()=>{
if(!root.isConnected)return clearInterval(timer);
range.value=(+range.value+1)%(+range.max+1);show(+range.value,true)},DELAY)};
range.addEventListener('input',()=>{if(timer)stop();show(+range.value,false)});
play.addEventListener('click',()=>timer?stop():start());
show(+range.value,false);if(AUTOPLAY&&!still.matches)start();
"""


def png_uri(pixels: UInt8[ndarray, "row column"] | UInt8[ndarray, "row column color"]) -> str:
    """A small picture as a data address, without loss."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png", optimize=True)
    return _uri(file)


def figure_uri(figure: Figure, dpi: float = 80) -> str:
    """A figure as a data address; it is closed, since a notebook would show it once more."""
    file = BytesIO(_compact_png(figure, dpi=dpi))
    plt.close(figure)
    return _uri(file)


def compact_figures() -> None:
    """From here on a notebook's figures come with a palette: a third of the bytes. Elsewhere it does nothing."""
    if shell := get_ipython():
        plt.close(plt.figure())  # the notebook's own way of showing figures is set up now, not later over this one
        shell.display_formatter.formatters["image/png"].for_type(
            Figure, lambda figure: _compact_png(figure, dpi="figure", bbox_inches="tight")
        )


def _compact_png(figure: Figure, **how: object) -> bytes:
    """A figure as a picture with 128 colors, chosen so that none is far from its own; the difference can't be seen."""
    file, small = BytesIO(), BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None}, facecolor="white", **how)
    Image.open(file).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE).save(small, "png", optimize=True)
    return small.getvalue()


def sprite_uri(images: Float[ndarray, "n row column"]) -> str:
    """Gray images in [0, 1] side by side in one picture."""
    return png_uri(np.hstack(list((np.clip(images, 0, 1) * 255).round().astype(np.uint8))))


def snippet(body: str, script: str, label: str, style: str = "", autoplay: bool = False, delay: int = 140) -> str:
    """HTML around a body, whose script defines show(step, playing) on ``root``; then the controls are wired.

    label: what the whole shows, for a screen reader. delay: milliseconds from one frame to the next.
    """
    name = "e2-" + hashlib.sha256((body + script).encode()).hexdigest()[:10]
    wiring = CONTROLS.replace("DELAY", str(delay)).replace("AUTOPLAY", "true" if autoplay else "false")
    return (
        f'<div class="e2-player" id="{name}" role="group" aria-label="{html.escape(label)}">'
        f"<style>{STYLE}{style}</style>{body}"
        f"<script>(function(root){{{script}{wiring}}})(document.getElementById('{name}'));</script></div>"
    )


def controls(steps: int, label: str, first: str) -> str:
    """The play button, the slider from 0 to steps − 1 and the place where the step is written."""
    return (
        '<div class="e2-controls"><button type="button" class="e2-play">\u25b6 play</button>'
        f'<input type="range" min="0" max="{steps - 1}" value="0" aria-label="{html.escape(label)}">'
        f"<output>{html.escape(first)}</output></div>"
    )


def slideshow(
    pictures: Sequence[str], steps: Sequence[str], texts: Sequence[str], label: str, *, delay: int = 900
) -> str:
    """Ready-drawn pictures, one for each step of a slider.

    pictures: data addresses. steps: what stands beside the slider. texts: each picture in words.
    """
    if not len(pictures):
        raise ValueError("a slideshow needs at least one picture")
    if not len(pictures) == len(steps) == len(texts):
        raise ValueError(f"{len(pictures)} pictures, {len(steps)} steps and {len(texts)} texts do not belong together")
    body = (
        f'<img src="{pictures[0]}" alt="{html.escape(texts[0])}">{controls(len(pictures), label, steps[0])}'
        f'<p class="e2-text" aria-live="polite">{html.escape(texts[0])}</p>'
    )
    script = f"""
const pictures={to_json(list(pictures))},steps={to_json(steps)},texts={to_json(texts)};
const img=root.querySelector('img'),out=root.querySelector('output'),text=root.querySelector('.e2-text');
function show(t,playing){{img.src=pictures[t];img.alt=texts[t];out.textContent=steps[t];
text.setAttribute('aria-live',playing?'off':'polite');text.textContent=texts[t];
root.querySelector('input[type=range]').setAttribute('aria-valuetext',steps[t])}}"""
    return snippet(body, script, label, delay=delay)


def to_json(value: object) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value, ensure_ascii=False).replace("</", "<\\/")


def _uri(file: BytesIO) -> str:
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
