"""A small page service, standing for a program of your own: it renders tables, and has two optimizations to switch.

`--cache` keeps rendered pages; GZIP=1 in the environment compresses what is sent. It knows nothing of synapsed-bench.
"""

from __future__ import annotations

import argparse
import gzip
import os
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROWS = 1_000


def render(number: int) -> bytes:
    """Page `number` as HTML: a table of multiples."""
    rows = (f"<tr><td>{row}</td><td>{row * number:,}</td><td>{row / (number + 1):.3f}</td></tr>" for row in range(ROWS))
    return f"<table>{''.join(rows)}</table>".encode()


class Handler(BaseHTTPRequestHandler):
    """Answers /N with page N, and anything else with an empty page."""

    protocol_version = "HTTP/1.1"  # connections stay open
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together
    render = staticmethod(render)
    compress = False

    def do_GET(self) -> None:
        name = self.path.strip("/")
        body = self.render(int(name)) if name.isdigit() else b""
        self.send_response(200)
        if self.compress:
            body = gzip.compress(body)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """A line per request would be a good part of the work."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cache", action="store_true")
    arguments = parser.parse_args()
    if arguments.cache:
        Handler.render = staticmethod(lru_cache(maxsize=100)(render))
    Handler.compress = os.environ.get("GZIP") == "1"
    ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler).serve_forever()
