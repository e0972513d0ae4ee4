"""Children and their guard: nothing outlives the harness, and nothing else is ever signalled."""

from __future__ import annotations

import sys

import psutil
import pytest

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
