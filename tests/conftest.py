"""Shared by all tests: hypothesis without deadlines, because a noisy machine is no failure of ours."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("synapsed", deadline=None, derandomize=True)
settings.load_profile("synapsed")

# A shell starts what it puts in the background with Ctrl-C ignored, and programs inherit that: tests end some by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _unpatched() -> Iterator[None]:
    """No test patches this process: whoever needs gevent's sockets and threads, as Locust does, runs in one of its own.

    Otherwise every later test that waits for a thread waits for ever.
    """
    before = _patched()
    yield
    assert _patched() == before, "this test patched the interpreter that all other tests share"


def _patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.saved)
