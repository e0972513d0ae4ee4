"""What workloads with a memory of time share: a story that begins with the first task, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import gevent
from locust import events

from scenarios.load.users import FAILURES, PeerUser


def told(environment: Any) -> dict[str, float]:
    """Numbers that stand beside the dialer's gauges at the end; write into it."""
    found: dict[str, float] | None = getattr(environment, "synapsed_told", None)
    if found is None:
        found = environment.synapsed_told = {}
        dialers, nodes = environment.synapsed_gauges, environment.synapsed_target_gauges
        environment.synapsed_gauges = lambda: {**dialers(), **found}
        environment.synapsed_target_gauges = lambda: persistently(nodes)
    return found


def persistently(ask: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The answer of a node that plays faults: asked again until none strikes. Raises the last failure after 100."""
    for _ in range(99):
        try:
            return ask()
        except FAILURES:
            gevent.sleep(0.05)
    return ask()


@events.test_stop.add_listener
def _forget(environment: Any, **_: Any) -> None:
    """The next test in the same web UI tells a story of its own."""
    EpisodeUser._began.pop(environment, None)
    for name in ("synapsed_told", "synapsed_housekeeping"):
        if hasattr(environment, name):
            delattr(environment, name)


class EpisodeUser(PeerUser):
    """A user whose dialer keeps house after the load."""

    abstract = True
    _began: dict[Any, float] = {}  # noqa: RUF012 - one story per environment

    def on_start(self) -> None:
        super().on_start()
        if not hasattr(self.environment, "synapsed_housekeeping"):  # a file may have more to keep
            self.environment.synapsed_housekeeping = self.dialer.sweep
        told(self.environment)

    def now(self) -> float:
        """Seconds since the first task of any user began; 0 at that very task, which begins the story."""
        moment = perf_counter()
        if self.environment not in EpisodeUser._began:
            EpisodeUser._began[self.environment] = moment
            self.begin()
        return moment - EpisodeUser._began[self.environment]

    def begin(self) -> None:
        """The story begins: called once, by whoever is first."""
