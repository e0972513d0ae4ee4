"""Can one abuser take what the others need? First one peer floods the node, then one that is somebody new each time.

"request" are the well-behaved peers, "abuse" the single abuser, "sybil" the attacker who begins a handshake per
connection, as somebody new each time, and leaves before saying who: from an address of its own (127.0.0.2; where there
is none, from everybody's). No switch reaches the attackers: they keep connections, or none, as suits them.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import struct
from time import perf_counter
from typing import Any, cast

from locust import constant, events, task

from reference_impl.buffer_pool import Allocating, BufferSettings
from reference_impl.dialer import Dialer
from reference_impl.errors import Rejected
from reference_impl.security.channel import SECOND_BYTES, Channel, Initiation
from reference_impl.security.frame import LENGTH_BYTES, wire_size
from reference_impl.security.identity import Identity
from reference_impl.service import SECONDS as RETRY_AFTER
from reference_impl.service import SIZE, SOURCE
from reference_impl.transports.base import Peer
from scenarios.load.episode import EpisodeUser
from scenarios.load.session import flat, session
from scenarios.load.users import FAILURES

SECONDS = float(os.environ.get("FLOOD_SECONDS", "4"))
"of the whole flood: the single abuser has its first half"
ABUSERS = 4
WANTED = 1024 * 1024
"bytes that the abuser asks for, in a request of four"
PAYLOAD = os.urandom(1024)
PAUSE = 0.001
TIMEOUT = 1.0
"seconds that an attacker waits for anything"
ELSEWHERE = "127.0.0.2"
STRANGERS = 500
_RESET = struct.pack("ii", 1, 0)

_dialers: dict[Any, list[Dialer]] = {}
"everybody's, of a running environment; those of users that are gone still tell what they did"


@events.test_stop.add_listener
def _forget(environment: Any, **_: Any) -> None:
    _dialers.pop(environment, None)


def keep_house(environment: Any) -> None:
    """Once for everybody: the dialers of all of them."""
    for dialer in _dialers[environment]:
        dialer.sweep()


def together(environment: Any) -> dict[str, float]:
    """The gauges of everybody's dialers: sums, and of the one share among them the share of the whole."""
    each = [flat(dialer.gauges()) for dialer in _dialers[environment]]
    total = {name: sum(gauges.get(name, 0.0) for gauges in each) for name in each[0]}
    acquired = total["buffer_pool.acquired"]
    total["buffer_pool.reuse_ratio"] = 1.0 - total["buffer_pool.allocated"] / acquired if acquired else 0.0
    return total


class HonestUser(EpisodeUser):
    """One of many: asks, reads, thinks 10 ms."""

    ALONE = {  # noqa: RUF012 - limits that an abuser meets
        "rate_limit": {"max_requests_per_second": 100.0, "burst_size": 10},
        "source_limit": {"max_requests_per_second": 50.0, "burst_size": 50},
    }
    weight = 1
    wait_time = constant(0.01)

    def on_start(self) -> None:
        super().on_start()
        self.own = session(self.environment).make_dialer()  # a peer of its own right
        if self.environment not in _dialers:
            _dialers[self.environment] = [self.dialer]
            alone = self.environment.synapsed_gauges
            self.environment.synapsed_gauges = lambda: {**alone(), **together(self.environment)}
            self.environment.synapsed_housekeeping = lambda: keep_house(self.environment)
        _dialers[self.environment].append(self.own)

    def on_stop(self) -> None:
        self.own.close()

    @task
    def ask(self) -> None:
        self.now()
        began = perf_counter()
        try:
            with self.own.connect(self.peers[0]) as connection:
                size = len(connection.request(PAYLOAD))
        except FAILURES as error:
            self.report("request", perf_counter() - began, 0, error)
        else:
            self.report("request", perf_counter() - began, size)


class Glutton:
    """A connection whose answers are thrown away unopened: the node has to seal what nobody opens."""

    _trash = memoryview(bytearray(wire_size(WANTED) - LENGTH_BYTES))
    _refusal = wire_size(RETRY_AFTER.size) - LENGTH_BYTES

    def __init__(self, identity: Identity, peer: Peer) -> None:
        self._socket = connected(peer)
        self._stream = self._socket.makefile("rb")
        try:
            self._channel = self._introduce(Initiation(identity, bytes(peer)))
        except BaseException:
            self.close()
            raise

    def _introduce(self, initiation: Initiation) -> Channel:
        self._socket.sendall(initiation.first)
        last, channel = initiation.finish(self._read(SECOND_BYTES), Allocating(BufferSettings()))
        self._socket.sendall(last)
        return channel

    def gorge(self) -> int:
        """Ask for WANTED bytes and let them come. Raises `Rejected`, `OSError`."""
        self._socket.sendall(cast(bytes, self._channel.seal(SOURCE, SIZE.pack(WANTED))))
        record = int.from_bytes(self._read(LENGTH_BYTES), "big")
        if record == self._refusal:
            self._read(record)
            raise Rejected(math.nan)  # how long to wait is in what was not opened
        if self._stream.readinto(self._trash) < len(self._trash):
            raise ConnectionResetError("the node hung up")
        return WANTED

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise ConnectionResetError("the node hung up")
        return data

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


def connected(peer: Peer, source: str = "") -> socket.socket:
    """A connection to `peer`, from the address `source` where there is such a one. It ends with a reset: who says
    goodbye keeps the port for another minute, and thousands of connections would soon look for a free one.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        opened.settimeout(TIMEOUT)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if source:
            try:
                opened.bind((source, 0))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
        opened.connect(peer.addresses["tcp"])
    except BaseException:
        opened.close()
        raise
    return opened


class Abuser(EpisodeUser):
    """One of the greenlets of the attack."""

    fixed_count = ABUSERS
    wait_time = constant(PAUSE)
    identities: list[Identity] = []  # noqa: RUF012 - the abuser's, then strangers': made once, shared by all abusers

    def on_start(self) -> None:
        super().on_start()
        self.glutton: Glutton | None = None
        self.peers = session(self.environment).over_tcp()
        while len(Abuser.identities) < 1 + STRANGERS:
            Abuser.identities.append(Identity.generate())

    def on_stop(self) -> None:
        self.leave()

    def leave(self) -> None:
        if self.glutton is not None:
            self.glutton.close()
            self.glutton = None

    @task
    def attack(self) -> None:
        if self.now() < SECONDS / 2:
            self.abuse()
        else:
            self.leave()
            self.come_as_a_stranger()

    def abuse(self) -> None:
        began = perf_counter()
        try:
            if self.glutton is None:
                self.glutton = Glutton(Abuser.identities[0], self.peers[0])
            size = self.glutton.gorge()
        except FAILURES as error:
            if not isinstance(error, Rejected):
                self.leave()
            self.report("abuse", perf_counter() - began, 0, error)
        else:
            self.report("abuse", perf_counter() - began, size)

    def come_as_a_stranger(self) -> None:
        """A connection and the beginning of a handshake; "sybil" is answered when the node sends its part of it."""
        began = perf_counter()
        try:
            with connected(self.peers[0], ELSEWHERE) as opened:
                stranger = self.random.choice(Abuser.identities[1:])
                opened.sendall(Initiation(stranger, bytes(self.peers[0])).first)
                if not opened.recv(SECOND_BYTES):
                    raise ConnectionResetError("the node hung up")
        except FAILURES as error:
            self.report("sybil", perf_counter() - began, 0, error)
        else:
            self.report("sybil", perf_counter() - began, 0)
