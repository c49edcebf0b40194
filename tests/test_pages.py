"""The code of the prose pages runs, and the article keeps its length."""

import re

import pytest
import torch

from conftest import ROOT

LENGTH = (4_000, 4_600)  # words of the article, captions included
DISPLAY = re.compile(r"```\{(?:math|raw)\}.*?```|\$\$.*?\$\$|```python.*?```", re.DOTALL)


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "book" / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_on_wrapping_runs_from_top_to_bottom():
    torch.manual_seed(0)
    code = snippets("wrap.md")
    assert len(code) >= 6
    exec(compile("\n".join(code), "book/wrap.md", "exec"), {})  # noqa: S102


def test_the_article_has_the_length_of_a_twenty_minute_read():
    text = DISPLAY.sub(" ", (ROOT / "book" / "intro.md").read_text(encoding="utf-8"))
    text = re.sub(r"```\{[^}]*\}[^\n]*|\{[a-z:]+\}|[`*|#]+|\$[^$]*\$", " x ", text)
    words = len(text.split())
    assert LENGTH[0] <= words <= LENGTH[1], words
    assert words / 230 <= 20


def test_the_article_has_few_short_snippets_and_no_long_table():
    text = (ROOT / "book" / "intro.md").read_text(encoding="utf-8")
    code = snippets("intro.md")
    assert len(code) <= 6 and all(len(lines.splitlines()) <= 10 for lines in code)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert all(table.count("\n") - 2 <= 8 for table in tables)
    figures = re.findall(r"```\{(?:chapter-figure|drawing)\}|:file: _static/(?:turning|step)", text)
    assert 12 <= len(figures) <= 16


@pytest.mark.parametrize("page", ["intro.md", "wrap.md", "related.md", "conclusion.md", "reproduce.md"])
def test_no_line_of_code_is_cut(page):
    assert all(len(line) <= 120 for code in snippets(page) for line in code.splitlines())
