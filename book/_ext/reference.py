"""Sphinx extension: ``{reference}`` lists the public names of the library, read from the source without importing it.

A name is public when a room of src/e2vit exports it: by ``__all__`` in a package, by having no underscore in a module.
"""

import ast
import re
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOMS = ("groups", "actions", "layers", "models", "models.symmetrized", "capture", "metrics", "pretrained", "testing")
ROOMS += ("data", "training", "experiments", "export")
Definition = ast.FunctionDef | ast.ClassDef


class Reference(SphinxDirective):
    def run(self):
        source = Path(self.env.srcdir) / "src"
        return [room_section(source, f"e2vit.{room}") for room in ROOMS]


def room_section(source: Path, room: str) -> nodes.section:
    path = file_of(source, room)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    section = nodes.section(ids=[room], names=[room])
    section += [nodes.title("", "", nodes.literal("", room)), *prose(ast.get_docstring(tree))]
    for name, definition, text in public(source, path):
        inner = nodes.section(ids=[f"{room}.{name}"], names=[f"{room}.{name}"])
        inner += [nodes.title("", "", nodes.literal("", name)), nodes.literal_block("", text, language="python")]
        inner += prose(ast.get_docstring(definition))
        section += inner
    return section


def file_of(source: Path, module: str) -> Path:
    path = source.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def public(source: Path, path: Path) -> list[tuple[str, Definition, str]]:
    """Return (name, definition, signature) of what a file defines and exports, or exports from below it."""
    text = path.read_text(encoding="utf-8")
    tree, defined, imported = ast.parse(text), {}, {}
    exported = None
    for node in tree.body:
        if isinstance(node, Definition):
            defined[node.name] = (node.name, node, signature(node, text))
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {alias.asname or alias.name: node.module for alias in node.names}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            exported = ast.literal_eval(node.value)
    if exported is None:
        return [entry for name, entry in defined.items() if not name.startswith("_")]
    for name in exported:
        if name not in defined and imported.get(name, "").startswith("e2vit."):
            below = file_of(source, imported[name])
            defined |= {
                entry[0]: entry for entry in (public(source, below) if below != path else []) if entry[0] == name
            }
    return [defined[name] for name in exported if name in defined]


def signature(node: Definition, text: str) -> str:
    """Return the head of a function, or that of a class with its fields and the heads of its public methods."""
    if isinstance(node, ast.FunctionDef):
        return f"def {node.name}({ast.unparse(node.args)}){f' -> {ast.unparse(node.returns)}' if node.returns else ''}"
    lines = [f"class {node.name}({', '.join(map(ast.unparse, node.bases))})".replace("()", "")]
    for part in node.body:
        if isinstance(part, ast.AnnAssign):
            lines += text.splitlines()[part.lineno - 1 : part.end_lineno]
        elif isinstance(part, ast.FunctionDef) and (part.name == "__init__" or not part.name.startswith("_")):
            lines.append(f"    {signature(part, text)}")
    return "\n".join(lines)


def prose(docstring: str | None) -> list[nodes.Node]:
    """Return the first paragraph as text, and the rest, whose lines are aligned, as it is written."""
    first, _, rest = (docstring or "").partition("\n\n")
    parts = re.split(r"``(.+?)``", " ".join(first.split()))
    inline = [nodes.literal("", part) if odd % 2 else nodes.Text(part) for odd, part in enumerate(parts)]
    more = [nodes.literal_block("", rest, language="text")] if rest else []
    return [nodes.paragraph("", "", *inline), *more] if first else []


def setup(app):
    app.add_directive("reference", Reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
