"""The built pages and the commands around them: links, sizes, banners, bad input in one sentence each."""

import ast
import html.parser
import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.parse
from pathlib import Path

import execute
import pytest
import reference
import yaml

import e2vit
from conftest import ROOT, build, require

LARGEST_PAGE = 1.5 * 2**20
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


class Links(html.parser.HTMLParser):
    """Where a page leads, and the anchors it offers."""

    def __init__(self, path: Path):
        super().__init__()
        self.leads, self.anchors = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes.get(key) for key in ("id", "name")}
        self.leads += [attributes[key] for key in ("href", "src") if attributes.get(key)]


def broken_links(pages: Path) -> list[str]:
    """Links within the book that lead to no file or no anchor."""
    read = {path: Links(path) for path in pages.rglob("*.html") if "_static" not in path.parts}
    found = []
    for path, links in read.items():
        for link in links.leads:
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            if not target.exists():
                found.append(f"{path.relative_to(pages)} → {link}")
            elif target in read and url.fragment and urllib.parse.unquote(url.fragment) not in read[target].anchors:
                found.append(f"{path.relative_to(pages)} → {link}")
    return found


def test_no_link_within_the_book_is_broken(built):
    assert broken_links(built) == []


def test_a_broken_link_is_seen(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html">no</a><a href="#x">no</a><a href="#y" id="y">yes</a>')
    assert broken_links(tmp_path) == ["a.html → b.html", "a.html → #x"]


def test_pages_are_light(built):
    sizes = {path.name: path.stat().st_size for path in built.rglob("*.html") if "_static" not in path.parts}
    assert {name: size for name, size in sizes.items() if size > LARGEST_PAGE} == {}


def test_a_page_shows_its_text_before_it_runs_scripts(built):
    """Only two small scripts, which later ones need at once, hold up the first paint; widgets need a kernel anyway."""
    for path in [*built.glob("book/*.html"), *built.glob("notebooks/*.html")]:
        head = path.read_text(encoding="utf-8").partition("</head>")[0]
        blocking = [
            re.search(r'src="([^"?]*)', tag)[1]
            for tag in re.findall(r"<script[^>]*src=[^>]*>", head)
            if "defer" not in tag
        ]
        assert [name.rpartition("/")[2] for name in blocking] == ["documentation_options.js", "doctools.js"], path.name
        assert "jupyter.widget" not in head and "fontawesome.js" not in head and len(head) < 10_000, path.name
        assert head.count(".css") == 1, path.name
        assert (
            len(max(re.findall(r"data:image/png[^\"']*", path.read_text(encoding="utf-8")), key=len, default=""))
            < 16_100
        )


def test_what_a_style_sheet_asks_for_is_there(built):
    sheets = {path for path in (built / "_static" / "styles").glob("*.css") if len(path.stem) == 16}
    assert sheets
    for sheet in sheets:
        rules = sheet.read_text(encoding="utf-8")
        asked = re.findall(r"url\((?!data:|['\"]data:)['\"]?([^'\")?#]+)", rules)
        assert asked and "@import" not in rules and not [name for name in asked if not (sheet.parent / name).exists()]


def test_a_deeper_section_is_folded_on_its_page_and_open_on_paper(built):
    total = 0
    for source in execute.sources():
        marked = len(re.findall(r"^# ##+ Deeper: ", source.read_text(encoding="utf-8"), re.MULTILINE))
        page = (built / "notebooks" / f"{source.stem}.html").read_text(encoding="utf-8")
        assert page.count('<details class="deeper"><summary>') == marked
        total += marked
        assert page.count("<details") == page.count("</details>")
    assert total > 10
    paper = ROOT / "_build" / "singlehtml" / "book" / "intro.html"
    if paper.exists():
        assert '<details class="deeper">' not in paper.read_text(encoding="utf-8")


def test_a_notebooks_page_opens_on_colab_and_hides_the_first_cell(built):
    for source in execute.sources():
        page = (built / "notebooks" / f"{source.stem}.html").read_text(encoding="utf-8")
        address = execute.address().removeprefix("https://github.com/")
        assert f"colab.research.google.com/github/{address}/blob/main/notebooks/{source.stem}.ipynb" in page
        assert "google.colab" not in page


def test_a_notebook_can_be_taken_along(built):
    """The button that downloads leads to the executed notebook itself."""
    for source in execute.sources():
        page = built / "notebooks" / f"{source.stem}.html"
        (lead,) = {link for link in Links(page).leads if link.endswith(".ipynb") and "://" not in link}
        assert json.loads((page.parent / lead).read_text(encoding="utf-8"))["nbformat"] == 4


def test_the_page_on_the_execution_tells_when_where_and_how_long(built):
    text = re.sub(r"<[^>]+>", " ", (built / "book" / "execution.html").read_text(encoding="utf-8"))
    log = json.loads((ROOT / "notebooks" / "execution.json").read_text(encoding="utf-8"))
    assert set(log) == {source.stem for source in execute.sources()}
    for name, entry in log.items():
        row = text[text.rindex(name) :]
        assert row.index(entry["date"]) < row.index(entry["device"]) < row.index(entry["versions"]["torch"])


@pytest.fixture(scope="session")
def small_book(tmp_path_factory) -> Path:
    """A book of one page and one notebook, executed with stand-in images."""
    root = tmp_path_factory.mktemp("small")
    for name in ("_config.yml", "book/_ext", "book/tools", "book/_static/book.css", "book/_static/favicon.svg"):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/intro\nchapters:\n- file: notebooks/01_small\n")
    (root / "book" / "intro.md").write_text("# A small book\n")
    (root / "book" / "references.bib").write_text("")
    source = root / "notebooks" / "01_small.py"
    source.parent.mkdir()
    source.write_text("# %% [markdown]\n# # Small\n")
    made = {
        "fingerprint": execute.fingerprint(source, execute.data_digest(root)),
        "data": {"rotmnist": "rebuilt from embedded digits"},
    }
    metadata = {"e2vit": made, "kernelspec": {"name": "python3", "display_name": "Python 3"}}
    cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Small"}]
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    source.with_suffix(".ipynb").write_text(json.dumps(notebook))
    return root


def test_a_page_says_when_its_images_stand_in_and_scripts_come_from_afar(small_book, tmp_path):
    done = build(tmp_path, root=small_book)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "_build" / "html" / "notebooks" / "01_small.html").read_text(encoding="utf-8")
    assert "stand in for the real ones" in page and "rebuilt from embedded digits" in page
    assert "_static/vendor" not in page and "sphinx-thebe.js" not in page and "THEBE" not in page


