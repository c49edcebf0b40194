"""Serves _build/html on a local port: python book/tools/serve.py PORT."""

import functools
import http.server
import sys
from pathlib import Path

PAGES = Path(__file__).resolve().parents[2] / "_build" / "html"


class Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".mjs": "text/javascript",
        ".js": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *arguments):
        pass


def server(port: int, pages: Path = PAGES) -> http.server.ThreadingHTTPServer:
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Handler, directory=str(pages)))


def main(port: str) -> int:
    if not (PAGES / "index.html").exists():
        print("there is no book to serve yet; make book builds it", file=sys.stderr)
        return 1
    if not port.isdecimal() or int(port) > 65535:
        print(f"a port is a number up to 65535, not {port!r}", file=sys.stderr)
        return 1
    try:
        with server(int(port)) as serving:
            print(f"the book is at http://127.0.0.1:{serving.server_port}/ until Ctrl+C", flush=True)
            serving.serve_forever()
    except KeyboardInterrupt:
        return 0
    except OSError as reason:
        print(f"port {port} can't be used ({reason.strerror}); try another one: make serve PORT=8001", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or ["8000"])))
