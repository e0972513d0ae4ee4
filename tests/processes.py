"""Commands as real processes, and a way to see whatever they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

MARK = "SYNAPSED_TEST_MARK"
PATIENCE = 60.0
"seconds after which a test gives up waiting; nothing is asserted about time"
POLL = 0.1
"seconds between two looks: each reads the environment of every process there is"


class Ended(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


def bench(*arguments: str) -> tuple[str, ...]:
    """The command line of `synapsed-bench` with these arguments."""
    return (sys.executable, "-m", "harness.cli", *arguments)


class Command:
    """A running program; every process it starts, however deep, inherits its mark."""

    def __init__(self, *arguments: str, cwd: Path, env: dict[str, str] | None = None) -> None:
        self.mark = uuid.uuid4().hex
        self._folder = tempfile.TemporaryDirectory(prefix="synapsed-bench-")  # cwd may be the project
        self._out, self._err = (Path(self._folder.name) / name for name in ("out", "err"))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = psutil.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=cwd,
                env={**os.environ, **(env or {}), MARK: self.mark},
                start_new_session=True,
            )

    def said(self) -> str:
        """Everything on both streams so far."""
        return self._out.read_text() + self._err.read_text()

    def alive(self) -> bool:
        """Whether the command itself runs."""
        return self.process.poll() is None

    def descendants(self, part: str = "") -> list[psutil.Process]:
        """Living processes with our mark, except the command itself, whose command line contains `part`."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                marked = process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE
                if marked and process.pid != self.process.pid and part in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def ended(self) -> Ended:
        """Wait for the end of the command and of all it started; fails when something stays."""
        code = self.process.wait(PATIENCE)
        wait_for(lambda: not self.descendants(), lambda: f"left behind: {self.descendants()}; {self.said()}")
        return Ended(code, self._out.read_text(), self._err.read_text())

    def clear_away(self) -> None:
        """Whatever happened in the test: nothing of ours stays."""
        for process in (*self.descendants(), self.process):
            with suppress(psutil.Error):
                process.kill()
        self.process.wait(PATIENCE)


@contextmanager
def command(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> Iterator[Command]:
    """A running command that is cleared away in the end."""
    started = Command(*arguments, cwd=cwd, env=env)
    try:
        yield started
    finally:
        started.clear_away()


def run(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> Ended:
    """A command from its start to its end."""
    with command(*arguments, cwd=cwd, env=env) as started:
        return started.ended()


def wait_for(condition: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    """Until `condition` holds; fails with `otherwise` when it does not come to hold."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(POLL)
