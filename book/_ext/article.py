"""Sphinx extension for the article: figures and numbers come from the executed chapters and the records.

``{chapter-figure} notebooks/NAME figure-name``: the output of the cell whose metadata name that figure, with the
caption in the directive's content. ``{drawing} name``: a drawn SVG file, captioned likewise.
``{accuracy}`experiment```: the test accuracy of an experiment's records.
"""

import base64
import hashlib
import json
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective, SphinxRole

from e2vit.experiments import records

FORMS = ("text/html", "image/svg+xml", "image/png")


class ChapterFigure(SphinxDirective):
    """A figure that a chapter drew, with a caption of its own."""

    required_arguments = 2
    has_content = True

    def run(self) -> list[nodes.Node]:
        chapter, name = self.arguments
        path = Path(self.env.srcdir) / f"{chapter}.ipynb"
        self.env.note_dependency(str(path))
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            figure = cell["metadata"].get("mystnb", {})
            if figure.get("figure", {}).get("name") == name:
                return [self._figure(cell, figure.get("image", {}).get("alt", ""))]
        raise self.error(f"no cell of {chapter} draws a figure that is called {name}")

    def _figure(self, cell: dict, alt: str) -> nodes.figure:
        data = {form: text for output in cell["outputs"] for form, text in output.get("data", {}).items()}
        form = next((form for form in FORMS if form in data), None)
        if form is None:
            raise self.error("the cell of that figure has no picture; execute the chapter")
        content = "".join(data[form])
        if form == "text/html":
            picture = nodes.raw("", content, format="html")
        else:
            picture = nodes.image(uri=self._kept(content, form), alt=alt)
        return captioned(self, nodes.figure("", picture))

    def _kept(self, content: str, form: str) -> str:
        """The picture as a file below the source folder, where Sphinx can take it from."""
        data = base64.b64decode(content) if form == "image/png" else content.encode()
        ending = "png" if form == "image/png" else "svg"
        folder = Path(self.env.srcdir) / "_build" / "chapter_figures"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.{ending}"
        file.write_bytes(data)
        return f"/{file.relative_to(self.env.srcdir).as_posix()}"


class Drawing(SphinxDirective):
    """A drawing of book/_static, inline, so that its lines take the color of the text; its caption is the content."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.srcdir) / "book" / "_static" / f"{self.arguments[0]}.svg"
        self.env.note_dependency(str(path))
        figure = nodes.figure("", nodes.raw("", path.read_text(encoding="utf-8"), format="html"))
        return [captioned(self, figure)]


def captioned(directive: SphinxDirective, figure: nodes.figure) -> nodes.figure:
    """The figure with the directive's content as its caption."""
    text, _ = directive.state.inline_text(" ".join(directive.content), directive.lineno)
    figure += nodes.caption("", "", *text)
    directive.set_source_info(figure)
    return figure


class Accuracy(SphinxRole):
    """The mean test accuracy of an experiment's seeds with its 95 % interval."""

    def run(self) -> tuple[list[nodes.Node], list]:
        found = records.find(self.text, name=self.text)
        if not found:
            message = self.inliner.reporter.error(f"no record of {self.text}", line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]
        for record in found:
            self.env.note_dependency(str(records.results_folder() / self.text / f"seed{record['seed']}.json"))
        return [nodes.Text(str(records.summarize(found)))], []


def setup(app) -> dict:
    app.add_directive("chapter-figure", ChapterFigure)
    app.add_directive("drawing", Drawing)
    app.add_role("accuracy", Accuracy())
    return {"version": "1", "parallel_read_safe": True}
