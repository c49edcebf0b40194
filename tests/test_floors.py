"""Imports go down only, read from the syntax tree."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
FLOORS = [
    {"e2vit.groups"},
    {"e2vit.actions"},
    {"e2vit.kernels"},
    {"e2vit.layers"},
    {"e2vit.models"},
    {"e2vit.capture", "e2vit.metrics", "e2vit.pretrained", "e2vit.testing"},
    {"e2vit.data"},
    {"e2vit.training"},
    {"e2vit.experiments"},
    {"e2vit.export", "e2vit.__main__"},
    {"e2vit_book"},
]


def floor_of(module: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) for room in rooms if f"{module}.".startswith(f"{room}."))


def imports(tree: ast.AST) -> list[str]:
    """The modules of this project that a syntax tree imports."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in found if name.startswith(("e2vit.", "e2vit_book"))]


def violations(module: str, tree: ast.AST) -> list[str]:
    return [name for name in imports(tree) if floor_of(name) > floor_of(module)]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_only(path):
    module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    if module != "e2vit.__init__":  # the public names at the top come from every floor
        assert violations(module, ast.parse(path.read_text(encoding="utf-8"))) == []


def test_an_import_that_goes_up_is_seen():
    assert violations("e2vit.groups", ast.parse("from e2vit.models import ViT")) == ["e2vit.models.ViT"]
    assert violations("e2vit.models.vit", ast.parse("from e2vit import training")) == ["e2vit.training"]
    assert violations("e2vit.export", ast.parse("import e2vit_book")) == ["e2vit_book"]
