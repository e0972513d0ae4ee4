"""What does a dead peer cost, and how soon is it used again? One of eight peers turns black for a while.

Its link is a process that is stopped and continued by signal: connections hang, new ones are accepted by nobody.
"struck" are requests to that peer, "request" those to the others, "after" those to it that began well after its return.
"""

from __future__ import annotations

import os
from time import perf_counter
from typing import Any

import gevent
from locust import events, task

from reference_impl.dialer import Dialer
from reference_impl.transports.base import Peer
from scenarios.load.episode import EpisodeUser, told
from scenarios.load.link import Link
from scenarios.load.session import session
from scenarios.load.users import FAILURES

BEGINS = float(os.environ.get("OUTAGE_BEGINS", "1"))
LASTS = float(os.environ.get("OUTAGE_LASTS", "2"))
GRACE = float(os.environ.get("OUTAGE_GRACE", "3"))
"seconds after its return from which the peer is expected to serve as ever"
PEERS = 8
PAYLOAD = os.urandom(1024)
STEP = 0.1


class Outage:
    """The link to the peer that will be struck, and the clock of the outage."""

    def __init__(self, peer: Peer) -> None:
        self._link = Link((peer,))
        (self.peer,) = self._link.peers
        self.returned = float("inf")

    def play(self, dialer: Dialer, numbers: dict[str, float]) -> None:
        """The outage, beginning now; what it cost goes into `numbers`."""
        gevent.sleep(BEGINS)
        self._link.go_black()
        before = attempts(dialer, self.peer)
        gevent.sleep(LASTS)
        numbers["outage.wasted"] = attempts(dialer, self.peer) - before
        self._link.come_back()
        self.returned = perf_counter()
        most, last = 0.0, attempts(dialer, self.peer)
        for _ in range(round(1 / STEP)):
            gevent.sleep(STEP)
            now = attempts(dialer, self.peer)
            most, last = max(most, now - last), now
        numbers["outage.at_return"] = most

    def end(self) -> None:
        """Take the link away."""
        self._link.end()


def attempts(dialer: Dialer, peer: Peer) -> float:
    """Connection attempts at `peer` so far."""
    series = dialer.metrics.snapshot().series
    return float(sum(each.counts.connection_attempts for each in series if each.peer == bytes(peer)))


_outages: dict[Any, Outage] = {}


@events.test_start.add_listener
def _lay(environment: Any, **_: Any) -> None:
    _outages[environment] = Outage(session(environment).peers[0])


@events.test_stop.add_listener
@events.quitting.add_listener
def _cut(environment: Any, **_: Any) -> None:
    if environment in _outages:
        _outages.pop(environment).end()


class OutageUser(EpisodeUser):
    """Needs now this peer, now that one."""

    def on_start(self) -> None:
        super().on_start()
        self.outage = _outages[self.environment]
        self.peers = (self.outage.peer, *self.peers[1:PEERS])
        self.numbers = told(self.environment)

    def begin(self) -> None:
        gevent.spawn(self.outage.play, self.dialer, self.numbers)

    @task
    def ask(self) -> None:
        self.now()
        peer = self.random.choice(self.peers)
        began = perf_counter()
        name = "request"
        if peer is self.outage.peer:
            name = "after" if began > self.outage.returned + GRACE else "struck"
        try:
            with self.dialer.connect(peer) as connection:
                answer = connection.request(PAYLOAD)
        except FAILURES as error:
            self.report(name, perf_counter() - began, 0, error)
            return
        moment = perf_counter()
        self.report(name, moment - began, len(answer))
        if name == "struck" and moment > self.outage.returned:
            self.numbers.setdefault("outage.recovery", moment - self.outage.returned)
