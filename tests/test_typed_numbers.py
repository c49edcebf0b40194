"""Numbers in prose come from a cell, a record or a citation. Others stand in a list, with their reason."""

import json
import re
from pathlib import Path

import pytest

from e2vit.groups import gevit_index
from e2vit.models import GroupAttentionNetConfig
from e2vit_book.weaknesses.measure import layer_scores

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [*sorted((ROOT / "book").glob("*.md")), ROOT / "README.md"]
NUMBER = r"\d[\d,]*(?:\.\d+)?"
# What looks measured: decimals, thousands, percentages, and counts of what is measured.
MEASURED = re.compile(
    r"(?<![\w.,])(\d+\.\d+|\d{1,3}(?:,\d{3})+|\d+(?= ?%| (?:times|seconds|ms|MB|GB|minutes|hours|points|percent)\b))"
)
TABLE = r"<!-- \w+:begin -->.*?<!-- \w+:end -->"  # written by a program
PYTHON, LEVEL = {"3.10": "the oldest Python that is tested"}, "the level of the intervals"
TYPED: dict[str, dict[str, str]] = {
    "03_weaknesses": {
        "95": LEVEL,
        "28,244": "quoted from the draft that credits.md names",
        "98": "given in an exercise",
        "980,000": "the solution of an exercise, which its cell checks",
    },
    "04_post_hoc": {"95": LEVEL, "90": "an example"},
    "07_real_images": {
        "2,800": "the size of RSSCN7, given by its authors",
        "1,256": "the size of the later release, given by its authors",
        "20": "one fold of five",
        "10": "the validation part of a fold, see e2vit.data.real",
        "80": "the power, a convention",
    },
    "intro": {"36.6": "computed from the configuration, see below"},
    "reproduce": PYTHON,
    "wrap": PYTHON,
    "README": PYTHON,
}


def typed(text: str) -> dict[str, str]:
    """number → its paragraph or point, unless that cites somebody. Tables that a program wrote, code, formulas, roles,
    addresses and tags are left out."""
    for pattern in (TABLE, r"```.*?```", r"\$\$.*?\$\$", r"\$[^$]*\$"):
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    parts = [part for part in re.split(r"\n\s*\n|\n- ", text) if "{cite" not in part]
    plain = [re.sub(r"`[^`]*`|\]\([^)]*\)|https?://\S+|<[^>]*>", " ", part) for part in parts]
    return {number: part for part in plain for number in MEASURED.findall(part)}


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def printed(path: Path) -> set[str]:
    """All numbers that the chapter's cells hold or give."""
    text = []
    for cell in cells(path, "code"):
        text.append("".join(cell["source"]))
        for output in cell["outputs"]:
            data = {"text": output.get("text", "")} | output.get("data", {})
            text += ["".join(data[kind]) for kind in data if kind.startswith(("text", "image/svg"))]
    return set(re.findall(NUMBER, "\n".join(text)))


def recorded() -> set[str]:
    """All numbers of the tables that are written from records, and the large ones in whole thousands."""
    tables = re.findall(TABLE, "\n".join(path.read_text() for path in PAGES), flags=re.DOTALL)
    numbers = set(re.findall(NUMBER, "\n".join(tables)))
    whole = [int(number.replace(",", "")) for number in numbers if "." not in number]
    return numbers | {f"{round(number, -3):,}" for number in whole if number > 10_000}


@pytest.mark.parametrize("path", [*CHAPTERS, *PAGES], ids=lambda path: path.stem)
def test_no_number_is_typed_that_nothing_prints(path):
    if path in CHAPTERS:
        text, shown = "\n\n".join("".join(cell["source"]) for cell in cells(path, "markdown")), printed(path)
    else:
        text, shown = path.read_text(), recorded().union(*map(printed, CHAPTERS))
    left = {number: part for number, part in typed(text).items() if number not in shown}
    listed = TYPED.get(path.stem, {})
    assert left.keys() <= listed.keys(), left
    assert listed.keys() <= typed(text).keys(), "listed, but not typed any more"


def test_a_typed_number_is_seen():
    text = "It takes 12.5 seconds for $3.5$ images, `7.5`.\n- Others say 3.2 % {cite}`a`.\n- 4 %, 2,000 times"
    assert typed(text).keys() == {"12.5", "4", "2,000"}


def test_the_largest_layer_has_as_many_scores_as_the_article_says():
    scores = layer_scores(GroupAttentionNetConfig(index=gevit_index))
    assert f"{max(scores.values()) / 1e6:.1f}" in TYPED["intro"]
