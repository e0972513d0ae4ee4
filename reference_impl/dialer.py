"""The client: `with dialer.connect(peer) as connection: connection.request(payload)`.

Synchronous, for plain threads and for gevent alike. The dialer owns no policy: which connection is lent is the
pool's business, which transport is tried the breaker's, what is released when something breaks the guard's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, cast

from reference_impl.buffer_pool import Buffers
from reference_impl.buffer_pool.buffers import Message
from reference_impl.circuit_breaker import Attempts
from reference_impl.cleanup import Cleanup, Guard
from reference_impl.metrics import Metrics, Recorder
from reference_impl.pooling.lease import Lease, LeaseError, Pool
from reference_impl.pooling.resumption import Resumption
from reference_impl.security.frame import check_body
from reference_impl.security.noise import Bytes
from reference_impl.service import ECHO, OK, SINK, SIZE, SNAPSHOT, SOURCE, STATS, refuse
from reference_impl.transports.base import Link, Peer, Transport

Key = tuple[bytes, str]
_clock = time.monotonic  # the breakers' too, which are told when a request began
_GIVEN_BACK = "this connection was given back"


class Established:
    """What the pool keeps: a connection that was authenticated once, with what belongs to it."""

    __slots__ = ("guard", "key", "link", "recorder")

    def __init__(self, link: Link, guard: Guard, key: Key, recorder: Recorder) -> None:
        self.link = link
        self.guard = guard
        self.key = key
        self.recorder = recorder

    def is_alive(self) -> bool:
        """Without waiting: the idle connection can still be used."""
        return self.link.usable and self.link.is_idle_and_alive()

    def close(self) -> None:
        """Wipe the keys, close the socket, run the hooks."""
        self.link.wipe()
        self.guard.release()


class Connection:
    """An authenticated connection to one peer, lent by `Dialer.connect` to one user at a time.

    Leaving its `with` block gives it back, or has it closed when it broke. From then on it reaches nothing: every call
    raises `LeaseError`, so that a connection kept too long cannot speak on what has become somebody else's.
    """

    __slots__ = ("_answered", "_dialer", "_lease")
    # Filled in by `Dialer.connect`: an __init__ would cost a tenth of lending and taking back.
    _dialer: Dialer
    _lease: Lease[Established]
    _answered: float | None  # when the last request that was answered began

    @property
    def _established(self) -> Established:
        try:
            return self._lease.connection
        except AttributeError:
            raise LeaseError(_GIVEN_BACK) from None

    @property
    def key(self) -> Key:
        """The authenticated identity of the other end, and the name of the transport."""
        return self._established.key

    @property
    def peer_id(self) -> bytes:
        """The authenticated identity of the other end."""
        return self.key[0]

    @property
    def usable(self) -> bool:
        """False after an exchange that did not finish."""
        return self._established.link.usable

    def is_alive(self) -> bool:
        """Without waiting: the peer has not left, and nothing unasked for has arrived."""
        return self._established.is_alive()

    def request(self, payload: Bytes) -> bytes:
        """The peer's echo of `payload`, as bytes of our own.

        Raises `OSError` (and its `ChannelError`) when the connection is lost, `Rejected` when the peer's limiter
        refuses.
        """
        message = self.exchange(ECHO, payload)
        if type(message.body) is bytes:  # its own already: nothing is borrowed
            return message.body
        with message:
            return bytes(message.body)

    def upload(self, payload: Bytes) -> int:
        """Send `payload` to the peer's sink; returns the bytes it counted."""
        with self.exchange(SINK, payload) as message:
            return cast(int, SIZE.unpack(message.body)[0])

    def download(self, size: int) -> Message:
        """`size` bytes from the peer's source, in a message to be released."""
        return self.exchange(SOURCE, SIZE.pack(size))

    def stats(self) -> dict[str, Any]:
        """The node's gauges by room."""
        with self.exchange(STATS, b"") as message:
            return cast("dict[str, Any]", json.loads(bytes(message.body)))

    def snapshot(self) -> int:
        """Have the node take a snapshot of its metrics; returns how many series it holds."""
        with self.exchange(STATS, SNAPSHOT) as message:
            return cast(int, json.loads(bytes(message.body))["series"])

    def exchange(self, kind: int, payload: Bytes) -> Message:
        """One request and its answer; the message's body is valid until its `release` (or the end of its `with`)."""
        check_body(len(payload))  # here, where it is the caller's mistake and costs no connection
        try:
            established = self._lease.connection
        except AttributeError:
            raise LeaseError(_GIVEN_BACK) from None
        began = _clock()
        try:
            message = established.link.exchange(kind, payload)
        except OSError:  # told here: by the end of the block its user may have made anything of it
            self._dialer.attempts.failed(established.key, began)
            raise
        self._answered = began
        established.recorder.request(_clock() - began, len(payload), len(message.body))
        if message.kind != OK:
            with message:
                refuse(message.kind, message.body)
        return message

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            established = self._lease.connection
        except AttributeError:
            raise LeaseError(_GIVEN_BACK) from None
        dialer = self._dialer
        if established.link.usable:
            try:
                if self._answered is not None:
                    dialer.attempts.succeeded(established.key, self._answered)
            finally:
                dialer.pool.checkin(self._lease)
            return
        try:
            if kind is None:  # the caller dealt with the error of a request; its connection is over all the same
                established.guard.release()
            else:
                established.guard.__exit__(kind, error, traceback)
        finally:
            if established.guard.released:
                dialer.pool.discard(self._lease)
            else:  # the off side of cleanup leaves open what something else than an I/O error broke off
                dialer.pool.abandon(self._lease)


