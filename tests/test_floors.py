"""Imports go down only, read from the syntax tree."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "e2vit"
FLOORS = [
    {"groups"},
    {"actions"},
    {"layers"},
    {"models", "capture", "attention_maps", "inspection", "counting", "steerability", "faults"},
    {"formats"},
    {"sources"},
    {"data"},
    {"metrics"},
    {"augmentation", "optimizer", "run_state", "training", "sequences", "fine_tuning"},
    {"entry", "catalog"},
    {"records"},
    {"experiments", "comparison", "ablation", "weaknesses"},
    {"figures"},
    {"runner", "export", "__main__"},
]


def floor_of(module: str) -> int:
    return next(level for level, names in enumerate(FLOORS) if module.split(".")[0] in names)


def imports(tree: ast.AST) -> list[str]:
    """The modules of e2vit that a syntax tree imports, as paths below the package."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [f"{node.module}.{alias.name}" if node.module == "e2vit" else node.module for alias in node.names]
    return [name.removeprefix("e2vit.") for name in found if name.startswith("e2vit.")]


def violations(module: str, tree: ast.AST) -> list[str]:
    return [name for name in imports(tree) if floor_of(name) > floor_of(module)]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_only(path):
    module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    if module != "__init__":
        assert violations(module, ast.parse(path.read_text(encoding="utf-8"))) == []


def test_an_import_that_goes_up_is_seen():
    assert violations("groups", ast.parse("from e2vit.models import ViT")) == ["models"]
    assert violations("layers.block", ast.parse("from e2vit import training")) == ["training"]
