"""The Locust web UI with the bundled workloads and one switch per optimization, on this machine only unless asked."""

from __future__ import annotations

import errno
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
    """Become Locust. `extra` goes to Locust as it is. Raises `UsageError` when address or port cannot be had."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        _try_to_listen(host, port)
    except (OSError, UnicodeError) as error:
        fault = "--port" if getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES) else "--host"
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen on {place}: {reason}; choose another with {fault}") from error
    load = ROOT / "scenarios" / "load"
    files = ",".join(str(load / f"{name}.py") for name in (*WORKLOADS, "web_guard", "web_form"))
    arguments = ["-m", "locust", "-f", files, "--class-picker", "--web-host", host, "--web-port", str(port)]
    arguments += ["--users", str(USERS), "--spawn-rate", str(USERS)]  # what the form suggests
    os.execv(sys.executable, [sys.executable, *arguments, *extra])


def _try_to_listen(host: str, port: int) -> None:
    """Raises `OSError` when it cannot be done, `UnicodeError` for what no name of a machine is."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found)  # IPv4 goes first, as for Locust
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