class Dialer:
    """Lends authenticated connections to peers. Made by `assemble.dialer`; thread-safe; `close` when done."""

    def __init__(
        self,
        transports: Mapping[str, Transport],
        *,
        make_cleanup: Callable[..., Cleanup],
        attempts: Attempts,
        buffers: Buffers,
        metrics: Metrics,
        make_pool: Callable[..., Pool[Established]],
        tickets: Resumption,
        cleanup_interval: float,
    ) -> None:
        self._transports = transports
        self.cleanup = make_cleanup(self.on_close, self.on_connection_closed)
        self.attempts = attempts
        self.buffers = buffers
        self.metrics = metrics
        self.tickets = tickets
        self.recorders: dict[int, Recorder] = {}
        self._cleanup_interval = cleanup_interval
        self._sweep_due = _clock() + cleanup_interval
        self.pool = make_pool(connect=self._establish, close=Established.close, is_alive=Established.is_alive)

    def connect(self, peer: Peer) -> Connection:
        """An authenticated connection to `peer`, new or reused.

        Raises `OSError` when the peer cannot be reached by any transport, `IdentityError` when it is somebody else,
        and the pool's or the breaker's own refusals.
        """
        if _clock() >= self._sweep_due:
            self.sweep()
        connection = Connection()
        connection._lease = self.pool.checkout(peer)
        connection._dialer = self
        connection._answered = None
        return connection

    def _establish(self, peer: Peer) -> Established:
        keys = [(bytes(peer), name) for name in peer.addresses if name in self._transports]
        if not keys:
            told, known = (", ".join(each) or "nothing" for each in (peer.addresses, self._transports))
            raise ConnectionError(f"the peer is reached by {told}, this dialer reaches by {known}")
        return self.attempts.connect(keys, lambda key: self._dial(peer, cast(Key, key)))

    def _dial(self, peer: Peer, key: Key) -> Established:
        transport = self._transports[key[1]]
        recorder = self.metrics.recorder(*key)
        recorder.attempt()
        began = _clock()
        try:
            resource = transport.open(peer.addresses[key[1]])
            with self.cleanup.guard(resource) as guard:
                link = transport.secure(resource, peer)
        except OSError:
            recorder.failed()
            raise
        recorder.opened(_clock() - began)
        self.recorders[guard.id] = recorder
        return Established(link, guard, key, recorder)

    def on_close(self, number: int) -> None:
        """The metrics' hook of the guards: connection `number` is being released."""
        if number in self.recorders:
            self.recorders[number].closed()

    def on_connection_closed(self, number: int) -> None:
        """The manager's hook of the guards: forget `number`; one that never finished its handshake is unknown here."""
        self.recorders.pop(number, None)

    def sweep(self) -> None:
        """One round of housekeeping: expired idle connections, deferred releases, idle map entries.

        Runs by itself when a connection is asked for and the last round is the pool's `cleanup_interval` ago.
        """
        self._sweep_due = _clock() + self._cleanup_interval
        for room in (self.pool, self.tickets, self.cleanup, self.attempts, self.buffers, self.metrics):
            room.sweep()

    def gauges(self) -> dict[str, dict[str, float]]:
        """The dialer's gauges by room."""
        return {
            "pooling": {**self.pool.gauges(), **self.tickets.gauges()},
            "cleanup": self.cleanup.gauges(),
            "circuit_breaker": self.attempts.gauges(),
            "buffer_pool": self.buffers.gauges(),
            "metrics": self.metrics.gauges(),
        }

    def close(self) -> None:
        """Close every connection, forget every ticket."""
        self.pool.close()
        self.tickets.close()
        self.cleanup.close()
