"""Executes the notebooks whose source or records changed, and writes notebooks/NAME.ipynb in its stable form.

    python book/tools/execute.py [--check | --all] [--mode report|train] [NAME…]

notebooks/NAME.py is the source. NAME.ipynb is its execution: a first cell for Colab, then the cells of the source with
their outputs; its metadata ``e2vit`` holds what it was made from. No torch is needed to tell what is stale.
"""

import argparse
import base64
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path

import jupytext
import nbformat
from stable import stable

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
LOG = FOLDER / "execution.json"  # name → when, where and how long; the page on the execution shows it
MEND = "make book executes what changed"
VERSIONS = ("e2vit", "torch", "torchvision", "numpy", "matplotlib", "papermill")
UNSET = "your--account"  # in the address of _config.yml, until somebody puts theirs

COLAB = """\
import importlib.util, subprocess, sys    # for Colab alone: fetch this book and the package that is missing there
if "google.colab" in sys.modules and importlib.util.find_spec("e2vit") is None:
    if "{unset}" in "{address}":
        raise SystemExit("Put the address of your repository into _config.yml (repository: url), then run make book.")
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", "{address}", "the-book"], check=True)
    if importlib.util.find_spec("jaxtyping") is None:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "jaxtyping"], check=True)
    sys.path.insert(0, "the-book/src")"""

WATCH = """\
import sys
def _watch(event, arguments, notes=open({notes!r}, "a", buffering=1)):
    if event == "e2vit.load":
        print(*arguments, sep="\\t", file=notes)
sys.addaudithook(_watch)
del _watch, sys
"""  # run by the kernel before the first cell: notes each data set that is loaded, with its origin


class Failed(Exception):
    """A notebook whose execution did not finish, with the reason."""


def sources(root: Path = ROOT) -> list[Path]:
    return sorted((root / "notebooks").glob("[0-9]*.py"))


def address(root: Path = ROOT) -> str:
    """Return the repository's web address: the git remote when it is on GitHub, else the one in _config.yml.

    User names and passwords in the remote are left out.
    """
    command = ["git", "-C", str(root), "config", "--get", "remote.origin.url"]
    remote = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    if found := re.fullmatch(r"(?:https://|ssh://)?(?:[^@/]*@)?github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?", remote):
        return f"https://github.com/{found[1]}"
    return re.search(r"^ *url *: *(\S+)", (root / "_config.yml").read_text(encoding="utf-8"), re.MULTILINE)[1]


def colab_cell(root: Path = ROOT) -> dict:
    """Return the first cell of every executed notebook; the book leaves it out."""
    source = COLAB.format(address=address(root), unset=UNSET)
    cell = {"cell_type": "code", "execution_count": None, "id": "colab", "outputs": [], "source": source}
    return {**cell, "metadata": {"tags": ["remove-cell"]}}


def data_digest(root: Path = ROOT) -> str:
    """Return the sha256 of the committed data files; checkpoints are named in their records."""
    digest = hashlib.sha256()
    for path in sorted([*(root / "data").glob("*.json"), *(root / "data" / "results").rglob("*.json")]):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def fingerprint(source: Path, data: str) -> str:
    return hashlib.sha256(source.read_bytes() + data.encode()).hexdigest()


def stale(root: Path = ROOT) -> dict[str, str]:
    """Return name → reason for every source whose executed notebook is missing or was made from something else."""
    reasons, data = {}, data_digest(root)
    for source in sources(root):
        executed = source.with_suffix(".ipynb")
        try:
            made = json.loads(executed.read_text(encoding="utf-8"))["metadata"]["e2vit"]["fingerprint"]
            if made != fingerprint(source, data):
                reasons[source.stem] = "its source or a record changed since it was executed"
        except FileNotFoundError:
            reasons[source.stem] = "it was never executed"
        except (ValueError, KeyError, TypeError):
            reasons[source.stem] = f"{executed.name} was not written by make book"
    return reasons


