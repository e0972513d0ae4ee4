"""Can one abuser take what the others need? First one peer floods the node, then one that is somebody new each time.

"request" are the well-behaved peers, "abuse" the single abuser, "sybil" the attacker who begins a handshake per
connection, as somebody new each time, and leaves before saying who: from an address of its own (127.0.0.2; where there
is none, from everybody's).
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from time import perf_counter
from typing import Any

from locust import constant, events, task

from reference_impl.channel import SECOND_BYTES, Initiation
from reference_impl.dialer import Dialer
from reference_impl.identity import Identity
from reference_impl.service import ECHO
from scenarios.load.episode import EpisodeUser
from scenarios.load.session import session
from scenarios.load.users import FAILURES

SECONDS = float(os.environ.get("FLOOD_SECONDS", "4"))
"of the whole flood: the single abuser has its first half"
ABUSERS = 4
ABUSE_PAYLOAD = os.urandom(16 * 1024)
PAYLOAD = os.urandom(1024)
PAUSE = 0.001
ELSEWHERE = "127.0.0.2"
STRANGERS = 500

_dialers: dict[Any, list[Dialer]] = {}
"everybody's, of a running environment"


@events.test_stop.add_listener
def _forget(environment: Any, **_: Any) -> None:
    _dialers.pop(environment, None)


def keep_house(environment: Any) -> None:
    """Once for everybody: the dialers of all of them."""
    for dialer in _dialers[environment]:
        dialer.sweep()


def held(environment: Any) -> dict[str, float]:
    """What the dialers of all of them hold."""
    gauges = [dialer.gauges() for dialer in _dialers[environment]]
    wanted = (("pooling", "idle"), ("cleanup", "open"))
    return {f"{room}.{name}": float(sum(each[room].get(name, 0) for each in gauges)) for room, name in wanted}


class HonestUser(EpisodeUser):
    """One of many: asks, reads, thinks 10 ms."""

    weight = 1
    wait_time = constant(0.01)

    def on_start(self) -> None:
        super().on_start()
        self.own = session(self.environment).make_dialer()  # a peer of its own right
        if self.environment not in _dialers:
            _dialers[self.environment] = [self.dialer]
            alone = self.environment.synapsed_gauges
            self.environment.synapsed_gauges = lambda: {**alone(), **held(self.environment)}
            self.environment.synapsed_housekeeping = lambda: keep_house(self.environment)
        _dialers[self.environment].append(self.own)

    def on_stop(self) -> None:
        _dialers[self.environment].remove(self.own)
        self.own.close()

    @task
    def ask(self) -> None:
        self.now()
        timed(self, "request", self.own, PAYLOAD)


class Abuser(EpisodeUser):
    """One of the greenlets of the attack."""

    fixed_count = ABUSERS
    wait_time = constant(PAUSE)
    strangers: list[Identity] = []  # noqa: RUF012 - made once, shared by all abusers

    def on_start(self) -> None:
        super().on_start()
        while len(Abuser.strangers) < STRANGERS:
            Abuser.strangers.append(Identity.generate())

    @task
    def attack(self) -> None:
        if self.now() < SECONDS / 2:
            timed(self, "abuse", self.dialer, ABUSE_PAYLOAD)
        else:
            self.come_as_a_stranger()

    def come_as_a_stranger(self) -> None:
        """A connection and the beginning of a handshake; "sybil" is answered when the node sends its part of it."""
        began = perf_counter()
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connected:
                connected.settimeout(1.0)
                with suppress(OSError):
                    connected.bind((ELSEWHERE, 0))
                connected.connect(self.peers[0].addresses["tcp"])
                initiation = Initiation(self.random.choice(Abuser.strangers), bytes(self.peers[0]))
                connected.sendall(initiation.first)
                if not connected.recv(SECOND_BYTES):
                    raise ConnectionResetError("the node hung up")
        except FAILURES as error:
            self.report("sybil", perf_counter() - began, 0, error)
        else:
            self.report("sybil", perf_counter() - began, 0)


def timed(user: Any, name: str, dialer: Dialer, payload: bytes) -> None:
    """One echo of `payload`, reported as `name`."""
    began = perf_counter()
    try:
        with dialer.connect(user.peers[0]) as connection, connection.exchange(ECHO, payload) as answer:
            size = len(answer.body)
    except FAILURES as error:
        user.report(name, perf_counter() - began, 0, error)
    else:
        user.report(name, perf_counter() - began, size)
