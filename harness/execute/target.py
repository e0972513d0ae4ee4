"""The system under test as a process: started, ready, watched, and certainly ended.

A target that speaks the contract (docs/target-contract.md) prints one JSON object as its first line of
output; any other program is ready when a port accepts, a URL answers, or a line matches. What it tells is
kept as it is.
"""

from __future__ import annotations

import re
import socket
import threading
import time
import urllib.error
from collections.abc import Mapping
from http.client import HTTPException
from types import TracebackType
from typing import Any, Literal

import msgspec

from harness.errors import TargetError
from harness.execute.process import Child
from harness.measure.probes import DIRECT

_POLL_SECONDS = 0.02
_PROBE_SECONDS = 1.0


class Readiness(msgspec.Struct, frozen=True):
    """How a target shows that it is ready.

    `line`: one JSON object on standard output. `port`: `host:port` accepts TCP. `url`: answers HTTP with
    any status below 500. `pattern`: a line of standard output matches the regular expression.
    """

    kind: Literal["line", "port", "url", "pattern"] = "line"
    value: str = ""


JSON_LINE = Readiness()


class Target:
    """A started target; made by `start` (ready) or `spawn` (booting, then `wait_ready`)."""

    def __init__(
        self,
        command: tuple[str, ...],
        env: Mapping[str, str],
        cwd: str | None,
        readiness: Readiness,
        name: str,
    ) -> None:
        self.name = name
        self.ready: dict[str, Any] = {}
        "What the ready line said, or {'url': ...}, {'addresses': [...]}, {'line': ...} for the other kinds."
        self._readiness = readiness
        self._line: str | None = None
        self._heard = threading.Event()
        self._pattern = re.compile(readiness.value) if readiness.kind == "pattern" else None
        if readiness.kind == "port" and _accepts(*_host_port(readiness.value)):
            raise TargetError(f"target {name}: {readiness.value} is taken by another program")
        try:
            self._child = Child(command, env=env, cwd=cwd, on_line=self._hear)
        except OSError as error:
            raise TargetError(f"target {name}: cannot start {command[0]}: {error.strerror or error}") from error

    @classmethod
    def spawn(
        cls,
        command: tuple[str, ...],
        env: Mapping[str, str],
        cwd: str | None = None,
        *,
        readiness: Readiness = JSON_LINE,
        name: str = "target",
    ) -> Target:
        """Start booting; `wait_ready` must follow."""
        return cls(command, env, cwd, readiness=readiness, name=name)

    @classmethod
    def start(
        cls,
        command: tuple[str, ...],
        env: Mapping[str, str],
        cwd: str | None = None,
        *,
        ready_timeout: float = 10.0,
        readiness: Readiness = JSON_LINE,
        name: str = "target",
    ) -> Target:
        """Start `command` and wait until it is ready. Raises TargetError; nothing is left running then."""
        target = cls(command, env, cwd, readiness=readiness, name=name)
        target.wait_ready(ready_timeout)
        return target

    def wait_ready(self, timeout: float) -> None:
        """Wait until the target is ready; ends it and raises TargetError when it dies or takes longer than
        `timeout` s.
        """
        deadline = time.monotonic() + timeout
        try:
            while not self._is_ready():
                if not self._child.alive():
                    self._heard.wait(_POLL_SECONDS)  # its last line may still be on the way
                    if self._is_ready():
                        break
                    raise TargetError(f"target {self.name} ended before it was ready: {self._child.epitaph()}")
                if time.monotonic() > deadline:
                    raise TargetError(
                        f"target {self.name} was not ready within {timeout:g} s ({self._expected()}); "
                        f"{self._child.epitaph()}"
                    )
                if self._heard.wait(_POLL_SECONDS):
                    self._heard.clear()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Pid of the started process."""
        return self._child.pid

    def pids(self) -> tuple[int, ...]:
        """The process tree as of now; empty when the target is dead."""
        return self._child.pids()

    def alive(self) -> bool:
        """Whether the started process runs."""
        return self._child.alive()

    def check(self) -> None:
        """Raise TargetError when the target is dead."""
        if not self._child.alive():
            how = self._child.epitaph(beside=self._line or "")  # the ready line is long and says nothing of its end
            raise TargetError(f"target {self.name} (pid {self.pid}) died: {how}")

    def stop(self, grace: float = 3.0) -> None:
        """SIGTERM, `grace` seconds, then SIGKILL to it and all it started. Raises TargetError only when even that
        fails.
        """
        if not self._child.end(grace):
            raise TargetError(f"target {self.name} (pid {self.pid}) or what it started cannot be ended")

    def __enter__(self) -> Target:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _hear(self, line: str) -> None:
        if self._line is None and line.strip() and (self._pattern is None or self._pattern.search(line)):
            self._line = line
            self._heard.set()

    def _is_ready(self) -> bool:
        value = self._readiness.value
        match self._readiness.kind:
            case "line":
                self.ready = self._parse(self._line) if self._line is not None else {}
                return self._line is not None
            case "pattern":
                self.ready = {"line": self._line}
                return self._line is not None
            case "port":
                host, port = _host_port(value)
                self.ready = {"addresses": [[host, port]]}
                return _accepts(host, port)
            case "url":
                self.ready = {"url": value}
                return _answers(value)

    def _parse(self, line: str) -> dict[str, Any]:
        try:
            return msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise TargetError(
                f"target {self.name}: its first line of output is not the contract's JSON object ({error}): "
                f"{line[:200]}"
            ) from error

    def _expected(self) -> str:
        kind, value = self._readiness.kind, self._readiness.value
        return "expected a JSON line on its standard output" if kind == "line" else f"expected {kind} {value}"


def _host_port(value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    if not port.isdigit():
        raise TargetError(f"ready port {value!r}; expected host:port")
    return host or "127.0.0.1", int(port)


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def _answers(url: str) -> bool:
    try:
        with DIRECT.open(url, timeout=_PROBE_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        with error:
            return error.code < 500
    except (OSError, ValueError, HTTPException):
        return False
