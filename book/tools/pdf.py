"""The whole book as one PDF without LaTeX: one long page, printed by headless Chromium."""

import functools
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PDF = ROOT / "book" / "_static" / "vendor" / "book.pdf"  # not in git; the pages link to it when it is there
PAGE = ROOT / "_build" / "singlehtml"
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
    PDF.parent.mkdir(parents=True, exist_ok=True)
    with server(PAGE) as serving, tempfile.TemporaryDirectory() as profile:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        shutil.copy(PAGE / "book" / "intro.html", PAGE / "whole.html")  # its links start at the top folder
        command = [
            chromium,
            *QUIET,
            f"--user-data-dir={profile}",
            "--virtual-time-budget=30000",
            "--no-pdf-header-footer",
            f"--print-to-pdf={PDF}",
            f"http://127.0.0.1:{serving.server_port}/whole.html",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        serving.shutdown()
    if done.returncode or not PDF.exists():
        print(f"Chromium did not print the book: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return 1
    print(f"the PDF is there: {PDF.relative_to(ROOT)}, {PDF.stat().st_size / 2**20:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
