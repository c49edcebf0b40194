"""Machines that are not ours: a checkout that can't be written, in a folder with a difficult name; no home, no
network, one core, little memory.
"""

import ctypes
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

NOTEBOOK = "02_positional_encodings"
MEMORY = 2 << 30  # bytes that a notebook may take in quick mode; a machine of 4 GB has about 3 to give

# What a stranger does: looks at the state of things, reads a record, runs a notebook.
PROGRAM = f"""
import json, os, resource, runpy, socket, sys, urllib.request, warnings
from pathlib import Path

def heard(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect") and str(arguments[0]) != "localhost":
        raise OSError("no network")

sys.addaudithook(heard)
refused = []
for what in (lambda: urllib.request.urlopen("http://example.org", timeout=5), lambda: Path("new").touch(),
             lambda: (Path.home() / "new").touch()):
    try:
        what()
    except (OSError, RuntimeError):
        refused.append(True)
warnings.simplefilter("ignore")
from e2vit import data
from e2vit.__main__ import main
from e2vit.experiments import read_record, run
splits = data.load("rotmnist")
with open(os.environ["SAID"], "w") as file:
    sys.stdout = file
    assert main(["status"]) == 0
sys.stdout = sys.__stdout__
record = read_record("rotmnist/hybrid-c4-tenth")
quick = run("digits/vit", "quick").record
os.chdir("notebooks")
runpy.run_path("{NOTEBOOK}.py")
print("RESULT", json.dumps({{
    "refused": refused, "origin": splits.origin, "accuracy": record["test"]["accuracy"], "place": data.__file__,
    "quick": quick["test"]["count"], "cores": len(os.sched_getaffinity(0)),
    "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)}}))
"""


def obedient() -> None:
    """In the new process: one core, and rights count also for the administrator."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; PR_CAPBSET_DROP is 24
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Nothing in it can be written, and its name has spaces, letters with marks and letters of another script."""
    place = tmp_path_factory.mktemp("strangers") / "Größe & Übung 群" / "the book"
    shutil.copytree(ROOT / "src" / "e2vit", place / "src" / "e2vit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("data/results", "notebooks"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("*.claim", "*.partial.*", ".*"))
    shutil.copy(ROOT / "pyproject.toml", place)
    everything = [place, *place.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield place
    for path in everything:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def visit(place: Path, tmp_path: Path) -> dict:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL", "TMPDIR")}
    kept |= {
        "HOME": "/dev/null/home",
        "PYTHONPATH": str(place / "src"),
        "E2VIT_MODE": "quick",
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
        "SAID": str(tmp_path / "said"),
        "PYTHONWARNINGS": "ignore",
    }
    before = sorted(place.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=place,
        env=kept,
        text=True,
        capture_output=True,
        timeout=500,
        preexec_fn=obedient,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(place.rglob("*")) == before, "something was left in a checkout that can't be written"
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    result = json.loads(line.removeprefix("RESULT "))
    assert result["refused"] == [True] * 3  # the control: neither network nor checkout nor home was there
    assert result["cores"] == 1 and str(place) in result["place"]
    return result


@pytest.mark.skipif(sys.platform != "linux", reason="not run: rights and cores are taken away in Linux' own way")
def test_a_stranger_reads_records_and_runs_a_notebook(checkout, tmp_path):
    """With all that is missing at once; the memory is measured, too."""
    result = visit(checkout, tmp_path)
    assert result["origin"] == "rebuilt from embedded digits" and result["quick"] == 200
    assert (
        result["accuracy"]
        == json.loads((ROOT / "data/results/rotmnist/hybrid-c4-tenth/seed0.json").read_text())["test"]["accuracy"]
    )
    assert "wanted runs are there" in (tmp_path / "said").read_text()
    assert result["bytes"] < MEMORY


def test_the_users_cache_is_elsewhere_where_there_is_no_home(tmp_path, monkeypatch):
    """A library installed without a checkout, run by a user whom the system does not know."""
    from e2vit import data

    monkeypatch.setattr(data, "__file__", str(tmp_path / "a" / "b" / "c" / "data.py"))
    for name in ("E2VIT_DATA", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    with pytest.raises(RuntimeError):
        Path.home()  # the control
    assert data.data_root().name == "e2vit" and data.data_root().parent.is_dir()
