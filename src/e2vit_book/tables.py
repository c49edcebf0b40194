"""The one formatter of the book's tables."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from IPython.display import HTML

from e2vit.experiments.records import Summary

CELL = "padding:.25em .7em;text-align:{};vertical-align:top"


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | Mapping[str, str] | None = None) -> HTML:
    """A table with one row of headers; numbers to the right, words to the left, nothing known as a dash.

    columns: keys of the rows, or key → header; all keys of the first row when left out. In a column of summaries those
             are bold whose interval overlaps the interval of the best mean, where at least one does not.
    """
    if not rows:
        return HTML("<p>There are no records yet.</p>")
    headers = dict(columns) if isinstance(columns, Mapping) else {key: key for key in columns or rows[0]}
    best = {key: _best([row.get(key) for row in rows]) for key in headers}
    words = {key: any(isinstance(row.get(key), str) for row in rows) for key in headers}
    lines = [_line("th", [(html.escape(header), words[key], False) for key, header in headers.items()])]
    for k, row in enumerate(rows):
        lines.append(_line("td", [(text(row.get(key)), words[key], k in best[key]) for key in headers]))
    head, *body = lines
    return HTML(f'<table class="e2-table"><thead>{head}</thead><tbody>{"".join(body)}</tbody></table>')


def text(value: Any) -> str:
    """A value as a cell shows it: summaries in percent, whole numbers in groups of three digits, escaped words."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def _best(values: Sequence[Any]) -> set[int]:
    """The positions of the summaries that overlap with the best; none where all do, for then nothing is shown."""
    known = {k: value for k, value in enumerate(values) if isinstance(value, Summary) and value.kind != "none"}
    if not known:
        return set()
    low = max(known.values(), key=lambda value: value.mean).low
    top = {k for k, value in known.items() if value.high >= low}
    return top if len(top) < len(known) else set()


def _line(tag: str, cells: Sequence[tuple[str, bool, bool]]) -> str:
    scope = ' scope="col"' if tag == "th" else ""
    return (
        "<tr>"
        + "".join(
            f'<{tag}{scope} style="{CELL.format("left" if word else "right")}">'
            f"{f'<b>{content}</b>' if bold else content}</{tag}>"
            for content, word, bold in cells
        )
        + "</tr>"
    )
