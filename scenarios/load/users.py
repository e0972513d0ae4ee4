"""The kinds of user that workloads are made of."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from itertools import accumulate
from time import perf_counter
from typing import Any

from locust import User, constant

from reference_impl.errors import Rejected, RemoteError
from reference_impl.pooling import PoolTimeout
from scenarios.load.session import session

FAILURES = (OSError, Rejected, RemoteError, PoolTimeout, RuntimeError)
"""What a request may raise and a workload reports as that request's failure."""


SEED = os.environ.get("SYNAPSED_SEED", "0")
"""Of the burst: users choose anew in each, and alike on all of its arms."""


class PeerUser(User):
    """A user with a dialer and peers, numbered from 0, whose choices follow SEED; subclasses add tasks."""

    abstract = True
    host = "own-reference-node"  # what Locust's start form shows; the peers are the session's
    wait_time = constant(0)
    requests_per_task = 1
    """The most that one task reports: the harness finds a request told twice by it."""
    ALONE: Mapping[str, Mapping[str, Any]] = {}
    """Settings tables without which the workload would show nothing, for a session that nobody gives settings."""
    _made = 0

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.number = PeerUser._made
        PeerUser._made += 1
        self.random = random.Random(f"{SEED}/{type(self).__name__}/{self.number}")

    def on_start(self) -> None:
        current = session(self.environment)
        self.dialer, self.peers = current.dialer, current.peers
        self.fire = self.environment.events.request.fire

    def report(self, name: str, seconds: float, length: int, error: BaseException | None = None) -> None:
        """Tell Locust of one finished request."""
        self.fire(
            request_type="peer",
            name=name,
            response_time=seconds * 1000,
            response_length=length,
            exception=error,
            context={},
        )


class EchoUser(PeerUser):
    """Sends 1 KiB to the next of eight peers and waits for the echo."""

    abstract = True
    PEERS = 8
    PAYLOAD = os.urandom(1024)

    def on_start(self) -> None:
        super().on_start()
        self.turn = self.number
        self.peers = self.peers[: self.PEERS]

    def echo(self) -> None:
        """One request, reported as "request"."""
        self.turn += 1
        peer = self.peers[self.turn % len(self.peers)]
        began = perf_counter()
        try:
            with self.dialer.connect(peer) as connection:
                answer = connection.request(self.PAYLOAD)
        except FAILURES as error:
            self.report("request", perf_counter() - began, 0, error)
            return
        seconds = perf_counter() - began
        self.report("request", seconds, len(answer), None if answer == self.PAYLOAD else ValueError("echo differs"))


def zipf(count: int, exponent: float = 1.0) -> list[float]:
    """Cumulative weights of ranks 1..count, each 1 / rank**exponent, for `random.choices`."""
    return list(accumulate(1 / rank**exponent for rank in range(1, count + 1)))