def test_the_pages_link_to_the_pdf_once_it_was_printed(small_book, tmp_path):
    copy = shutil.copytree(small_book, tmp_path / "book")
    printed = copy / "book" / "_static" / "vendor" / "book.pdf"
    printed.parent.mkdir(parents=True)
    printed.write_bytes(b"%PDF-1.4")
    assert build(tmp_path, root=copy).returncode == 0
    page = tmp_path / "_build" / "html" / "notebooks" / "01_small.html"
    (lead,) = [link for link in Links(page).leads if "book.pdf" in link]
    assert (page.parent / urllib.parse.urlsplit(lead).path).read_bytes() == b"%PDF-1.4"


def test_a_notebook_that_was_not_executed_stops_the_build(small_book, tmp_path):
    changed = shutil.copytree(small_book, tmp_path / "book")
    with (changed / "notebooks" / "01_small.py").open("a") as file:
        file.write("# More.\n")
    done = build(tmp_path / "out", root=changed)
    assert done.returncode != 0
    assert "notebooks/01_small: its source or a record changed" in done.stderr + done.stdout
    assert execute.MEND in done.stderr + done.stdout


@pytest.mark.parametrize("refuse", [False, True])
def test_without_npm_a_notice(tmp_path, refuse):
    (tmp_path / "npm").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    (tmp_path / "book").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "E2VIT_REQUIRE_ALL": "1" if refuse else ""}
    done = subprocess.run(["make", "-s", "scripts"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode != 0) == refuse and "npm is missing" in done.stderr


def test_a_port_that_is_taken():
    """One line, without a trace; make prints a second one."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        command = ["make", "-s", "--no-print-directory", "serve-built", f"PORT={other.getsockname()[1]}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode and "Address already in use" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_valid_and_needs_no_secret(path):
    text = path.read_text(encoding="utf-8")
    workflow = yaml.load(text, yaml.BaseLoader)  # the base loader leaves the key "on" a word
    assert set(workflow) <= {"name", "on", "permissions", "concurrency", "jobs", "env", "defaults"}
    assert {"on", "jobs", "permissions"} <= set(workflow) and "secrets." not in text
    assert set(workflow["on"]) <= {"push", "pull_request", "schedule", "workflow_dispatch"}
    for name, job in workflow["jobs"].items():
        assert {"runs-on", "steps"} <= set(job), name
        assert set(job.get("needs", "").split()) <= set(workflow["jobs"])
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1")), step
            for script in re.findall(r"^[.\w-]*/[\w./-]+", step.get("run", ""), re.MULTILINE):
                assert os.access(ROOT / script, os.X_OK), script
            for target in re.findall(r"\bmake (\w+)", step.get("run", "")):
                assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_citation_file_is_complete():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(citation)
    assert all("name" in author or "family-names" in author for author in citation["authors"])
    assert citation["version"] == e2vit.__version__


def test_the_readme_names_commands_that_exist():
    readme, makefile = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "Makefile"))
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    assert {"book", "test"} <= set(re.findall(r"(?m)(?:^ +|`)make (\w+)", readme)) <= targets
    assert readme.count("<!-- headline:begin -->") == readme.count("<!-- headline:end -->") == 1
    for link in re.findall(r"\]\((?!https?://|#|\.\./\.\./actions/)([^)#]+)", readme):
        assert (ROOT / link).exists(), link


def test_scripts_are_sound():
    assert subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")]).returncode == 0
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    for target in re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE):
        assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True).returncode == 0, target


@pytest.mark.soak
def test_the_article_and_the_whole_book_print(small_book, tmp_path):
    from pdf import browser

    require(browser() is not None, "Chromium")
    copy = shutil.copytree(small_book, tmp_path / "book")
    assert build(copy, root=copy).returncode == 0
    command = [sys.executable, str(copy / "book" / "tools" / "pdf.py")]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
    assert done.returncode == 0, done.stderr
    for name in ("article.pdf", "book.pdf"):
        assert (copy / "book" / "_static" / "vendor" / name).read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("room", reference.ROOMS)
def test_the_reference_lists_every_public_name_with_a_docstring(room):
    module = importlib.import_module(f"e2vit.{room}")
    source = ROOT / "src"
    found = {
        name: definition for name, definition, _ in reference.public(source, reference.file_of(source, module.__name__))
    }
    exported = {name for name in getattr(module, "__all__", found) if callable(getattr(module, name))}
    assert found and exported <= set(found)
    mute = [name for name, definition in found.items() if not ast.get_docstring(definition)]
    assert [name for name in mute if not name.endswith("Config")] == [], "fields of configurations have comments"
