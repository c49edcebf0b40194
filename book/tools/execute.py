"""Executes the notebooks whose source or records changed, and writes notebooks/NAME.ipynb in its stable form.

python book/tools/execute.py [--check | --all] [--mode report|train] [NAME…]
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path
from threading import Lock

import jupytext
import nbformat
from pairs import FOLDER, MEND, ROOT, colab_cell, fingerprint, is_data, library, sources, stale
from stable import stable

LOG = FOLDER / "execution.json"  # name → when, where and how long; the page on the execution shows it
VERSIONS = ("e2vit", "torch", "torchvision", "numpy", "matplotlib", "papermill")


class Failed(Exception):
    """A notebook that did not run to its end, with what it said."""


def execute(source: Path, mode: str) -> tuple[str, dict]:
    """The text of the executed notebook and its entry in the log."""
    with tempfile.TemporaryDirectory(prefix="e2vit-") as temporary:
        folder = Path(temporary)
        startup = folder / "profile_default" / "startup"
        startup.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("watch_kernel.py"), startup / "00-watch.py")
        before = source.read_bytes()
        notebook = jupytext.reads(before.decode(), fmt="py:percent")
        notebook.cells.insert(0, nbformat.from_dict(colab_cell()))
        notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        (folder / "in.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "papermill",
            str(folder / "in.ipynb"),
            str(folder / "out.ipynb"),
            "--cwd",
            str(FOLDER),
            "--kernel",
            "python3",
            "--no-progress-bar",
            "--log-level",
            "ERROR",
        ]
        done = subprocess.run(
            command, env=_environment(mode, folder), capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip() and "IPKernelApp" not in line]
            raise Failed(_reason(folder / "out.ipynb") or "\n".join(said) or "its kernel or papermill was killed")
        if source.read_bytes() != before:
            raise Failed("its source changed while it ran; the same command runs it again")
        notebook = nbformat.from_dict(json.loads((folder / "out.ipynb").read_text(encoding="utf-8")))
        seconds = notebook["metadata"]["papermill"]["duration"]
        reads, loaded = _notes(folder / "notes")
        notebook["metadata"]["e2vit"] = {"fingerprint": fingerprint(source, reads), "reads": reads, "data": loaded}
        text = nbformat.writes(nbformat.from_dict(stable(json.loads(nbformat.writes(notebook, split_lines=False)))))
    entry = {
        "date": date.today().isoformat(),
        "seconds": round(seconds, 1),
        "mode": mode,
        "device": _device(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
        "data": loaded,
        "library": library(),
    }
    return text.rstrip("\n") + "\n", entry


def _environment(mode: str, folder: Path) -> dict[str, str]:
    """A kernel that finds its mode, writes its notes, and computes the same sums wherever it runs."""
    fixed = {
        "E2VIT_MODE": mode,
        "E2VIT_ROOT": str(ROOT),
        "E2VIT_NOTES": str(folder / "notes"),
        "PYTHONHASHSEED": "0",
        "IPYTHONDIR": str(folder),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONWARNINGS": "ignore",
    }
    if mode == "report":
        fixed["OMP_NUM_THREADS"] = "1"
    return {**os.environ, **fixed}


def _reason(path: Path) -> str:
    """The error that stopped a notebook: the cell that raised it, and its last line."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else []:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                return f"{''.join(cell['source'])}\n→ {output['ename']}: {output['evalue']}"
    return ""


def _notes(path: Path) -> tuple[list[str], dict[str, str]]:
    """The committed data files and folders that the kernel read, and the data sets it loaded with their origin."""
    reads, loaded = set(), {}
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, *rest = line.split("\t")
        if kind == "load":
            loaded[rest[0]] = rest[1]
        elif kind == "file" and is_data(Path(rest[0])):
            reads.add(Path(rest[0]).relative_to(ROOT).as_posix())
        elif kind == "folder" and ROOT / "data" / "raw" not in (Path(rest[0]), *Path(rest[0]).parents):
            reads.add(Path(rest[0]).relative_to(ROOT).as_posix() + "/")
    return sorted(reads), dict(sorted(loaded.items()))


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores, no GPU"


def _write(path: Path, text: str) -> None:
    """The file is the old or the new one, whole, at every moment; what a killed call left beside it is removed."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _log() -> dict[str, dict]:
    return json.loads(LOG.read_text(encoding="utf-8")) if LOG.exists() else {}


def _refresh_colab_cells() -> None:
    """The repository's address may change without any output changing: a fork has its own."""
    for source in sources():
        path = source.with_suffix(".ipynb")
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
    if not options.check:
        for half in FOLDER.glob(".*.tmp"):  # of a call that was killed
            half.unlink()
    if options.check:
        for name, reason in reasons.items():
            print(f"notebooks/{name}: {reason}; {MEND}", file=sys.stderr)
        return 1 if reasons else 0
    wanted = options.names or list(known if options.all else reasons)
    failed = 0
    lock = Lock()

    def attempt(name: str) -> None:
        nonlocal failed
        print(f"executing notebooks/{name} ({reasons.get(name, 'as asked')})", flush=True)
        try:
            text, entry = execute(known[name], options.mode)
        except Failed as reason:
            failed = 1
            print(f"notebooks/{name} did not run to its end; the page keeps its old form:\n{reason}", file=sys.stderr)
            return
        with lock:  # at once, so that a call that is killed later has kept both
            _write(known[name].with_suffix(".ipynb"), text)
            log = {**_log(), name: entry}
            _write(
                LOG,
                json.dumps({name: log[name] for name in sorted(log) if name in known}, indent=1, ensure_ascii=False)
                + "\n",
            )
        images = ", ".join(f"{data} {origin}" for data, origin in entry["data"].items())
        print(f"notebooks/{name}: {entry['seconds']:.0f} s{images and f'; {images}'}", flush=True)

    with ThreadPoolExecutor(1 if options.mode == "train" else min(2, os.cpu_count() or 1)) as pool:
        list(pool.map(attempt, wanted))
    _refresh_colab_cells()
    log = _log()
    older = [name for name in known if name in log and log[name]["library"] != library()]
    if older:
        print(f"the library changed since these were executed: {', '.join(older)}; make notebooks executes all again")
    return failed


if __name__ == "__main__":
    sys.exit(main())
