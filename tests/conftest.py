"""Shared by all tests: hypothesis without deadlines, because a noisy machine is no failure of ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("synapsed", deadline=None, derandomize=True)
settings.load_profile("synapsed")


@pytest.fixture(autouse=True)
def _unpatched() -> Iterator[None]:
    """No test patches this process: whoever needs gevent's sockets and threads, as Locust does, runs in one of its own.

    Otherwise every later test that waits for a thread waits for ever.
    """
    yield
    monkey = sys.modules.get("gevent.monkey")
    assert monkey is None or not monkey.saved, "this test patched the interpreter that all other tests share"
