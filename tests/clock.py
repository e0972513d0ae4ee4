"""A clock for whatever takes one."""

from __future__ import annotations


class Clock:
    """Seconds that pass only when a test moves `now`."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
