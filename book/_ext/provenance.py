"""Sphinx extension: what every page says about where its numbers come from.

The build stops when a notebook is not executed as it stands. A notebook's page names the images it was executed with.
``{execution-table}`` shows when, where and in how many seconds each notebook was executed. The repository's address is
that of the git remote when there is one.
"""

import json
import sys
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import execute  # noqa: E402


def stop_when_stale(app):
    if reasons := execute.stale(Path(app.srcdir)):
        lines = [f"notebooks/{name}: {reason}" for name, reason in reasons.items()]
        raise SystemExit("\n".join([*lines, f"the book is not built; {execute.MEND}"]))  # its words, without a trace


def set_address(app, config):
    config.html_theme_options["repository_url"] = execute.address(Path(app.srcdir))


def name_the_images(app, doctree):
    """After the title of a notebook's page: which images it was executed with, loudly when they are a stand-in."""
    path = Path(app.srcdir) / f"{app.env.docname}.ipynb"
    if not path.exists():
        return
    data = json.loads(path.read_text(encoding="utf-8"))["metadata"]["e2vit"]["data"]
    title = next(iter(doctree.findall(nodes.title)), None)
    if title is None or not data:
        return
    said = ", ".join(f"{name} ({origin})" for name, origin in data.items())
    stand_in = any("embedded" in origin and name != "digits" for name, origin in data.items())
    if stand_in:
        note = nodes.warning(
            "",
            nodes.paragraph(
                "",
                "",
                nodes.Text(
                    f"The images on this page stand in for the real ones, which were not at hand ({said})."
                    " Numbers read from records are not touched by this."
                ),
            ),
        )
    else:
        note = nodes.paragraph("", "", nodes.Text(f"Images: {said}."), classes=["data-origin"])
    title.parent.insert(title.parent.index(title) + 1, note)


class ExecutionTable(SphinxDirective):
    """A table from notebooks/execution.json."""

    def run(self):
        path = Path(self.env.srcdir) / "notebooks" / "execution.json"
        self.env.note_dependency(str(path))
        log = json.loads(path.read_text(encoding="utf-8"))
        lines = [
            "| notebook | executed | seconds | device | Python | torch | images |",
            "|---|---|--:|---|---|---|---|",
        ]
        for name, entry in log.items():
            images = ", ".join(f"{data} ({origin})" for data, origin in entry["data"].items()) or "none"
            cells = [
                f"[{name}](/notebooks/{name}.ipynb)",
                entry["date"],
                f"{entry['seconds']:.0f}",
                entry["device"],
                entry["versions"]["python"],
                entry["versions"]["torch"],
                images,
            ]
            lines.append(f"| {' | '.join(cells)} |")
        parent = nodes.Element()
        self.state.nested_parse(StringList(lines, str(path)), self.content_offset, parent)
        return parent.children


def setup(app):
    app.add_directive("execution-table", ExecutionTable)
    app.connect("config-inited", set_address, priority=900)
    app.connect("builder-inited", stop_when_stale)
    app.connect("doctree-read", name_the_images)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
