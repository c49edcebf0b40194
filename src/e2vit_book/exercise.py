"""Exercises of the chapters: a check that an answer passes or fails."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Exercise:
    """An exercise, called with an answer: an assertion that fails until the answer passes ``check``.

    The dots ``...`` stand for an answer not yet given, so that a chapter runs to its end unsolved.
    """

    check: Callable[[Any], bool]

    def __call__(self, answer: Any) -> None:
        if answer is ...:
            print("Not solved yet: replace the dots.")
            return
        assert self.check(answer), "The check fails for this answer."
        print("Solved.")
