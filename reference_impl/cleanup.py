"""Room 2, cleanup. (docstring: laws of the room)"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

# STUB - interface agreed with dialer and node; keep these names.


class Closable(Protocol):
    def close(self) -> None: ...


class Guard(Protocol):
    """Owns one connection's resource from birth to release.

    `with guard: body` - leaving the block through an exception releases (on: any BaseException; off: what first-day
    code catches); leaving it normally keeps it owned. The same guard is entered many times: once around the
    handshake, then around each use. `release()` closes the resource and calls both hooks; exactly once on the on side.
    """

    id: int

    def release(self) -> None: ...
    def __enter__(self) -> Guard: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None: ...


class Cleanup(Protocol):
    """Makes guards and is the transport manager's registry of open connections."""

    def guard(self, resource: Closable) -> Guard: ...
    def open_connections(self) -> int: ...
    def sweep(self) -> int:
        """Finish releases that a finalizer (garbage collection) deferred. Called by the node's timer and the dialer's pool sweep."""
    def close(self) -> None:
        """Release whatever is still registered."""
    def gauges(self) -> dict[str, float]: ...


# Constructor of both twins: Twin(on_close: Callable[[int], None], on_connection_closed: Callable[[int], None])
# (the metrics' hook and the manager's hook of the plan; each gets the guard's id)
# CLEANUP: Switch[Cleanup] = Switch("cleanup", off=ExplicitClose, on=GuardedClose)
