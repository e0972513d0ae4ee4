"""The load process: `python -m harness.execute.worker FD PARENT`, FD being its end of a socket pair with
the harness.

It dies with its parent: by the kernel's parent-death signal where there is one, set before the slow
imports, and by the end of the socket everywhere. What it does in between is in `orders.py`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread of `parent` that started it ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main(descriptor: int, parent: int) -> int:
    """Serve orders from `descriptor` until told to stop; returns the exit status."""
    die_with_parent(parent)
    import locust  # noqa: F401  # patches the standard library for gevent: before anything imports sockets

    from harness.execute.orders import serve

    return serve(descriptor)


if __name__ == "__main__":
    status = main(int(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads and greenlets of a Locust file must not delay the end
