"""What is read of processes from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness.measure.probes import memory, published
from tests.ports import held

linux = pytest.mark.skipif(sys.platform != "linux", reason="zombies and their files are Linux's here")


@pytest.fixture
def zombie() -> Iterator[int]:
    """A process that has ended and that nobody has waited for."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    yield child.pid
    child.wait()


@linux
def test_a_child_that_has_ended_counts_no_more_and_a_root_that_has_is_an_error(zombie: int) -> None:
    assert memory((os.getpid(), zombie)).descriptors == memory((os.getpid(),)).descriptors
    with pytest.raises(ProcessLookupError, match=f"process {zombie} is gone"):
        memory((zombie, os.getpid()))


@pytest.mark.parametrize(
    ("page", "found"),
    [
        (b'# TYPE a gauge\na 1\n# TYPE b_total counter\nb_total{x="y"} 2\n', {"a": 1.0, "b_total{x=y}": 2.0}),
        (b"<html>no metrics here</html>", {}),
        (b"\xff\xfe", {}),
    ],
)
def test_a_page_that_holds_no_metrics_is_no_error(page: bytes, found: dict[str, float]) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            assert published(f"http://127.0.0.1:{server.server_port}/") == found
        finally:
            server.shutdown()
            serving.join()


def test_nor_is_a_page_that_nobody_serves() -> None:
    with held() as port:
        assert published(f"http://127.0.0.1:{port}/") == {}
