"""Do the tests notice a fault? Small ones are made one at a time in copies of the source, and the tests run on each.

python tests/mutants.py [--count 130] [--seed 0] [--only MODULE…]

A mutant is killed when a test fails, and survives when none does. What survives is either a fault that a new test must
catch, or no fault at all: EQUIVALENT names those, with the reason. Each mutant runs in a fork of one process that has
imported the large packages.
"""

import argparse
import ast
import copy
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 100  # of the processor; a mutant whose tests take longer hangs, and so is noticed
TESTS = {  # module → the fastest tests that are enough for it
    "groups": ["test_groups.py", "test_index_tables.py"],
    "actions": ["test_actions.py"],
    "layers/attention": ["test_group_attention_input.py", "test_group_attention.py", "test_position.py"],
    "layers/convolution": ["test_convolution.py"],
    "layers/kernel_basis": ["test_kernel_basis.py", "test_convolution.py"],
    "layers/position": ["test_position.py", "test_group_attention.py"],
    "layers/pose_attention": ["test_hybrid.py", "test_export.py"],  # the latter takes the way of an exporter
    "layers/pose_position": ["test_hybrid.py"],
    "layers/readout": ["test_hybrid.py"],
    "layers/turning": ["test_convolution.py", "test_gcnn.py"],
    "layers/sequence": ["test_transformer.py"],
    "layers/block": ["test_transformer.py", "test_vit.py"],
    "layers/group_block": ["test_group_attention_net.py"],
}
EQUIVALENT = {  # "module: change" → why it is no fault
    "groups: v + 0 * g + m → v + 0 * g - m": "the sign makes no difference modulo 2",
    "groups: torch.cdist(matrices.flatten(1), matrices.flatten(1)) → "
    "torch.cdist(matrices.flatten(1), matrices.flatten(1))": "a set's distances to itself, either way round",
    "actions: -2 → 2": "of four axes, 2 and -2 are the same one",
    "actions: a * d - b * c < 0 → a * d - b * c <= 0": "a determinant of 1 or -1",
    "actions: group.matrices[g] - group.matrices[g].round() → "
    "group.matrices[g].round() - group.matrices[g]": "its absolute value is what counts",
    "layers/pose_attention: k.transpose(-2, -1) → k.transpose(-1, -2)": "the same two axes",
    "layers/pose_attention: q.device.type == 'cpu' → q.device.type != 'cpu'": "torch's kernel gives the same, slower",
    "layers/position: 16 → 17": "one wave more, a choice of size",
    "layers/sequence: nn.Linear(width, width) → nn.Linear(width, width)": "as many come in as go out",
    "layers/turning: points[None, :, None] - centers → centers - points[None, :, None]": "the square follows",
    "layers/block: nn.Linear(width, width) → nn.Linear(width, width)": "as many come in as go out",
    "layers/kernel_basis: (_on_grid(group, g, kernel) / scale).float().reshape(-1, 1, kernel, kernel) → "
    "(_on_grid(group, g, kernel) / scale).float().reshape(1, -1, kernel, kernel)": "images and channels move alike",
}

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """The node with one small fault, in every way that is known."""

    def changed(**fields):
        other = copy.deepcopy(node)
        for name, value in fields.items():
            setattr(other, name, value)
        return other

    match node:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARISONS:
            yield changed(ops=[COMPARISONS[type(operator)]()])
        case ast.BinOp(left=left, op=operator, right=right):
            if type(operator) in OPERATORS:
                yield changed(op=OPERATORS[type(operator)]())
            if isinstance(operator, (ast.MatMult, ast.Sub, ast.Div)):
                yield changed(left=right, right=left)
        case ast.Constant(value=bool()):
            yield changed(value=not node.value)
        case ast.Constant(value=int()):
            yield changed(value=node.value + 1)
        case ast.Constant(value=float()):
            yield changed(value=node.value * 2 + 1)
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            yield operand
        case ast.BoolOp(op=operator):
            yield changed(op=ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.IfExp(body=body, orelse=orelse):
            yield changed(body=orelse, orelse=body)
        case ast.Call(args=[first, second, *rest]) if not any(isinstance(a, ast.Starred) for a in (first, second)):
            if ast.unparse(node.func) not in ("isinstance", "max", "min", "getattr", "hasattr"):
                yield changed(args=[second, first, *rest])


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Where a node stands: parent, field, index; no types, no texts, and nothing of what an error says."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list") or isinstance(
            tree, (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import)
        ):
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(node, ast.AST):
                yield tree, field, index, node
                yield from places(node)


def mutants(source: str) -> list[tuple[str, int, str]]:
    """What was changed, in which line, and the source with that change."""
    tree, made = ast.parse(source), []
    for parent, field, index, node in list(places(tree)):
        for other in changes(node):

            def put(what, parent=parent, field=field, index=index):
                if index is None:
                    setattr(parent, field, what)
                else:
                    getattr(parent, field)[index] = what

            put(other)
            made.append((f"{ast.unparse(node)} → {ast.unparse(other)}", node.lineno, ast.unparse(tree)))
            put(node)
    return made


def survives(module: str, source: str, log: Path) -> bool:
    """Whether all tests of a module pass with another source in its place."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        shutil.copytree(ROOT / "src" / "e2vit", Path(folder) / "e2vit")
        (Path(folder) / "e2vit" / f"{module}.py").write_text(source, encoding="utf-8")
        if not (child := os.fork()):
            with open(log, "w") as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
            sys.path[:0] = [folder, str(ROOT / "tests")]
            os.chdir(ROOT)
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            import pytest

            os._exit(
                pytest.main(
                    [
                        "-x",
                        "-q",
                        "-p",
                        "no:cacheprovider",
                        "-p",
                        "no:xdist",
                        "-p",
                        "no:randomly",
                        *(f"tests/{name}" for name in TESTS[module] if (ROOT / "tests" / name).exists()),
                    ]
                )
            )
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) > 2:
            raise RuntimeError(f"the tests of {module} could not be run:\n{log.read_text()[-2000:]}")
        return status == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=130, help="how many mutants, over all modules")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=TESTS, default=list(TESTS), metavar="MODULE", help="these alone")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for package in ("torch", "torchvision", "numba", "hypothesis", "scipy.stats", "sklearn.datasets", "pandas"):
        __import__(package)
    known = {module: mutants((ROOT / "src/e2vit" / f"{module}.py").read_text("utf-8")) for module in TESTS}
    total, chance, log = sum(map(len, known.values())), random.Random(options.seed), Path(tempfile.mkstemp()[1])
    killed = survived = 0
    for module, made in known.items():
        if module not in options.only:
            continue
        started = time.monotonic()
        if not survives(module, ast.unparse(ast.parse((ROOT / "src/e2vit" / f"{module}.py").read_text("utf-8"))), log):
            raise RuntimeError(f"the tests of {module} fail without any fault:\n{log.read_text()[-2000:]}")
        chosen = [one for one in made if f"{module}: {one[0]}" not in EQUIVALENT]
        chosen = chance.sample(chosen, min(len(chosen), max(3, round(options.count * len(made) / total))))
        alive = [f"line {line}: {change}" for change, line, source in chosen if survives(module, source, log)]
        survived, killed = survived + len(alive), killed + len(chosen) - len(alive)
        print(
            f"{module}: {len(chosen)} of {len(made)}, {len(alive)} survive, {time.monotonic() - started:.0f} s",
            *alive,
            sep="\n    ",
            flush=True,
        )
    print(f"{killed} of {killed + survived} mutants are killed")
    return int(killed < 0.95 * (killed + survived))


if __name__ == "__main__":
    sys.exit(main())
