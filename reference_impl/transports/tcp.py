"""Noise over TCP, dialing side: a blocking socket that works under plain threads and under gevent."""

from __future__ import annotations

import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, NoReturn

from reference_impl import forks
from reference_impl import settings as check
from reference_impl.buffer_pool import Buffers
from reference_impl.buffer_pool.buffers import Message, release_all
from reference_impl.errors import FrameError, HandshakeError
from reference_impl.pooling.resumption import NO_TICKETS, Resumption
from reference_impl.security.channel import SECOND_BYTES, Initiation, second_bytes
from reference_impl.security.frame import MAX_FRAME, wire_size
from reference_impl.security.identity import Identity
from reference_impl.security.noise import Bytes
from reference_impl.transports.base import Address, Channel, Peer
from reference_impl.transports.waiting import Receiver, receiver

_READ_BYTES = wire_size(0) + MAX_FRAME
"""The head of a long message and its first record: the usual 64 KiB would cut that in two, and those behind it."""


def _unpatched_poll() -> Any:
    """`select.poll`, which never waits here and needs no cooperation: gevent's costs a trip through its hub."""
    if "gevent.monkey" in sys.modules:
        return sys.modules["gevent.monkey"].get_original("select", "poll")
    return select.poll


class TcpLink:
    """A channel (Noise's or TLS's) over one socket.

    The token in `_turn` is what a user of the link holds: taken at the start of an exchange and put back at its end,
    so two threads can never interleave frames, and an exchange that was cut short (timeout, cancellation) leaves
    the link unusable instead of handing its late answer to the next request.
    """

    __slots__ = ("__weakref__", "_channel", "_poll", "_recv", "_recv_into", "_send", "_sendall", "_socket", "_turn")

    def __init__(self, connected: socket.socket, channel: Channel, reading: Receiver | None = None) -> None:
        reading = reading or connected
        self._socket = connected
        self._channel = channel
        self._recv, self._recv_into = reading.recv, reading.recv_into
        self._send = connected.send
        self._sendall = connected.sendall
        self._turn: deque[None] = deque((None,))
        self._poll: Any = None
        forks.join(self)

    @property
    def usable(self) -> bool:
        return bool(self._turn)

    def exchange(self, kind: int, body: Bytes) -> Message:
        try:
            self._turn.pop()
        except IndexError:
            raise RuntimeError("link is in use, or an earlier exchange over it was cut short") from None
        wire = self._channel.seal(kind, body)
        if isinstance(wire, bytes):
            sent = self._send(wire)  # `_send_all`, written out
            if sent < len(wire):
                self._sendall(wire[sent:])
        else:
            for piece in wire:
                with piece:
                    self._sendall(piece.view)
        message = self._receive()
        self._turn.append(None)
        return message

    def _receive(self) -> Message:
        inbox = self._channel.inbox
        data = self._recv(_READ_BYTES)
        messages = inbox.feed(data) if data else _ended()
        while not messages:
            space = inbox.space()
            if space is None:
                ahead = inbox.ahead
                data = self._recv((ahead - 1) % MAX_FRAME + 1 if ahead else _READ_BYTES)  # to the end of a record
                messages = inbox.feed(data) if data else _ended()
            else:
                with space:
                    size = self._recv_into(space.view)
                    messages = inbox.feed(space.view[:size]) if size else _ended()
        if len(messages) > 1:
            release_all(messages)
            raise FrameError("peer sent more than the answer that was asked for")
        return messages[0]

    def is_idle_and_alive(self) -> bool:
        if self._poll is None:
            self._poll = _unpatched_poll()()
            self._poll.register(self._socket.fileno(), select.POLLIN | select.POLLPRI)
        return not self._poll.poll(0)

    def wipe(self) -> None:
        self._turn.clear()
        self._channel.close()

    def after_fork(self) -> None:
        """A nonce must never be used twice, so no inherited link may ever be used."""
        self.wipe()  # the token alone would come back with an exchange that was under way


def _ended() -> NoReturn:
    raise ConnectionResetError("peer closed the connection before its answer was complete")


@dataclass(frozen=True, slots=True)
class TcpSettings:
    """Time limits of the dialing side, seconds: `connect_timeout` for the TCP connect and again for the handshake,
    `request_timeout` for each wait within a request.
    """

    connect_timeout: float = 5.0
    request_timeout: float = 30.0

    def __post_init__(self) -> None:
        check.positive("tcp", "connect_timeout", self.connect_timeout)
        check.positive("tcp", "request_timeout", self.request_timeout)


class TcpTransport:
    """Dials TCP addresses."""

    name = "tcp"

    def __init__(
        self, identity: Identity, buffers: Buffers, settings: TcpSettings, tickets: Resumption = NO_TICKETS
    ) -> None:
        self._identity = identity
        self._buffers = buffers
        self._settings = settings
        self._tickets = tickets

    def open(self, address: Address) -> socket.socket:
        connected = _connect(address, self._settings.connect_timeout)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def secure(self, resource: socket.socket, peer: Peer) -> TcpLink:
        initiation = Initiation(self._identity, bytes(peer), self._tickets if peer.resumes else NO_TICKETS)
        _send_all(resource, initiation.first)
        last, channel = initiation.finish(_receive_second(resource, self._settings.connect_timeout), self._buffers)
        _send_all(resource, last)
        return TcpLink(resource, channel, receiver(resource, self._settings.request_timeout))


def _connect(address: Address, timeout: float) -> socket.socket:
    """Like `socket.create_connection`, which gevent sends through a resolver's thread even for a numeric address."""
    try:
        socket.inet_pton(socket.AF_INET, address[0])
    except OSError:
        return socket.create_connection(address, timeout)
    connected = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        connected.settimeout(timeout)
        connected.connect(address)
    except BaseException:
        connected.close()
        raise
    return connected


def _send_all(connected: socket.socket, data: bytes) -> None:
    """`send` nearly always takes all of a small message; gevent's `sendall` costs several calls more."""
    sent = connected.send(data)
    if sent < len(data):
        connected.sendall(data[sent:])


def _receive_second(connected: socket.socket, timeout: float) -> bytes:
    """The second frame within `timeout` seconds in all: a peer that drips bytes gains no time by it."""
    deadline = time.monotonic() + timeout
    data = connected.recv(SECOND_BYTES)
    while len(data) < (size := second_bytes(data)):
        if not data or (left := deadline - time.monotonic()) <= 0:
            raise HandshakeError("peer left or fell silent during the handshake")
        connected.settimeout(left)
        more = connected.recv(size - len(data))
        data = data + more if more else b""
    return data
