"""Sphinx extension: a section whose title begins with "Deeper:" is folded away, with the minutes it takes to read.

A notebook shows such a section as any other. Paper shows it open: the PDF, and a page that is printed.
"""

import math

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

MARK = "Deeper:"
WORDS_PER_MINUTE = 230


class FoldDepth(SphinxPostTransform):
    """Wraps what stands below the title into HTML's own element for folds, so that search and links still open it."""

    default_priority = 950
    formats = ("html",)

    def run(self, **options):
        unfolded = " open" if self.app.builder.name == "singlehtml" else ""
        for section in list(self.document.findall(nodes.section)):
            title = section.next_node(nodes.title)
            if title is not None and title.parent is section and title.astext().startswith(MARK):
                below = section.children[section.index(title) + 1 :]
                opening = f'<details class="deeper"{unfolded}><summary>Read this section: {_time(below)}</summary>'
                section[section.index(title) + 1 :] = [
                    nodes.raw("", opening, format="html"),
                    *below,
                    nodes.raw("", "</details>", format="html"),
                ]


def _time(below: list[nodes.Node]) -> str:
    """The time it takes to read the paragraphs; code and figures come on top."""
    words = sum(len(text.astext().split()) for node in below for text in node.findall(nodes.paragraph))
    minutes = math.ceil(words / WORDS_PER_MINUTE)
    return "1 minute" if minutes <= 1 else f"{minutes} minutes"


def setup(app):
    app.add_post_transform(FoldDepth)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
