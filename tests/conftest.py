"""What the tests of the book share: the book built once, a browser, and a loud word on what was not run."""

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import jaxtyping
import pytest
import torch
from einops import rearrange

from e2vit.groups import FiniteGroup, from_matrices

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "book" / folder) for folder in ("tools", "_ext")]
NOT_RUN = "not run: "


def require(present: bool, what: str) -> None:
    """Skips a test or a file, loudly, when something of the machine is missing; fails when nothing may be skipped."""
    if not present:
        if os.environ.get("E2VIT_REQUIRE_ALL"):
            pytest.fail(f"{what} is missing, and E2VIT_REQUIRE_ALL forbids to skip")
        pytest.skip(f"{NOT_RUN}{what} is missing", allow_module_level=True)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@contextmanager
def untyped():
    """Without the checks of jaxtyping, which run under test only: what users see of a wrong argument."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def relabeled(group: FiniteGroup, seed: int) -> FiniteGroup:
    """The same group with its elements numbered at random, the identity first."""
    order = 1 + torch.randperm(group.order - 1, generator=torch.Generator().manual_seed(seed))
    return from_matrices(f"{group} relabeled", group.matrices[[0, *order.tolist()]])


def conjugated(group: FiniteGroup, degrees: float) -> FiniteGroup:
    """The group seen from turned axes: its mirrors lie along other lines."""
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    return from_matrices(f"{group} turned by {degrees:g}", turn @ group.matrices @ turn.T)


def on_maps(layer, side: int):
    """A layer on tokens (batch, pose, token, d) as a layer on lifted maps."""

    def f(x):
        tokens = rearrange(x, "batch d pose row column -> batch pose (row column) d")
        return rearrange(layer(tokens), "batch pose (row column) d -> batch d pose row column", row=side)

    return f


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if "built" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("book"))  # one worker builds the book, once


def pytest_terminal_summary(terminalreporter):
    reasons = [
        report.longrepr[2]
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and NOT_RUN in report.longrepr[2]
    ]
    for reason in sorted(set(reasons)):
        count = reasons.count(reason)
        terminalreporter.write_line(f"{count} TESTS WERE NOT RUN: {reason.split(NOT_RUN)[1]}", red=True, bold=True)


def build(output: Path, root: Path = ROOT) -> subprocess.CompletedProcess:
    """The book built from its executed notebooks, as make does it."""
    run = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    options = ["--path-output", str(output), *"--all -W -n --keep-going --quiet".split()]
    command = [sys.executable, "-c", run, "build", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """The folder with the pages of the book."""
    output = tmp_path_factory.mktemp("book")
    done = build(output)
    assert done.returncode == 0, f"the book does not build:\n{done.stderr[-3000:]}"
    return output / "_build" / "html"


@pytest.fixture(scope="session")
def site(built) -> str:
    """The address at which the built pages are served."""
    from pdf import server

    with server(built) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


@pytest.fixture(scope="session")
def browser(built, tmp_path_factory):
    """Headless Chromium from the system, with the log of its console and of its requests."""
    from pdf import QUIET
    from pdf import browser as installed

    chromium, driver = installed(), shutil.which("chromedriver")
    require(bool(chromium and driver), "Chromium with its driver")
    require(importlib.util.find_spec("selenium") is not None, "the package selenium")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*QUIET, f"--user-data-dir={profile}", "--window-size=1280,900", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    window.set_script_timeout(180)
    yield window
    window.quit()


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, which finds what keeps people from reading a page."""
    script = ROOT / "book" / "node_modules" / "axe-core" / "axe.min.js"
    require(script.exists(), "npm, and so axe-core,")
    return script.read_text(encoding="utf-8")
