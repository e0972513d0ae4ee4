"""The harness's handle on one load process: start it, open its barrier, and hear at once when it dies.

Every call is bounded in time. After any LoadError the process is unusable; `stop` ends it in every case.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

import msgspec

from harness.errors import LoadError
from harness.execute import wire
from harness.execute.process import Child, python_path
from harness.execute.wire import WorkloadFile

_MARGIN = 10.0
"Seconds allowed beyond what an order takes by itself: computing and sending the answer on a busy machine."
_STOP_SECONDS = 5.0
WATCH_SECONDS = 0.25
"between two looks at an episode: a slope needs several within a few seconds"
_Answer = TypeVar("_Answer", bound=wire.Answer)


class LoadSpec(msgspec.Struct, frozen=True):
    """What a load process runs. `env` is its environment (beside ours), `interpreter` the Python it runs on (empty =
    ours). `cache_misses`: whether it counts those of both ends.
    """

    name: str
    workloads: tuple[WorkloadFile, ...]
    env: dict[str, str] = {}
    cwd: str | None = None
    interpreter: str = ""
    cache_misses: bool = False


class LoadProcess:
    """A started load process; made by `start` (ready) or `spawn` (booting, then `wait_ready`)."""

    def __init__(self, spec: LoadSpec) -> None:
        self.name = spec.name
        self._stream, theirs = socket.socketpair()
        with theirs:
            try:
                self._child = Child(
                    [
                        spec.interpreter or sys.executable,
                        "-P",
                        "-m",
                        "harness.execute.worker",
                        str(theirs.fileno()),
                        str(os.getpid()),
                    ],
                    env={**spec.env, "PYTHONPATH": python_path(spec.env)},
                    cwd=spec.cwd,
                    pass_fds=(theirs.fileno(),),
                )
            except OSError as error:
                self._stream.close()
                raise LoadError(f"load process {spec.name}: cannot be started: {error}") from error
        self._unanswered = False
        self.notes: tuple[str, ...] = ()

    @classmethod
    def spawn(cls, spec: LoadSpec, ready_timeout: float) -> LoadProcess:
        """Start booting; `wait_ready` must follow. Call it on a thread that outlives the process."""
        process = cls(spec)
        try:
            process._send(wire.Setup(spec.workloads, ready_timeout, spec.cache_misses))
        except LoadError:
            process.stop()
            raise
        return process

    @classmethod
    def start(cls, spec: LoadSpec, ready_timeout: float = 30.0) -> LoadProcess:
        """Start and wait until every user stands at the barrier. Raises LoadError; nothing is left running
        then.
        """
        process = cls.spawn(spec, ready_timeout)
        process.wait_ready(ready_timeout)
        return process

    def wait_ready(self, timeout: float) -> None:
        """Wait until every user stands at the barrier; ends the process and raises LoadError when that
        fails.
        """
        try:
            self.notes = self._answer(wire.Ready, timeout).notes
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Pid of the load process."""
        return self._child.pid

    def pids(self) -> tuple[int, ...]:
        """The load process and its descendants."""
        return self._child.pids()

    def alive(self) -> bool:
        """Whether the load process runs."""
        return self._child.alive()

    def slice(self, order: wire.OpenSlice, watch: Callable[[], None] | None = None) -> wire.SliceResult:
        """One stretch of load; `watch` is called every WATCH_SECONDS of it.

        Raises LoadError when the process dies, fails or does not answer in time.
        """
        self._send(order)
        timeout = order.planned + order.drain + order.quiet
        if watch is not None:
            self._watch(watch, time.monotonic() + timeout)
        return self._answer(wire.SliceResult, timeout)

    def settle(self, seconds: float) -> None:
        """A pause without load, after which the Locust files keep house."""
        self._send(wire.Settle(seconds))
        self._answer(wire.Settled, seconds)

    def work(self, order: wire.Work, watch: Callable[[], None] | None = None) -> wire.SliceResult:
        """Exactly `order.tasks` tasks of one workload; `watch` as in `slice`."""
        self._send(order)
        timeout = order.timeout + order.quiet
        if watch is not None:
            self._watch(watch, time.monotonic() + timeout)
        return self._answer(wire.SliceResult, timeout)

    def gauges(self) -> wire.GaugesAnswer:
        """The gauges the Locust files publish, of target and client; empty when they publish none."""
        self._send(wire.Gauges())
        return self._answer(wire.GaugesAnswer, 0.0)

    def stop(self) -> None:
        """End the process: users' `on_stop` first, by force when that takes too long. Never raises for a
        dead one.
        """
        # One that is busy, because its order was given up (Ctrl-C, a time limit), gets no chance to go on sending.
        if not self._unanswered and self._stream.fileno() >= 0 and self._child.alive():
            with suppress(LoadError):  # by force, below
                self._send(wire.Stop())
                self._answer(wire.Stopped, 0.0)
                self._child.wait(_STOP_SECONDS)
        self._stream.close()
        if not self._child.end(grace=0.0):
            raise LoadError(f"load process {self.name} (pid {self.pid}) or what it started cannot be ended")

    def __enter__(self) -> LoadProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _send(self, order: wire.Order) -> None:
        self._unanswered = True
        try:
            wire.send(self._stream, order)
        except OSError:
            raise self._died() from None

    def _watch(self, watch: Callable[[], None], deadline: float) -> None:
        while time.monotonic() < deadline:
            if select.select((self._stream,), (), (), WATCH_SECONDS)[0]:
                return
            watch()

    def _answer(self, kind: type[_Answer], timeout: float) -> _Answer:
        self._stream.settimeout(timeout + _MARGIN)
        try:
            answer = wire.receive(self._stream, wire.ANSWERS)
        except TimeoutError:
            raise LoadError(
                f"load process {self.name} did not answer within {timeout + _MARGIN:.0f} s; {self._child.epitaph()}"
            ) from None
        except (OSError, EOFError, ValueError):
            raise self._died() from None
        self._unanswered = False
        if isinstance(answer, wire.Failed):
            raise LoadError(f"load process {self.name}: {answer.message}")
        if not isinstance(answer, kind):
            raise LoadError(f"load process {self.name} answered {type(answer).__name__}; expected {kind.__name__}")
        return answer

    def _died(self) -> LoadError:
        self._child.wait(_STOP_SECONDS)
        return LoadError(f"load process {self.name} (pid {self.pid}) died: {self._child.epitaph()}")
