"""Room 2, cleanup: a connection's resource is released exactly once, however its use ends.

Laws of the on side. (1) Whoever deletes the guard's id from the registry owns the release; `del` on a dict
is one step that no other thread, greenlet or signal handler can split. (2) The owner runs close and both
hooks to the end whatever each of them raises, and though one signal falls between two of them. (3) A finalizer
only queues and `sweep` does the work, because a garbage collection may strike inside any lock and any I/O.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Protocol

from reference_impl import forks
from reference_impl.optimizations import Switch

_log = logging.getLogger(__name__)

Hook = Callable[[int], object]
Report = Callable[[str, int, Exception], object]


class Closable(Protocol):
    """A resource; closing it twice must be harmless, as it is for sockets."""

    def close(self) -> object: ...


class Guard(Protocol):
    """Owns one connection's resource from birth to release.

    `with guard: body` - leaving the block through an exception releases (on: any BaseException; off: what
    first-day code catches); leaving it normally keeps it owned. The same guard is entered many times: once
    around the handshake, then around each use. `release()` closes the resource and calls both hooks; a second
    call does nothing.
    """

    id: int

    @property
    def released(self) -> bool:
        """Whether the release has begun: what a twin does not release, its owner must not give back either."""

    def release(self) -> None: ...
    def __enter__(self) -> Guard: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...


class Cleanup(Protocol):
    """Makes guards and is the transport manager's registry of open connections."""

    def guard(self, resource: Closable) -> Guard:
        """Register `resource`. It must not refer to its guard: the registry would keep both alive."""

    def open_connections(self) -> int:
        """Connections registered and not yet released."""

    def sweep(self) -> int:
        """Finish the releases that finalizers deferred; how many. For a timer, or the pool's sweep."""

    def close(self) -> None:
        """Release whatever is still registered."""

    def gauges(self) -> dict[str, float]:
        """open: registered; deferred: queued by finalizers; finalized: finished by `sweep`; close_errors and
        hook_errors: what close and hooks raised since the start."""


class ExplicitClose:
    """Off: what a competent developer writes on the first day.

    A dict of open connections, close() at the end and after an `OSError`. It leaks where such code does: on
    cancellation and other BaseExceptions, on errors that are not I/O errors, and when a hook raises.
    """

    def __init__(self, on_close: Hook, on_connection_closed: Hook) -> None:
        self._on_close = on_close
        self._on_connection_closed = on_connection_closed
        self._ids = itertools.count(1)
        self._open: dict[int, _ExplicitGuard] = {}
        forks.join(self)

    def guard(self, resource: Closable) -> _ExplicitGuard:
        guard = _ExplicitGuard(next(self._ids), resource, self)
        self._open[guard.id] = guard
        return guard

    def open_connections(self) -> int:
        return len(self._open)

    def sweep(self) -> int:
        """Nothing is ever deferred: 0."""
        return 0

    def close(self) -> None:
        for guard in list(self._open.values()):
            guard.release()

    def gauges(self) -> dict[str, float]:
        return {"open": len(self._open), "deferred": 0, "finalized": 0, "close_errors": 0, "hook_errors": 0}

    def after_fork(self) -> None:
        self._open.clear()

    def _released(self, guard_id: int) -> None:
        self._on_close(guard_id)
        self._on_connection_closed(guard_id)
        self._open.pop(guard_id, None)


