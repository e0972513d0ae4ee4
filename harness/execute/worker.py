"""The load process: `python -m harness.execute.worker FD PARENT`, FD being its end of a socket pair with
the harness.

It dies with its parent: by the kernel's parent-death signal where there is one, set before the slow
imports, and by the end of the socket everywhere. What it does in between is in `orders.py`.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from harness.lifeline import die_with_parent


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import a lot in little time: no garbage collection meanwhile, and entry points are read once.

    gevent looks for plugins at each of 25 steps of its patching, and each look opens a file of every installed package:
    a quarter of the time that importing Locust takes.
    """
    every, look = metadata.entry_points(), metadata.entry_points

    def look_again(**wanted: Any) -> Any:
        return every.select(**wanted)

    metadata.entry_points = look_again
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        metadata.entry_points = look


def main(descriptor: int, parent: int) -> int:
    """Serve orders from `descriptor` until told to stop; returns the exit status."""
    die_with_parent(parent)
    with quick_imports():
        import locust  # noqa: F401  # patches the standard library for gevent: before anything imports sockets

        from harness.execute.orders import serve

    return serve(descriptor)


if __name__ == "__main__":
    status = main(int(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads and greenlets of a Locust file must not delay the end
