"""The Locust web UI with the bundled workloads and one switch per optimization, on this machine only unless asked."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence

from harness.errors import UsageError
from harness.study.file import ROOT

WORKLOADS = (
    *("surge", "steady", "dial", "bulk", "contention", "distant"),
    *("churn", "flood", "outage", "mesh", "soak"),
)
"in the order of the form; the load shapes are Locust files of their own"
USERS = 32


def serve(host: str, port: int, extra: Sequence[str]) -> int:
    """Become Locust. `extra` goes to Locust as it is. Raises `UsageError` when the port cannot be had."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port") from error
    load = ROOT / "scenarios" / "load"
    files = ",".join(str(load / f"{name}.py") for name in (*WORKLOADS, "web_guard", "web_form"))
    arguments = ["-m", "locust", "-f", files, "--class-picker", "--web-host", host, "--web-port", str(port)]
    arguments += ["--users", str(USERS), "--spawn-rate", str(USERS)]  # what the form suggests
    sys.stderr.write(f"the web UI is at http://{host}:{port}  (Ctrl-C ends it)\n")
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *arguments, *extra])
