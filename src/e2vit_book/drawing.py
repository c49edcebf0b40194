"""Drawings of architectures: SVG files of book/_static, set into the page so that they take its colors."""

from html import escape
from pathlib import Path

from IPython.display import HTML

FOLDER = Path(__file__).resolve().parents[2] / "book" / "_static"


def drawing(name: str, caption: str) -> HTML:
    """Show the drawing ``name``.svg with a caption below it; its title and description are in the file."""
    svg = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    return HTML(f'<figure style="max-width:40rem">{svg}<figcaption>{escape(caption)}</figcaption></figure>')
