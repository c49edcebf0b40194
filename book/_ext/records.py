"""Sphinx extension: the records as tables, read from data/results when the book is built. Needs no torch.

``{record-table}``: a fold for each family of experiments, in it a row for each experiment that has a record.
``{reading-table}``: which notebook reads which records.
``{browser-table}``: what networks take in a web page, with their accuracy.
"""

import json
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective


class Table(SphinxDirective):
    """Lines of Markdown, made by a subclass from the files below the source folder, parsed as if they stood here."""

    def run(self):
        parent = nodes.Element()
        self.state.nested_parse(StringList(self.lines(Path(self.env.srcdir)), self.name), self.content_offset, parent)
        return parent.children

    def read(self, path: Path) -> dict:
        self.env.note_dependency(str(path))
        return json.loads(path.read_text(encoding="utf-8"))


class RecordTable(Table):
    def lines(self, root: Path) -> list[str]:
        experiments = {
            name: [self.read(path) for path in paths]
            for name, paths in by_experiment(root / "data" / "results").items()
        }
        return [
            line
            for family, names in groupby(experiments, family_of)
            for line in fold(family, {name: experiments[name] for name in names})
        ] or ["No run has left a record."]


class ReadingTable(Table):
    def lines(self, root: Path) -> list[str]:
        rows = []
        for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
            reads = self.read(path)["metadata"]["e2vit"]["reads"]
            rows.append(f"| {path.stem} | {said(reads) or 'none: everything is computed in the notebook'} |")
        return ["| notebook | records it reads |", "|---|---|", *rows]


class BrowserTable(Table):
    def lines(self, root: Path) -> list[str]:
        path = root / "data" / "results" / "benchmarks" / "browser.json"
        if not path.exists():
            return ["It was not measured yet: `python benchmarks/browser.py --write`."]
        measured = self.read(path)
        lines = [
            "| network | parameters | test accuracy (%) | training images | milliseconds for an image |",
            "|---|--:|--:|--:|--:|",
        ]
        for name, entry in measured["networks"].items():
            record = self.read(root / "data" / "results" / name / "seed0.json")
            lines.append(browser_row(name, entry["milliseconds"], record))
        where = f"{measured['browser']}, one thread, {measured['device']}"
        return [*lines, "", f"Milliseconds: {where}, the best of several runs. Accuracies: seed 0, from the records."]


def browser_row(name: str, milliseconds: float, record: dict) -> str:
    shown = f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:,.0f}"
    cells = [
        f"`{name}`",
        f"{record['parameters']:,}",
        f"{100 * record['test']['accuracy']:.2f}",
        f"{record['training_images']:,}",
        shown,
    ]
    return f"| {' | '.join(cells)} |"


def by_experiment(results: Path) -> dict[str, list[Path]]:
    """Experiment → its records, seed after seed."""
    found: dict[str, list[Path]] = {}
    for path in sorted(results.rglob("seed*.json")):
        found.setdefault(path.parent.relative_to(results).as_posix(), []).append(path)
    return dict(sorted(found.items()))


def family_of(name: str) -> str:
    """All but the last part of an experiment's name."""
    return name.rpartition("/")[0]


def fold(family: str, experiments: dict[str, list[dict]]) -> list[str]:
    count = f"{len(experiments)} experiment{'s' * (len(experiments) > 1)}"
    lines = [line for name, records in experiments.items() for line in rows(name, records)]
    return [
        f":::{{dropdown}} {family}: {count}",
        "| experiment | test accuracy (%) | seeds | parameters | minutes | images; device |",
        "|---|--:|--:|--:|--:|---|",
        *lines,
        ":::",
        "",
    ]


def rows(name: str, records: list[dict]) -> list[str]:
    """A row for each copy of the images: scores on different ones have no common mean."""
    origins = sorted({record["data"]["origin"] for record in records})
    return [row(name, [record for record in records if record["data"]["origin"] == origin]) for origin in origins]


def row(name: str, records: list[dict]) -> str:
    """The mean over the seeds, ± one standard error when there are several."""
    accuracies = [100 * record["test"]["accuracy"] for record in records]
    error = f" ± {stdev(accuracies) / len(accuracies) ** 0.5:.2f}" if len(accuracies) > 1 else ""
    devices = " / ".join(sorted({record["device"] for record in records}))
    minutes = mean(record["seconds"] for record in records) / 60
    cells = [
        f"`{name}`",
        f"{mean(accuracies):.2f}{error}",
        str(len(records)),
        f"{records[0]['parameters']:,}",
        f"{minutes:.0f}",
        f"{records[0]['data']['origin']}; {devices}",
    ]
    return f"| {' | '.join(cells)} |"


def said(reads: list[str], most: int = 4) -> str:
    """The experiments among the files a notebook read; a large family is named by its number."""
    parents = {Path(name).parent.as_posix() for name in reads if Path(name).name.startswith("seed")}
    names = sorted(name.removeprefix("data/results/") for name in parents)
    families = [(family, list(members)) for family, members in groupby(names, family_of)]
    return ", ".join(
        f"`{family}/…` ({len(members)})" if len(members) > most else ", ".join(f"`{name}`" for name in members)
        for family, members in families
    )


def setup(app):
    app.add_directive("record-table", RecordTable)
    app.add_directive("reading-table", ReadingTable)
    app.add_directive("browser-table", BrowserTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