def execute(source: Path, mode: str) -> tuple[str, dict]:
    """Return the text of the executed notebook and its entry in the log."""
    with tempfile.TemporaryDirectory(prefix="e2vit-") as temporary:
        folder = Path(temporary)
        startup, notes = folder / "profile_default" / "startup", folder / "notes"
        startup.mkdir(parents=True)
        notes.touch()
        (startup / "00-watch.py").write_text(WATCH.format(notes=str(notes)), encoding="utf-8")
        made_from = fingerprint(source, data_digest())
        notebook = jupytext.read(source, fmt="py:percent")
        notebook.cells.insert(0, nbformat.from_dict(colab_cell()))
        notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        (folder / "in.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
        command = [sys.executable, "-m", "papermill", str(folder / "in.ipynb"), str(folder / "out.ipynb")]
        command += ["--cwd", str(FOLDER), "--kernel", "python3", "--no-progress-bar", "--log-level", "ERROR"]
        environment = _environment(mode, folder)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise Failed(_reason(folder / "out.ipynb") or done.stderr.strip() or "its kernel or papermill was killed")
        if fingerprint(source, data_digest()) != made_from:
            raise Failed("its source or a record changed while it ran; run the same command again")
        notebook = nbformat.from_dict(json.loads((folder / "out.ipynb").read_text(encoding="utf-8")))
        seconds = notebook["metadata"]["papermill"]["duration"]
        loaded = dict(sorted(line.split("\t") for line in notes.read_text(encoding="utf-8").splitlines()))
        notebook["metadata"]["e2vit"] = {"fingerprint": made_from, "data": loaded}
        text = nbformat.writes(nbformat.from_dict(stable(json.loads(nbformat.writes(notebook, split_lines=False)))))
    versions = {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}
    entry = {"date": date.today().isoformat(), "seconds": round(seconds, 1), "mode": mode, "device": _device()}
    return text.rstrip("\n") + "\n", {**entry, "versions": versions, "data": loaded}


def _environment(mode: str, folder: Path) -> dict[str, str]:
    """Return the variables of a kernel that computes the same sums wherever it runs."""
    fixed = {
        "E2VIT_MODE": mode,
        "PYTHONHASHSEED": "0",
        "IPYTHONDIR": str(folder),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONWARNINGS": "ignore",
    }
    return {**os.environ, **fixed, **({"OMP_NUM_THREADS": "1"} if mode == "report" else {})}


def _reason(path: Path) -> str:
    """Return the error that stopped a notebook: the cell that raised it, and its last line."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else []:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                return f"{''.join(cell['source'])}\n→ {output['ename']}: {output['evalue']}"
    return ""


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores, no GPU"


def _write(path: Path, text: str) -> None:
    """Replace the file as a whole, so that a killed call leaves the old one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _note(name: str, entry: dict) -> None:
    log = {**(json.loads(LOG.read_text(encoding="utf-8")) if LOG.exists() else {}), name: entry}
    known = {source.stem for source in sources()}
    kept = {each: log[each] for each in sorted(log) if each in known}
    _write(LOG, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def _keep_picture(name: str, text: str) -> None:
    """Write the figure of a chapter that README.md shows too."""
    if name == "05_novel_hybrid":
        cells = json.loads(text)["cells"]
        (cell,) = (c for c in cells if c["metadata"].get("mystnb", {}).get("figure", {}).get("name") == "fig-results")
        picture = next(output["data"]["image/png"] for output in cell["outputs"] if "image/png" in output["data"])
        (ROOT / "book" / "_static" / "results.png").write_bytes(base64.b64decode(picture))


def _refresh_colab_cells() -> None:
    """Write the repository's address anew, which may change without any output changing: a fork has its own."""
    for path in (source.with_suffix(".ipynb") for source in sources()):
        if path.exists():
            notebook = json.loads(path.read_text(encoding="utf-8"))
            lines = colab_cell()["source"].splitlines(keepends=True)
            if notebook["cells"][0]["source"] != lines:
                notebook["cells"][0]["source"] = lines
                _write(path, json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks to execute; the stale ones when left out")
    parser.add_argument("--all", action="store_true", help="execute all")
    parser.add_argument("--check", action="store_true", help="execute nothing; fail when a notebook is stale")
    parser.add_argument("--mode", choices=("report", "train"), default="report", help="train: make missing records")
    options = parser.parse_args()
    known = {source.stem: source for source in sources()}
    if unknown := [name for name in options.names if name not in known]:
        print(f"no notebook is called {unknown[0]}; there are {', '.join(known)}", file=sys.stderr)
        return 1
    reasons = stale()
    if options.check:
        for name, reason in reasons.items():
            print(f"notebooks/{name}: {reason}; {MEND}", file=sys.stderr)
        return 1 if reasons else 0

    def attempt(name: str) -> tuple[str, dict]:
        print(f"executing notebooks/{name} ({reasons.get(name, 'as asked')})", flush=True)
        return execute(known[name], options.mode)

    failed = 0
    with ThreadPoolExecutor(1 if options.mode == "train" else min(2, os.cpu_count() or 1)) as pool:
        futures = {
            name: pool.submit(attempt, name) for name in options.names or list(known if options.all else reasons)
        }
        for name, future in futures.items():
            try:
                text, entry = future.result()
            except Failed as reason:
                print(f"notebooks/{name} failed; the page keeps its old form:\n{reason}", file=sys.stderr)
                failed = 1
                continue
            _write(known[name].with_suffix(".ipynb"), text)
            _note(name, entry)
            _keep_picture(name, text)
            print(f"notebooks/{name}: {entry['seconds']:.0f} s", flush=True)
    _refresh_colab_cells()
    return failed


if __name__ == "__main__":
    sys.exit(main())
