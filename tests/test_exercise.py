"""Exercises fail until they are solved, and the chapters carry three of them, each with its solution."""

import re
from pathlib import Path

import jupytext
import pytest

from e2vit_book.exercise import Exercise

CHAPTERS = sorted(Path(__file__).parents[1].glob("notebooks/0[1-3]*.py"))


def test_an_exercise_passes_a_right_answer_fails_a_wrong_one_and_waits_for_none(capsys):
    exercise = Exercise(lambda answer: answer == 4)
    exercise(...)
    exercise(4)
    assert capsys.readouterr().out.splitlines() == ["Not solved yet: replace the dots.", "Solved."]
    with pytest.raises(AssertionError, match="fails for this answer"):
        exercise(5)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_has_three_exercises_and_their_solutions(chapter):
    code = [cell for cell in jupytext.read(chapter).cells if cell.cell_type == "code"]
    solutions = "\n".join(cell.source for cell in code if "solution" in cell.metadata.get("tags", []))
    asked = "\n".join(cell.source for cell in code if "solution" not in cell.metadata.get("tags", []))
    for name in ("exercise1", "exercise2", "exercise3"):
        assert f"{name}(...)" in asked and re.search(rf"^{name}\(", solutions, flags=re.M)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_visible_code_fits_its_column_and_no_heading_is_empty(chapter):
    cells = jupytext.read(chapter).cells
    for cell in cells:
        if cell.cell_type == "code" and "hide-input" not in cell.metadata.get("tags", []):
            assert max(map(len, cell.source.splitlines()), default=0) <= 88, cell.source
    text = "\n".join(cell.source if cell.cell_type == "markdown" else "code" for cell in cells)
    levels = [(len(line) - len(line.lstrip("#")), line) for line in text.splitlines() if line.strip()]
    for (level, line), (following, _) in zip(levels, levels[1:], strict=False):
        assert not level or not following or following > level, f"{line} has no text"
