"""Children and their guard: nothing outlives the harness, and nothing else is ever signalled."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from harness.execute import guard
from harness.execute.guard import GUARD
from harness.execute.process import Child

SLEEP = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)")


def test_a_program_that_is_interrupted_before_the_guard_knows_it_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[psutil.Process] = []
    released: list[int] = []

    def interrupted(group: int) -> None:
        started.append(psutil.Process(group))
        raise KeyboardInterrupt

    monkeypatch.setattr(GUARD, "watch", interrupted)
    monkeypatch.setattr(GUARD, "release", released.append)
    with pytest.raises(KeyboardInterrupt):
        Child(SLEEP, env={})
    (program,) = started
    assert not program.is_running()
    assert released == [program.pid], "it may have been told before"


def test_the_guard_forgets_a_group_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be somebody else's when the harness dies."""
    released: list[int] = []
    release = GUARD.release

    def noted(group: int) -> None:
        released.append(group)
        release(group)

    monkeypatch.setattr(GUARD, "release", noted)
    child = Child(SLEEP, env={})
    assert not released
    assert child.end(grace=0.0)
    assert released == [child.pid]


def test_the_guard_kills_what_it_was_not_told_to_forget() -> None:
    with (
        subprocess.Popen(SLEEP, process_group=0) as forgotten,
        subprocess.Popen(SLEEP, process_group=0) as watched,
    ):
        try:
            told = f"+{forgotten.pid}\n+{watched.pid}\n-{forgotten.pid}\n".encode()
            subprocess.run((sys.executable, "-I", "-S", guard.__file__), input=told, check=True, timeout=60)
            assert watched.wait(60) == -signal.SIGKILL
            forgotten.terminate()
            assert forgotten.wait(60) == -signal.SIGTERM, "it lived until now"
        finally:
            forgotten.kill()
            watched.kill()
