"""The executed notebooks are what their sources say, whole, clean and small; a second execution changes no byte."""

import ast
import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import execute
import jupytext
import pytest
from stable import stable

from conftest import ROOT

SOURCES = execute.sources()
NAMES = [source.stem for source in SOURCES]
LARGEST = 2 * 2**20
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:home|root|work|tmp|Users|usr|opt|mnt|content)/\w|\b[A-Z]:\\\\Users")


def executed(name: str) -> dict:
    return json.loads((execute.FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def content(cells) -> list[tuple[str, str, list[str]]]:
    return [(cell["cell_type"], "".join(cell["source"]), list(cell["metadata"].get("tags", []))) for cell in cells]


def faults(notebook: dict) -> list[str]:
    """What is wrong with an executed notebook."""
    found = []
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    counts = [cell["execution_count"] for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"cells were not executed once each from top to bottom: {counts}")
    for cell in code:
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                found.append(f"an error stands in it: {output['ename']}")
            if path := ABSOLUTE.search(
                json.dumps(
                    {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
                    | {"text": output.get("text", "")}
                )
            ):
                found.append(f"an absolute path stands in an output: {path[0]}")
    if notebook["metadata"]["kernelspec"]["name"] != "python3":
        found.append(f"its kernel is {notebook['metadata']['kernelspec']['name']}")
    if "papermill" in json.dumps(notebook["metadata"]):
        found.append("papermill's times stand in it")
    return found


def notebook(**changes) -> dict:
    """A good notebook of one cell."""
    cell = {"cell_type": "code", "source": "1", "execution_count": 1, "metadata": {}, "outputs": []} | changes
    return {"cells": [cell], "metadata": {"kernelspec": {"name": "python3"}}}


def reusable(source: str) -> list[str]:
    """What a reader might reuse and should find in the library: definitions, and paths to it."""
    tree = ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", source))
    named = [node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    paths = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.path", "os.environ", "os.chdir")
    ]
    return named + paths


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_agrees_in_every_cell(name):
    source, pair = jupytext.read(execute.FOLDER / f"{name}.py"), executed(name)
    first = "".join(pair["cells"][0]["source"])
    found = re.search(r"https://github\.com/[\w.-]+/[\w.-]+", first)  # a fork has its own address
    assert found and first == execute.COLAB.format(address=found[0], unset=execute.UNSET), execute.MEND
    assert content(pair["cells"][1:]) == content(source.cells), execute.MEND


@pytest.mark.parametrize("name", NAMES)
def test_an_executed_notebook_is_whole_and_clean(name):
    assert faults(executed(name)) == []
    assert (execute.FOLDER / f"{name}.ipynb").stat().st_size < LARGEST


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_prose_and_calls(name):
    notebook = jupytext.read(execute.FOLDER / f"{name}.py")
    code = "\n".join(cell["source"] for cell in notebook.cells if cell["cell_type"] == "code")
    assert reusable(code) == []
    assert "mode = default_mode()" in [
        cell["source"].partition("#")[0].strip()
        for cell in notebook.cells
        if "parameters" in cell["metadata"].get("tags", [])
    ]


def test_nothing_is_stale():
    assert execute.stale() == {}, execute.MEND


def test_faults_are_seen():
    """The control: each fault planted in a good notebook."""
    good = notebook()
    assert faults(good) == []
    for change in (
        lambda n: n["cells"][0].update(execution_count=2),
        lambda n: n["cells"][0].update(execution_count=None),
        lambda n: n["cells"][0]["outputs"].append({"output_type": "error", "ename": "ValueError"}),
        lambda n: n["cells"][0]["outputs"].append({"output_type": "stream", "text": ["in /home/me/x"]}),
        lambda n: n["metadata"]["kernelspec"].update(name="other"),
        lambda n: n["metadata"].update(papermill={}),
    ):
        bad = copy.deepcopy(good)
        change(bad)
        assert len(faults(bad)) == 1
    assert reusable("import sys\nsys.path.append('src')\ndef f(): pass\nclass A: pass") == ["f", "A", "sys.path"]


def test_random_names_are_numbered_and_sources_left_alone():
    first, second = "0123456789abcdef" * 2, "fedcba9876543210" * 2

    def made(names):
        html = f'<div id="{names[0]}"></div><script>{names[1]} {names[0]}</script><td id="T_{names[0][:5]}_row0">'
        data = {"text/html": html, "text/plain": f"<object at 0x7f{names[0][:10]}>"}
        outputs = [
            {"output_type": "display_data", "data": data, "metadata": {}},
            {"output_type": "stream", "name": "stderr", "text": names[0]},
        ]
        found = notebook(source=first, outputs=outputs, metadata={"execution": {"x": names[0]}, "tags": []})
        return found | {"metadata": {"papermill": {"a": names[1]}}}

    one, two = stable(made((first, second))), stable(made((second, first)))
    assert one == two
    assert one["cells"][0]["source"] == first and first not in json.dumps(one["cells"][0]["outputs"])
    assert len(one["cells"][0]["outputs"]) == 1


SMALL = """\
# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A small notebook

# %%
import json
import sys
import matplotlib.pyplot as plt
print(json.load(open("../data/results/x.json")), object())
sys.audit("e2vit.load", "rotmnist", "rebuilt from embedded digits")
plt.plot([1, 2]);
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout with one small notebook, a record and the tools."""
    for folder in ("notebooks", "data/results", "book"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copytree(ROOT / "book" / "tools", tmp_path / "book" / "tools")
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "notebooks" / "01_small.py").write_text(SMALL)
    (tmp_path / "data" / "results" / "x.json").write_text('{"a": 1}')
    return tmp_path


def run(checkout: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(checkout / "book" / "tools" / "execute.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200)


def test_execution_is_repeatable_and_notices_changes(checkout):
    path = checkout / "notebooks" / "01_small.ipynb"
    assert (unexecuted := run(checkout, "--check")).returncode == 1 and execute.MEND in unexecuted.stderr
    assert (done := run(checkout)).returncode == 0, done.stderr
    first = path.read_bytes()
    assert json.loads(first)["metadata"]["e2vit"]["data"] == {"rotmnist": "rebuilt from embedded digits"}
    assert faults(json.loads(first)) == []
    assert run(checkout, "--check").returncode == 0 and "executing" not in run(checkout).stdout

    assert run(checkout, "--all").returncode == 0
    assert path.read_bytes() == first, "a second execution gives other bytes"

    (checkout / "data" / "results" / "x.json").write_text('{"a": 2}')
    assert run(checkout, "--check").returncode == 1, "a changed record is not noticed"
    (checkout / "notebooks" / "01_small.py").write_text(SMALL.replace("plt.plot([1, 2]);", "raise ValueError('no')"))
    assert (failed := run(checkout)).returncode == 1 and "ValueError: no" in failed.stderr
    assert path.read_bytes() == first, "a failed execution replaced a good notebook"


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("https://github.com/someone/thing.git", "https://github.com/someone/thing"),
        ("git@github.com:someone/thing.git", "https://github.com/someone/thing"),
        ("https://name:secret@github.com/someone/thing", "https://github.com/someone/thing"),
        ("/a/folder/thing", None),
        ("https://elsewhere.example/someone/thing", None),
    ],
)
def test_the_address_comes_from_the_remote(checkout, remote, expected):
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    subprocess.run(["git", "-C", str(checkout), "remote", "add", "origin", remote], check=True)
    fallback = re.search(r"url: (\S+)", (ROOT / "_config.yml").read_text())[1]
    assert execute.address(checkout) == (expected or fallback)
