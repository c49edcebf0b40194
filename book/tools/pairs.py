"""The notebooks as files: source and executed pair, and what makes a pair stale.

notebooks/NAME.py is the source. notebooks/NAME.ipynb is its execution, written by execute.py alone: a first cell for
Colab, then the cells of the source with their outputs. Its metadata ``e2vit`` says what it was made from. This module
needs nothing but the standard library: the book builds from executed notebooks without torch.
"""

import hashlib
import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
MEND = "make book executes what changed"

COLAB = """\
import importlib.util, subprocess, sys    # for Colab alone: fetch the library of this book
if "google.colab" in sys.modules and importlib.util.find_spec("e2vit") is None:
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", "{address}", "the-book"], check=True)
    sys.path.insert(0, "the-book/src")"""


def sources(root: Path = ROOT) -> list[Path]:
    return sorted((root / "notebooks").glob("[0-9]*.py"))


def address(root: Path = ROOT) -> str:
    """The repository's web address: the git remote "origin" when it is on GitHub, else the one in _config.yml.

    Names and passwords that a remote may carry are left out.
    """
    command = ["git", "-C", str(root), "config", "--get", "remote.origin.url"]
    try:
        remote = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        remote = ""
    if found := re.fullmatch(r"(?:https://|ssh://)?(?:[^@/]*@)?github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?", remote):
        return f"https://github.com/{found[1]}"
    return re.search(r"^ *url *: *(\S+)", (root / "_config.yml").read_text(encoding="utf-8"), re.MULTILINE)[1]


def fingerprint(source: Path, reads: list[str], root: Path = ROOT) -> str:
    """sha256 of a source and of the committed data files it reads; a name that ends in / stands for a folder's list."""
    digest = hashlib.sha256(source.read_bytes())
    for name in reads:
        path = root / name
        if name.endswith("/"):
            content = "\n".join(sorted(p.name for p in path.glob("*") if is_data(p, root))).encode()
        else:
            content = path.read_bytes() if path.is_file() else b"absent"
        digest.update(f"\0{name}\0{hashlib.sha256(content).hexdigest()}".encode())
    return digest.hexdigest()


def is_data(path: Path, root: Path = ROOT) -> bool:
    """Whether a path is a committed data file that decides a notebook's output (checkpoints are named in records)."""
    data = root / "data"
    return data in path.parents and data / "raw" not in path.parents and path.suffix in (".json", ".csv", ".npz")


def stale(root: Path = ROOT) -> dict[str, str]:
    """Name → reason, for every source whose executed notebook is missing or was made from something else."""
    reasons = {}
    for source in sources(root):
        executed = source.with_suffix(".ipynb")
        try:
            made = json.loads(executed.read_text(encoding="utf-8"))["metadata"]["e2vit"]
            if made["fingerprint"] != fingerprint(source, made["reads"], root):
                reasons[source.stem] = "its source or a record it reads changed since it was executed"
        except FileNotFoundError:
            reasons[source.stem] = "it was never executed"
        except (ValueError, KeyError, TypeError):
            reasons[source.stem] = f"{executed.name} was not written by make book"
    return reasons


def library(root: Path = ROOT) -> str:
    """sha256 of the library's source, to tell whether notebooks were executed with the library as it is."""
    digest = hashlib.sha256()
    for path in sorted((root / "src").rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def colab_cell(root: Path = ROOT) -> dict:
    """The first cell of every executed notebook; the book leaves it out."""
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": "colab",
        "metadata": {"tags": ["remove-cell"]},
        "outputs": [],
        "source": COLAB.format(address=address(root)),
    }
