"""The node's side of a fault script: sessions that refuse, fall silent, and spoil answers on their way out."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections import Counter
from typing import Any

from reference_impl.buffer_pool.buffers import Message
from reference_impl.faults.script import Hit, Script, Spoilt, burn, calibrate, spoil
from reference_impl.security.noise import Bytes
from reference_impl.session import Entrance, Session
from reference_impl.transports.base import Channel

_LINGER_NOT = struct.pack("ii", 1, 0)
DRIP_SECONDS = 0.02
"""A throttled stream is cut into pieces of this long."""


class Playback:
    """A script being played by one node: it numbers the events and counts what struck."""

    def __init__(self, script: Script) -> None:
        script.check_for("node")
        self._script = script
        self._connections = itertools.count()
        self._messages = itertools.count()
        self._struck: Counter[str] = Counter()
        timed = any(rule.kind == "busy" and rule.seconds for rule in script.rules)
        self._seconds_per_iteration = calibrate() if timed else 0.0

    def session(self, entrance: Entrance) -> FaultySession:
        """A session that plays the script."""
        return FaultySession(entrance, self)

    def next_connection(self) -> tuple[Hit, ...]:
        """What strikes the connection that has just come."""
        return self._count(self._script.decide("node", "connection", next(self._connections)))

    def next_message(self) -> tuple[Hit, ...]:
        """What strikes the request that has just come."""
        return self._count(self._script.decide("node", "message", next(self._messages)))

    def iterations(self, hit: Hit) -> int:
        """The work of a busy fault."""
        fault = hit.fault
        return fault.iterations or max(1, round(fault.seconds / self._seconds_per_iteration))

    def gauges(self) -> dict[str, float]:
        """How often each kind struck, and what the calibration found (0 without busy seconds)."""
        return {**self._struck, "seconds_per_iteration": self._seconds_per_iteration}

    def _count(self, hits: tuple[Hit, ...]) -> tuple[Hit, ...]:
        for hit in hits:
            self._struck[hit.fault.kind] += 1
        return hits


class FaultySession(Session):
    """A session whose connection and answers a script spoils; untouched requests take the ordinary way."""

    __slots__ = ("_playback",)

    def __init__(self, entrance: Entrance, playback: Playback) -> None:
        super().__init__(entrance)
        self._playback = playback

    def connection_made(self, transport: Any) -> None:
        kinds = {hit.fault.kind for hit in self._playback.next_connection()}
        if "refuse" in kinds:
            transport.abort()
            return
        super().connection_made(transport)
        if "silent" in kinds and self._guard is not None:
            self._acceptance = _Silence()
            del self._node.unfinished[self]  # a hung process does not watch its handshakes either

    def _answer(self, message: Message) -> None:
        hits = self._playback.next_message()
        if not hits:
            super()._answer(message)
            return
        for hit in hits:
            if hit.fault.kind == "busy":
                burn(self._playback.iterations(hit))
            elif hit.fault.kind == "crash":
                message.release()
                self._node.crash(hit.fault.seconds)
                return
        transport, wire = self._transport, _Collected()
        self._transport = wire
        try:
            super()._answer(message)
        finally:
            self._transport = transport
        spoilt = spoil(bytes(wire.data), hits)
        if spoilt.seconds:
            asyncio.get_running_loop().call_later(spoilt.seconds, self._send, spoilt)
        else:
            self._send(spoilt)

    def _send(self, spoilt: Spoilt, at: int = 0) -> None:
        if self._guard is None:
            return  # the connection is gone
        data = spoilt.data
        step = max(1, int(spoilt.rate * DRIP_SECONDS)) if spoilt.rate else len(data)
        if data:
            self._transport.write(data[at : at + step])
        if at + step < len(data):
            asyncio.get_running_loop().call_later(step / spoilt.rate, self._send, spoilt, at + step)
        elif spoilt.reset:
            reset(self._transport)


def reset(transport: Any) -> None:
    """End a connection with RST instead of FIN where there is a socket to do it."""
    connected = transport.get_extra_info("socket")
    if connected is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    transport.abort()


class _Collected:
    """Takes an answer's bytes in place of the transport."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: Bytes) -> None:
        self.data += data

    def get_write_buffer_size(self) -> int:
        return 0


class _Silence:
    """A handshake that never says a word."""

    __slots__ = ()
    channel: Channel | None = None
    rest = b""

    def receive(self, data: bytes) -> bytes:
        return b""
