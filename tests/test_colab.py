"""The notebooks on Colab: the first cell and what follows import nothing but Colab's packages and what it installs."""

import os
import subprocess
import sys
from pathlib import Path

import execute
import pytest

from conftest import ROOT

PACKAGES = Path(__file__).with_name("colab_packages.txt")
ADDRESS = "https://github.com/someone/thing"
PROGRAM = f"""
import importlib.metadata as metadata, re, sys, types
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

def plain(name):
    return re.match(r"[\\w.-]+", name)[0].lower().replace("_", "-")

installed = {{plain(each.metadata["Name"]): each for each in metadata.distributions()}}
providers = metadata.packages_distributions()

def closure(names):
    found, queue = set(), list(names)
    while queue:
        if (name := plain(queue.pop())) not in found:
            found.add(name)
            wanted = installed[name].requires if name in installed else None
            queue += [line for line in wanted or [] if "extra ==" not in line]
    return found

there = closure(Path({str(PACKAGES)!r}).read_text().splitlines()[1:])

class Colab(PathFinder):
    "Finds no distribution but those that Colab has or the first cell has installed."
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if path is None:
            providing = {{plain(each) for each in providers.get(name, [])}}
            asked = Path("pip.log").read_text().split() if Path("pip.log").exists() else []
            if providing - {{"e2vit"}} and not providing & (there | closure(asked)):
                return None
        return PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [each for each in sys.meta_path if str(each).endswith("Importer'>")] + [Colab]
sys.path[:] = [each for each in sys.path if not (Path(each) / "e2vit").exists()]    # what a checkout installed
sys.modules["google.colab"] = types.ModuleType("google.colab")
sys.modules["google.colab"].__spec__ = ModuleSpec("google.colab", None)
exec(Path("first.py").read_text())
if len(sys.argv) > 1:
    import runpy
    runpy.run_path(sys.argv[1])
    import e2vit
    print(e2vit.__file__)
"""


@pytest.fixture
def colab(tmp_path):
    """Returns a function that runs the first cell, then a notebook, where git links to this checkout and pip notes."""
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text("import sys\nopen('pip.log', 'a').write(' '.join(sys.argv[3:]))")
    (tmp_path / "git").write_text(f'#!/bin/sh\nfor last; do :; done\nln -s "{ROOT}" "$last"\n')
    (tmp_path / "git").chmod(0o755)
    settings = {"E2VIT_MODE": "quick", "E2VIT_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **settings, "PYTHONPATH": str(tmp_path), "PATH": path, "PYTHONWARNINGS": "ignore"}

    def run(address: str, *notebook: str) -> subprocess.CompletedProcess:
        (tmp_path / "first.py").write_text(execute.COLAB.format(address=address, unset=execute.UNSET))
        command = [sys.executable, "-c", PROGRAM, *notebook]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    return run


def test_the_first_cell_and_a_notebook_need_nothing_else(colab, tmp_path):
    done = colab(ADDRESS, str(ROOT / "notebooks" / "02_positional_encodings.py"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert Path(done.stdout.split()[-1]).resolve().is_relative_to(ROOT)
    assert (tmp_path / "pip.log").read_text().split() == ["jaxtyping"], "torch, numpy and ipywidgets stay as they are"


def test_without_the_installation_it_would_fail(colab, tmp_path):
    """The control: the library itself needs a package that Colab lacks."""
    (tmp_path / "pip" / "__main__.py").write_text("")
    done = colab(ADDRESS, str(ROOT / "notebooks" / "02_positional_encodings.py"))
    assert done.returncode and "No module named 'jaxtyping'" in done.stderr


def test_without_an_address_the_cell_says_what_to_set(colab, tmp_path):
    done = colab(f"https://github.com/{execute.UNSET}/e2vit")
    assert done.returncode == 1 and not (tmp_path / "pip.log").exists()
    (line,) = done.stderr.strip().splitlines()
    assert "_config.yml" in line
