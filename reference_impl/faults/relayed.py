"""One relayed connection: two ends, and two directions in which bytes arrive late, slow or spoilt.

The dialer has connected to the relay at once, where over a distance TCP's own handshake would have taken a round trip:
so the first that it sends sets out one later.

Laws: bytes of a direction arrive in order; its end (half-close or reset) arrives behind its last byte; a direction
that holds too much stops reading from its source, never drops.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from reference_impl.faults.faulty import DRIP_SECONDS, reset
from reference_impl.faults.script import LINK_SPAN, Hit

if TYPE_CHECKING:
    from reference_impl.faults.relay import Relay

_HELD_MOST = 1024 * 1024
"""Bytes on their way in one direction before the source is made to wait."""
_TICK = 0.0005
"""Timers tick in milliseconds: what is due within half of one goes along."""


class Relayed:
    """The two ends of one relayed connection. `hits` strike the direction towards the dialer."""

    def __init__(self, relay: Relay, dialer: Any, hits: tuple[Hit, ...]) -> None:
        one_way = relay.one_way + sum(hit.fault.seconds for hit in hits if hit.fault.kind == "delay") / 2
        self.relay = relay
        self.up = Direction(self, one_way, (), sets_out=asyncio.get_running_loop().time() + 2 * one_way)
        self.down = Direction(self, one_way, hits)
        self.up.source = self.down.target = dialer
        self._ends = [dialer]
        relay.open.add(self)

    @property
    def alive(self) -> bool:
        return self in self.relay.open

    def connected(self, node: Any) -> None:
        """The node has been reached: both directions flow."""
        if not self.alive:  # the dialer has left meanwhile
            node.abort()
            return
        self._ends.append(node)
        self.down.source = node
        self.up.reached(node)

    def ended(self) -> None:
        """One direction has brought its end; with both, the connection is over."""
        if self.up.over and self.down.over:
            self.cut(rudely=False)

    def cut(self, *, rudely: bool = True) -> None:
        """Both ends are over: by reset, or by closing behind what is written."""
        self.relay.open.discard(self)
        for end in self._ends:
            if rudely:
                reset(end)
            else:
                end.close()


class Direction:
    """Bytes on their way from `source` to `target`. `full`: the target takes no more now; `over`: it has got all."""

    def __init__(self, relayed: Relayed, one_way: float, hits: tuple[Hit, ...], sets_out: float = 0.0) -> None:
        self.source: Any = None
        self.target: Any = None
        self.full = self.over = False
        self._relayed = relayed
        self._one_way = one_way
        self._rate = min((hit.fault.rate for hit in hits if hit.fault.kind == "throttle"), default=0.0)
        self._corrupt = sorted(hit.position(LINK_SPAN) for hit in hits if hit.fault.kind == "corrupt")
        self._reset = min((hit.position(LINK_SPAN) for hit in hits if hit.fault.kind == "reset"), default=None)
        self._carried = self._held = 0
        self._free_at = sets_out
        self._flying: deque[tuple[float, bytes | None]] = deque()
        self._early = b""

    def carry(self, data: bytes) -> None:
        """Bytes that the source sent."""
        start, self._carried = self._carried, self._carried + len(data)
        for position in self._corrupt:
            if start <= position < self._carried:
                at = position - start
                data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
        if self._reset is not None and self._carried > self._reset:
            data = data[: max(0, self._reset - start)]
        if self._one_way or self._rate:
            self._launch(data)
        else:
            self._arrive(data)
        if self._reset is not None and self._carried > self._reset:
            self.finish(None)

    @property
    def flying(self) -> bool:
        """Whether something is on its way."""
        return bool(self._flying)

    def finish(self, last: bytes | None) -> None:
        """Behind all that flies, the end: b"" half-closes the target, None resets both."""
        if self._flying:
            self._flying.append((self._flying[-1][0], last))
        else:
            self._arrive_end(last)

    def reached(self, target: Any) -> None:
        """There is a target now: it gets what came before it."""
        self.target = target
        if self._early:
            target.write(self._early)
            self._early = b""
        if self.over:
            target.write_eof()
        self.regulate()

    def regulate(self) -> None:
        """Let the source send while there is somewhere to go with it."""
        if self.source is None or self.source.is_closing():
            return
        if self.full or self._held > _HELD_MOST:
            self.source.pause_reading()
        else:
            self.source.resume_reading()

    def _launch(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        step = max(1, int(self._rate * DRIP_SECONDS)) if self._rate else len(data) or 1
        idle = not self._flying
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            self._free_at = max(loop.time(), self._free_at) + (len(piece) / self._rate if self._rate else 0.0)
            self._flying.append((self._free_at + self._one_way, piece))
        if idle and self._flying:
            loop.call_at(self._flying[0][0], self._land)
        self._held += len(data)
        self.regulate()

    def _land(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + _TICK
        while self._flying and self._flying[0][0] <= due:
            _, data = self._flying.popleft()
            if data:
                self._held -= len(data)
                self._arrive(data)
            else:
                self._arrive_end(data)
        if self._flying:
            loop.call_at(self._flying[0][0], self._land)
        self.regulate()

    def _arrive(self, data: bytes) -> None:
        if not (data and self._relayed.alive):
            return
        self._relayed.relay.carried += len(data)
        if self.target is None:
            self._early += data
        elif not self.target.is_closing():  # by an error, whose end is still on its way
            self.target.write(data)

    def _arrive_end(self, last: bytes | None) -> None:
        if not self._relayed.alive or self.over:
            return
        self.over = True
        if last is None:
            self._relayed.cut()
            return
        if self.target is not None and not self.target.is_closing():
            self.target.write_eof()
        self._relayed.ended()


class _End(asyncio.Protocol):
    """What both ends have in common: `_into` carries what this end sends, `_from` brings what it gets."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._relayed: Relayed | None = None
        self._into: Direction | None = None
        self._from: Direction | None = None

    def data_received(self, data: bytes) -> None:
        if self._into is not None:
            self._into.carry(data)

    def eof_received(self) -> bool:
        if self._into is not None:
            self._into.finish(b"")
        return self._into is not None

    def pause_writing(self) -> None:
        self._regulate(full=True)

    def resume_writing(self) -> None:
        self._regulate(full=False)

    def _regulate(self, *, full: bool) -> None:
        if self._from is not None:
            self._from.full = full
            self._from.regulate()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._relayed is not None and self._relayed.alive:
            if exc is not None and self._into is not None and self._into.flying:
                self._into.finish(None)
            else:
                self._relayed.cut(rudely=exc is not None)


class DialerEnd(_End):
    """The end that a dialer has connected to; it connects to `target` in turn, unless the script is against it."""

    def __init__(self, relay: Relay, target: tuple[str, int]) -> None:
        super().__init__(relay)
        self._target = target
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        relay = self._relay
        hits = relay.strike()
        kinds = {hit.fault.kind for hit in hits}
        if "refuse" in kinds or relay.is_down():
            reset(transport)
            return
        self._relayed = relayed = Relayed(relay, transport, hits)
        if "silent" in kinds:
            return
        self._into, self._from = relayed.up, relayed.down
        transport.pause_reading()
        self._connecting = asyncio.get_running_loop().create_task(self._connect(relayed))

    async def _connect(self, relayed: Relayed) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _NodeEnd(relayed), *self._target)
        except OSError:
            relayed.cut()


class _NodeEnd(_End):
    def __init__(self, relayed: Relayed) -> None:
        super().__init__(relayed.relay)
        self._relayed = relayed
        self._into, self._from = relayed.down, relayed.up

    def connection_made(self, transport: Any) -> None:
        assert self._relayed is not None
        self._relayed.connected(transport)
