"""What does a connection cost when the peer is far away? Like dial; a link adds DISTANT_RTT seconds (0: there is none).

"connect" is having the connection, new or reused; "first answer" is that and the answer to a first request together.
Which peer is needed follows Zipf's law over 64 of them. With DISTANT_REUSE, a share from 0 to 1, that share of dials
goes to 16 acquaintances by the same law and the rest to strangers, each met once.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from time import perf_counter
from typing import Any

from locust import events, task

from reference_impl.transports.base import Peer
from scenarios.load.episode import EpisodeUser, told
from scenarios.load.link import Link
from scenarios.load.session import playing, session
from scenarios.load.users import FAILURES, zipf

RTT = float(os.environ.get("DISTANT_RTT", "0.01"))
REUSE = float(os.environ.get("DISTANT_REUSE", "-1"))
PEERS = 64
ACQUAINTANCES = 16
PAYLOAD = os.urandom(64)

_links: dict[Any, Link] = {}
_reached: dict[Any, tuple[Peer, ...]] = {}
_strangers: dict[Any, Iterator[Peer]] = {}


@events.test_start.add_listener
def _lay(environment: Any, **_: Any) -> None:
    if not playing(environment, __name__):
        return
    peers = session(environment).over_tcp()
    peers = peers if REUSE >= 0 else peers[:PEERS]
    if RTT:
        _links[environment] = Link(peers, RTT)
        peers = _links[environment].peers
    _reached[environment] = peers


@events.test_stop.add_listener
@events.quitting.add_listener
def _cut(environment: Any, **_: Any) -> None:
    _reached.pop(environment, None)
    _strangers.pop(environment, None)
    if environment in _links:
        _links.pop(environment).end()


class DistantUser(EpisodeUser):
    """Needs a connection to some distant peer, uses it once, gives it back."""

    requests_per_task = 2  # connect, first answer

    def on_start(self) -> None:
        super().on_start()
        if RTT:
            told(self.environment)["link.relays"] = 1.0
        peers = _reached[self.environment]
        self.known = peers[:ACQUAINTANCES] if REUSE >= 0 else peers
        self.weights = zipf(len(self.known))
        # Shared by all users. A target with too few peers meets the first ones again: then the pool may know them.
        self.strangers = _strangers.setdefault(self.environment, itertools.cycle(peers[ACQUAINTANCES:] or peers))

    def next_peer(self) -> Peer:
        """Whom this dial is for."""
        if REUSE >= 0 and self.random.random() >= REUSE:
            return next(self.strangers)
        (peer,) = self.random.choices(self.known, cum_weights=self.weights)
        return peer

    @task
    def dial(self) -> None:
        peer = self.next_peer()
        name, began = "connect", perf_counter()
        try:
            with self.dialer.connect(peer) as connection:
                self.report("connect", perf_counter() - began, 0)
                name = "first answer"
                size = len(connection.request(PAYLOAD))
        except FAILURES as error:
            self.report(name, perf_counter() - began, 0, error)
            return
        self.report("first answer", perf_counter() - began, size)
