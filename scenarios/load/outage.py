"""What does a dead peer cost, and how soon is it used again? OUTAGE_STRUCK of eight peers (1) turn black for a while.

Their link is a process that is stopped and continued by signal: connections hang, new ones are accepted by nobody.
"struck" are requests to those peers that began while they were black, "returning" those after their return, "after"
those well after it; "beside" are requests to the others that began while those were black, "request" all the rest.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import gevent
from locust import events, task

from reference_impl.dialer import Dialer
from reference_impl.transports.base import Peer
from scenarios.load.episode import EpisodeUser, told
from scenarios.load.link import Link
from scenarios.load.session import playing, session
from scenarios.load.users import FAILURES, SEED

BEGINS = float(os.environ.get("OUTAGE_BEGINS", "1"))
LASTS = float(os.environ.get("OUTAGE_LASTS", "2"))
SPREAD = float(os.environ.get("OUTAGE_SPREAD", "0"))
"""seconds by which it may be longer or shorter: a breaker asks again at fixed times, and where the return is one too it
is early, or late, each time"""
GRACE = float(os.environ.get("OUTAGE_GRACE", "3"))
"seconds after its return from which the peer is expected to serve as ever"
PEERS = 8
STRUCK = int(os.environ.get("OUTAGE_STRUCK", "1"))
PAYLOAD = os.urandom(1024)
STEP = 0.1


class Outage:
    """The link to the peers that will be struck, and the clock of the outage."""

    def __init__(self, peers: Sequence[Peer]) -> None:
        self._link = Link(peers)
        self.peers = self._link.peers
        self.returned = float("inf")
        self.black = False
        self._lasts = max(0.0, LASTS + random.Random(SEED).uniform(-SPREAD, SPREAD))

    def play(self, dialer: Dialer, numbers: dict[str, float]) -> None:
        """The outage, beginning now; what it cost goes into `numbers`."""
        gevent.sleep(BEGINS)
        self._link.go_black()
        self.black = True
        before = attempts(dialer, self.peers)
        gevent.sleep(self._lasts)
        numbers["outage.wasted"] = attempts(dialer, self.peers) - before
        self.black = False
        self._link.come_back()
        self.returned = perf_counter()
        numbers["outage.lasted"] = self._lasts
        most, last = 0.0, attempts(dialer, self.peers)
        for _ in range(max(1, round(GRACE / STEP))):  # a breaker may well ask no sooner than after a second or two
            gevent.sleep(STEP)
            now = attempts(dialer, self.peers)
            most, last = max(most, now - last), now
        numbers["outage.at_return"] = most

    def name_at(self, moment: float) -> str:
        """What a request to a struck peer that begins at `moment`, now, is called."""
        if self.black:
            return "struck"
        if moment > self.returned + GRACE:
            return "after"
        return "returning" if moment > self.returned else "request"

    def end(self) -> None:
        """Take the link away."""
        self._link.end()


def attempts(dialer: Dialer, peers: Sequence[Peer]) -> float:
    """Connection attempts at any of `peers` so far."""
    ids = {bytes(each) for each in peers}
    series = dialer.metrics.snapshot().series
    return float(sum(each.counts.connection_attempts for each in series if each.peer in ids))


_outages: dict[Any, Outage] = {}


@events.test_start.add_listener
def _lay(environment: Any, **_: Any) -> None:
    if not playing(environment, __name__):
        return
    _outages[environment] = Outage(session(environment).over_tcp()[:STRUCK])


@events.test_stop.add_listener
@events.quitting.add_listener
def _cut(environment: Any, **_: Any) -> None:
    if environment in _outages:
        _outages.pop(environment).end()


class OutageUser(EpisodeUser):
    """Needs now this peer, now that one."""

    ALONE = {  # noqa: RUF012 - time limits that end within the outage
        "tcp": {"connect_timeout": 0.25, "request_timeout": 0.25},
        "pooling": {"wait_timeout": 0.25},
    }

    def on_start(self) -> None:
        super().on_start()
        self.outage = _outages[self.environment]
        self.peers = (*self.outage.peers, *self.peers[STRUCK:PEERS])
        self.numbers = told(self.environment)
        self.numbers["link.relays"] = 1.0

    def begin(self) -> None:
        gevent.spawn(self.outage.play, self.dialer, self.numbers)

    @task
    def ask(self) -> None:
        self.now()
        peer = self.random.choice(self.peers)
        began = perf_counter()
        name = "beside" if self.outage.black else "request"
        if peer in self.outage.peers:
            name = self.outage.name_at(began)
        try:
            with self.dialer.connect(peer) as connection:
                answer = connection.request(PAYLOAD)
        except FAILURES as error:
            self.report(name, perf_counter() - began, 0, error)
            return
        moment = perf_counter()
        self.report(name, moment - began, len(answer))
        if peer in self.outage.peers and moment > self.outage.returned:
            self.numbers.setdefault("outage.recovery", moment - self.outage.returned)
