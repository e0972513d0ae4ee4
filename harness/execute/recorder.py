"""Counts what Locust's request event reports, at the full precision of the Locust file's own clock.

Locust's statistics round response times and cost more CPU than many requests; its listener is taken off the
event. The file's own listeners stay and are called as ever. Nothing is recorded outside a stretch, so
requests of `on_start` and late answers of cancelled tasks never reach a result.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from typing import Any

from harness.execute.barrier import current_lag
from harness.execute.wire import Samples, Unanswered

_COUNTED = "_synapsed_counted"
_SAID = 200
"characters of what a failure says that are kept"


class Recorder:
    """Requests of the running stretch. `clock` gives the time of each completion (seconds)."""

    __slots__ = ("_clock", "_lags", "_on", "_services", "_unanswered", "answered_at", "failed", "rejected", "said")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._on = False
        self._services: dict[str, array[float]] = {}
        self._lags: dict[str, array[float]] | None = None
        self.rejected = 0
        self.failed: dict[str, int] = {}
        self.said: dict[str, str] = {}
        "what the first failure of each kind said"
        self._unanswered: dict[str, list[float]] = {}
        self.answered_at = 0.0
        "when the last request ended, whatever its outcome; 0 before the first"

    def begin(self, *, lags: bool) -> None:
        """Start a stretch with empty counts; keep schedule lag per request when `lags`."""
        self._services = {}
        self._lags = {} if lags else None
        self.rejected = 0
        self.failed = {}
        self.said = {}
        self._unanswered = {}
        self.answered_at = 0.0
        self._on = True

    def end(self) -> None:
        """Close the stretch; what comes later is not counted."""
        self._on = False

    @property
    def answered(self) -> int:
        """Requests answered without error in this stretch."""
        return sum(map(len, self._services.values()))

    def samples(self) -> tuple[Samples, ...]:
        """Service time and lag of every answered request, by name, in completion order."""
        lags = self._lags or {}
        return tuple(
            Samples(name, _packed([ms / 1e3 for ms in service]), _packed(lags.get(name, ())))
            for name, service in self._services.items()
        )

    def unanswered(self) -> tuple[Unanswered, ...]:
        """Rejections, failures and the seconds they took, by request name."""
        return tuple(
            Unanswered(name, int(rejected), int(failed), seconds)
            for name, (rejected, failed, seconds) in self._unanswered.items()
        )

    def error(self, error: BaseException) -> None:
        """Count a task that raised, unless the request event has reported this exception or its cause
        already.
        """
        if not _reported(error):
            self._count(error)

    def _count(self, error: BaseException | str, name: str | None = None, seconds: float = 0.0) -> None:
        if not self._on:
            return
        self.answered_at = self._clock()
        rejected = getattr(error, "rejected", False) is True
        if name is not None:
            counts = self._unanswered.setdefault(name, [0, 0, 0.0])
            counts[not rejected] += 1
            counts[2] += seconds
        if rejected:
            self.rejected += 1
        else:
            kind = type(error).__name__ if isinstance(error, BaseException) else "failure"
            if kind not in self.failed:
                self.said[kind] = _said(error)
            self.failed[kind] = self.failed.get(kind, 0) + 1

    def listen(self, hook: Any) -> None:
        """Take over `hook.fire`, which saves Locust's generic dispatch; other listeners of the hook still
        get every event.
        """
        if getattr(hook, _COUNTED, None) is self:
            return
        dispatch, handlers, clock = hook.fire, hook._handlers, self._clock

        def fire(
            *,
            reverse: bool = False,
            name: str = "",
            response_time: float = 0.0,
            exception: BaseException | None = None,
            request_type: str = "",
            response_length: int = 0,
            context: Any = None,
            **rest: Any,
        ) -> None:
            if self._on:
                if exception:
                    self._count(exception, name, response_time / 1e3)
                    _mark(exception)
                else:
                    try:
                        self._services[name].append(response_time)
                    except KeyError:
                        self._services[name] = array("d", (response_time,))
                    self.answered_at = clock()
                    if self._lags is not None:
                        self._lags.setdefault(name, array("d")).append(current_lag())
            if handlers:
                rest.update(request_type=request_type, response_length=response_length, context=context)
                dispatch(reverse=reverse, name=name, response_time=response_time, exception=exception, **rest)

        hook.fire = fire
        setattr(hook, _COUNTED, self)


def _reported(error: BaseException) -> bool:
    link: BaseException | None = error
    while link is not None:
        if getattr(link, _COUNTED, False):
            return True
        link = link.__cause__ or link.__context__
    return False


def _said(error: BaseException | str) -> str:
    """What a failure says, in one line, and the file:line that raised it."""
    text = " ".join(str(error).split())[:_SAID]
    trace = error.__traceback__ if isinstance(error, BaseException) else None
    if trace is None:
        return text
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{text} at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}".lstrip()


def _mark(error: BaseException | str) -> None:
    if isinstance(error, BaseException):
        error.__dict__[_COUNTED] = True


def _packed(values: Any) -> bytes:
    data = array("f", values)
    if sys.byteorder == "big":
        data.byteswap()
    return data.tobytes()
