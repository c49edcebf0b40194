"""The article as a PDF, and the whole book as another, without LaTeX: printed by headless Chromium."""

import functools
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRINTED = ROOT / "book" / "_static" / "vendor"  # not in git; the pages link to what is there
PAGES, WHOLE = ROOT / "_build" / "html", ROOT / "_build" / "singlehtml"
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def server(folder: Path) -> http.server.ThreadingHTTPServer:
    """Return a server of the folder on a free local port."""
    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))


def browser() -> str | None:
    """The first browser of Chromium's family that is installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def main() -> int:
    if (chromium := browser()) is None:
        print("Chromium is missing, and it prints the PDF; Debian: apt install chromium", file=sys.stderr)
        return 1
    build = [
        str(Path(sys.executable).with_name("jupyter-book")),
        "build",
        str(ROOT),
        "--builder",
        "singlehtml",
        "-W",
        "-n",
        "--keep-going",
        "--quiet",
    ]
    if code := subprocess.run(build).returncode:
        return code
    shutil.copy(WHOLE / "book" / "intro.html", WHOLE / "whole.html")  # its links start at the top folder
    PRINTED.mkdir(parents=True, exist_ok=True)
    for folder, page, name in ((PAGES, "book/intro.html", "article.pdf"), (WHOLE, "whole.html", "book.pdf")):
        if reason := printed(chromium, folder, page, PRINTED / name):
            print(f"Chromium did not print {name}: {reason}", file=sys.stderr)
            return 1
        size = (PRINTED / name).stat().st_size / 2**20
        print(f"the PDF is there: {(PRINTED / name).relative_to(ROOT)}, {size:.1f} MB")
    return 0


def printed(chromium: str, folder: Path, page: str, target: Path) -> str:
    """Print a page that is served from the folder. Returns what went wrong, or nothing."""
    with server(folder) as serving, tempfile.TemporaryDirectory() as profile:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        command = [
            chromium,
            *QUIET,
            f"--user-data-dir={profile}",
            "--virtual-time-budget=30000",
            "--no-pdf-header-footer",
            f"--print-to-pdf={target}",
            f"http://127.0.0.1:{serving.server_port}/{page}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        serving.shutdown()
    return "" if done.returncode == 0 and target.exists() else " ".join(done.stderr.strip().splitlines()[-1:])


if __name__ == "__main__":
    sys.exit(main())
