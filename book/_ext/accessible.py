"""Sphinx extension: what readers who listen to a page need.

A drawn figure carries its caption as the text that stands in its place. The bibliography is no list of list items to
them, since docutils gives each entry a role of its own. A wide table scrolls, so the keyboard must reach it.
"""

import re

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

PICTURE = re.compile(r"\.(png|svg|jpe?g|gif)$")


class DescribeFigures(SphinxPostTransform):
    """Runs when the outputs of a cell have become images."""

    default_priority = 900

    def run(self, **options):
        for image in self.document.findall(nodes.image):
            if not image.get("alt") or PICTURE.search(image["alt"]):
                image["alt"] = _description(image)


def _description(image: nodes.image) -> str:
    """The caption of the figure around the image, else the heading above it."""
    above = image.parent
    while above is not None:
        if isinstance(above, nodes.figure):
            return next((caption.astext() for caption in above.findall(nodes.caption)), "")
        if isinstance(above, nodes.section):
            return f"Drawing for the section “{next(above.findall(nodes.title)).astext()}”"
        above = above.parent
    return ""


REPLACED = {
    'role="list" class="citation-list"': 'class="citation-list"',
    'class="dataframe"': 'class="dataframe" tabindex="0"',
    '<table class="table">': '<table class="table" tabindex="0">',
}


def mend_body(app, pagename, templatename, context, doctree):
    for old, new in REPLACED.items():
        if "body" in context:
            context["body"] = context["body"].replace(old, new)


def setup(app):
    app.connect("html-page-context", mend_body)
    app.add_post_transform(DescribeFigures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
