"""Ports that nobody else gets while a test speaks of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held(port: int = 0) -> Iterator[int]:
    """A port of loopback that is bound and not listened on: connections are refused, and the kernel gives it to nobody.

    Who asks for it by number and says SO_REUSEADDR, as servers do, can listen on it meanwhile.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        yield int(holder.getsockname()[1])