class _ExplicitGuard:
    __slots__ = ("_closed", "_manager", "_resource", "id")

    def __init__(self, guard_id: int, resource: Closable, manager: ExplicitClose) -> None:
        self.id = guard_id
        self._resource = resource
        self._manager = manager
        self._closed = False

    @property
    def released(self) -> bool:
        return self._closed

    def release(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._resource.close()
        except OSError:
            _log.debug("closing connection %d failed", self.id, exc_info=True)
        self._manager._released(self.id)

    def __enter__(self) -> _ExplicitGuard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(error, OSError):
            self.release()


_CLOSE, _ON_CLOSE, _ON_CONNECTION_CLOSED = range(3)
_STEPS = ("close", "on_close", "on_connection_closed")
# What is still to be run when a step has raised, from the end. A close is tried once more: a cancellation that lands
# in the middle of it must not cost a descriptor. A hook is not: it has been called.
_REST = ((_ON_CONNECTION_CLOSED, _ON_CLOSE, _CLOSE), (_ON_CONNECTION_CLOSED,), ())


def log_failure(step: str, guard_id: int, error: Exception) -> None:
    """The default report: one warning per failed step, with its traceback."""
    _log.warning("%s failed while releasing connection %d", step, guard_id, exc_info=error)


class GuardedClose:
    """On: exactly once on success, error, cancellation, GreenletExit, KeyboardInterrupt, garbage collection.

    An `Exception` of close or of a hook is counted and handed to `report`, never raised: a release runs
    inside other people's `finally`, where an error of its own would replace theirs; one of `report` is logged. Any
    other BaseException is raised again once every step has run. In a forked child all inherited guards are dead:
    the connections are the parent's, and neither close nor hook runs for them.
    """

    def __init__(self, on_close: Hook, on_connection_closed: Hook, report: Report = log_failure) -> None:
        self._hooks = (on_close, on_connection_closed)
        self._report = report
        self._ids = itertools.count(1)
        self._open: dict[int, Closable] = {}
        self._dropped: deque[_Guard] = deque()
        self._tally: Counter[str] = Counter()
        self._tally_lock = threading.Lock()
        forks.join(self)

    def guard(self, resource: Closable) -> _Guard:
        guard = _Guard()
        guard._manager = self
        guard.id = guard_id = next(self._ids)
        guard._resource = resource  # last: from here on the finalizer finds a whole guard
        self._open[guard_id] = resource
        return guard

    def open_connections(self) -> int:
        return len(self._open)

    def sweep(self) -> int:
        return self._release_each(_drain(self._dropped), tally="finalized")

    def close(self) -> None:
        self._release_each([self._stand_in(*entry) for entry in list(self._open.items())])

    def gauges(self) -> dict[str, float]:
        with self._tally_lock:
            tally = self._tally.copy()
        return {
            "open": len(self._open),
            "deferred": len(self._dropped),
            "finalized": tally["finalized"],
            "close_errors": tally["close"],
            "hook_errors": tally["on_close"] + tally["on_connection_closed"],
        }

    def _stand_in(self, guard_id: int, resource: Closable) -> _Guard:
        """A second handle on a registered connection; the registry still lets only one of them release."""
        guard = _Guard()
        guard._manager, guard._resource, guard.id = self, resource, guard_id
        return guard

    def _release_each(self, guards: Iterable[_Guard], tally: str = "") -> int:
        """Release all of them and count those still registered; an interrupt is raised after the last."""
        released = 0
        interrupt: BaseException | None = None
        for guard in guards:
            released += guard.id in self._open
            try:
                guard.release()
            except BaseException as error:
                interrupt = interrupt or error
        if released and tally:
            self._count(tally, released)
        if interrupt is not None:
            raise interrupt
        return released

    def _finish(
        self, guard_id: int, resource: Closable, rest: list[int], interrupt: BaseException | None = None
    ) -> None:
        """Empty `rest` from its end, running each step; raise the first interrupt after the last step."""
        while rest:
            step = rest[-1]
            try:
                del rest[-1]  # no call stands between this and the step's: what is taken out is begun
                if step == _CLOSE:
                    resource.close()
                else:
                    self._hooks[step - _ON_CLOSE](guard_id)
            except BaseException as error:
                later = self._note(step, guard_id, error)
                interrupt = interrupt or later
        if interrupt is not None:
            raise interrupt

    def _note(self, step: int, guard_id: int, error: BaseException) -> BaseException | None:
        """Count and report an error; hand back one that must go on travelling."""
        if not isinstance(error, Exception):
            return error
        self._count(_STEPS[step], 1)
        try:
            self._report(_STEPS[step], guard_id, error)
        except Exception:
            with contextlib.suppress(Exception):  # the report may be a log's, and it is the log that is broken
                _log.warning("reporting that %s failed raised an error itself", _STEPS[step], exc_info=True)
        except BaseException as interrupt:
            return interrupt
        return None

    def _count(self, what: str, by: int) -> None:
        with self._tally_lock:
            self._tally[what] += by

    def after_fork(self) -> None:
        self._open.clear()
        self._dropped.clear()
        self._tally_lock = threading.Lock()


class _Guard:
    # Filled in by its maker: an __init__ would cost a third of the whole guard.
    __slots__ = ("_manager", "_resource", "id")
    id: int
    _manager: GuardedClose
    _resource: Closable | None

    @property
    def released(self) -> bool:
        return self._resource is None

    def release(self) -> None:
        manager = self._manager
        guard_id = self.id
        resource = self._resource
        try:
            del manager._open[guard_id]
        except KeyError:
            self._resource = None
            return
        # No call stands between the claim and the try, so no signal and no other greenlet comes between.
        self._resource = None
        step = _CLOSE
        try:
            resource.close()  # type: ignore[union-attr]  # a registered guard has its resource
            on_close, on_connection_closed = manager._hooks
            step = _ON_CLOSE
            on_close(guard_id)
            step = _ON_CONNECTION_CLOSED
            on_connection_closed(guard_id)
        except BaseException as error:
            rest = [*_REST[step]]
            try:
                manager._finish(guard_id, resource, rest, manager._note(step, guard_id, error))  # type: ignore[arg-type]
            finally:
                if rest:  # a signal's interrupt fell between two steps
                    manager._finish(guard_id, resource, rest)  # type: ignore[arg-type]

    def __enter__(self) -> _Guard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            self.release()

    def __del__(self) -> None:
        try:
            if self._resource is not None:
                self._manager._dropped.append(self)
        except AttributeError:  # interrupted while it was being made: nothing is registered
            pass


def _drain(queue: deque[_Guard]) -> Iterable[_Guard]:
    while True:
        try:
            yield queue.popleft()
        except IndexError:
            return


CLEANUP: Switch[Cleanup] = Switch("cleanup", off=ExplicitClose, on=GuardedClose)
