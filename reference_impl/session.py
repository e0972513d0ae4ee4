"""The request side of a connection, the same for every transport: greet, answer, hold back, let go.

Laws: a connection owns no buffer while it is idle; a peer has one request under way at a time; a pooled buffer
goes back only when the transport has nothing left to send.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reference_impl.buffer_pool.buffers import Message, PooledBuffer, release_all
from reference_impl.errors import ChannelError, FrameError, HandshakeError
from reference_impl.metrics import Recorder
from reference_impl.security.noise import Bytes
from reference_impl.service import rejection
from reference_impl.transports.base import Accept, Acceptance, Channel

if TYPE_CHECKING:
    from reference_impl.node import Node

_WRITE_HIGH = 4095
_LOOK_AGAIN = 0.01
_TOO_EARLY = "peer sent a request before the answer to the last one"


@dataclass(frozen=True, slots=True, eq=False)
class Entrance:
    """Where connections over one transport to one identity come in. `arrivals` counts them while they are nobody's."""

    node: Node
    transport: str
    accept: Accept
    arrivals: Recorder


class Session(asyncio.BufferedProtocol):
    """One accepted connection: first its handshake, then its requests.

    `arena` is where its transport leaves received bytes: the loop fills and empties it in one step, so that all
    connections of a loop share the node's.
    """

    __slots__ = (
        "_acceptance",
        "_began",
        "_channel",
        "_entrance",
        "_guard",
        "_node",
        "_recorder",
        "_transport",
        "_unsent",
        "arena",
    )  # fmt: skip

    def __init__(self, entrance: Entrance) -> None:
        self._node = entrance.node
        self._entrance = entrance
        self._transport: Any = None
        self._guard: Any = None
        self._channel: Channel | None = None
        self._acceptance: Acceptance | None = None
        self._recorder = entrance.arrivals
        self._unsent: list[PooledBuffer] | None = None
        self._began = 0.0
        self.arena = entrance.node.arena

    def connection_made(self, transport: Any) -> None:
        node, settings = self._node, self._node.settings
        self._recorder.attempt()
        source = (transport.get_extra_info("peername") or ("?",))[0]
        full = len(node.unfinished) >= settings.max_handshakes
        if full or node.cleanup.open_connections() >= settings.max_connections or node.rooms.source_limit.check(source):
            node.refused += 1
            transport.abort()
            return
        self._transport = transport
        self._guard = node.cleanup.guard(transport)
        self._began = time.monotonic()
        node.unfinished[self] = self._began + settings.handshake_timeout
        transport.set_write_buffer_limits(high=_WRITE_HIGH, low=0)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._began and self._channel is not None and (ahead := self._channel.inbox.ahead):
            return self.arena[:ahead]
        return self.arena

    def buffer_updated(self, nbytes: int) -> None:
        if self._guard is None:  # it has failed already
            return
        data = self.arena[:nbytes]
        channel = self._channel
        try:
            if channel is None:
                self._greet(bytes(data))
            else:
                self._feed(channel, data)
        except ChannelError as error:
            self.fail(error)

    def _greet(self, data: bytes) -> None:
        """Advance the handshake by whatever has arrived; it may hold the first request already."""
        acceptance = self._acceptance
        if acceptance is None:
            acceptance = self._acceptance = self._entrance.accept()
        answer = acceptance.receive(data)
        if answer:
            self._transport.write(answer)
        channel = acceptance.channel
        if channel is None:
            return
        self._channel, self._acceptance = channel, None
        self._welcome(channel)
        self._settle()
        self._node.touched[self] = None
        self._feed(channel, acceptance.rest)

    def _welcome(self, channel: Channel) -> None:
        node = self._node
        self._recorder = recorder = node.rooms.metrics.recorder(channel.peer_id, self._entrance.transport)
        recorder.opened(time.monotonic() - self._began)
        node.recorders[self._guard.id] = recorder

    def _feed(self, channel: Channel, data: Bytes) -> None:
        messages = channel.feed(data)
        if messages:
            if self._began:
                self._settle()
            if len(messages) > 1:
                release_all(messages)
                raise FrameError(_TOO_EARLY)
            self._answer(messages[0])
        if not self._began and not channel.inbox.between:  # a message may have begun behind the one that is answered
            self._expect()

    def _expect(self) -> None:
        """From now on the peer owes us something: the rest of a message, or that it takes our answer."""
        owing, settings = self._node.owing, self._node.settings
        self._began = time.monotonic()
        owing[self] = self._began + settings.message_timeout
        if len(owing) > settings.max_owing:
            next(iter(owing)).give_up(FrameError("too many messages are under way, this one for longest"))

    def _settle(self) -> None:
        """The peer owes us nothing any more."""
        self._began = 0.0
        self._node.unfinished.pop(self, None)
        self._node.owing.pop(self, None)

    def _answer(self, message: Message) -> None:
        began = time.perf_counter()
        node = self._node
        channel = self._channel
        assert channel is not None
        with message:
            retry_after = node.rooms.peer_limit.check(channel.peer_id)
            kind, body = rejection(retry_after) if retry_after else node.service.answer(message.kind, message.body)
            sent, received = len(body), len(message.body)
            wire = channel.seal(kind, body)
            if isinstance(wire, bytes):
                self._transport.write(wire)
            else:
                self._write_buffers(wire)
        node.touched[self] = None
        self._recorder.request(time.perf_counter() - began, sent, received)

    def _write_buffers(self, pieces: Iterable[PooledBuffer]) -> None:
        """Write pooled buffers; each stays ours until the transport has nothing left to send."""
        transport = self._transport
        unsent = self._unsent = self._unsent or []
        for piece in pieces:
            transport.write(piece.view)
            unsent.append(piece)
        if transport.get_write_buffer_size() == 0:
            self._release_sent()
        else:
            asyncio.get_running_loop().call_soon(self._after_write)

    def _after_write(self) -> None:
        if self._unsent is None:
            return
        left = self._transport.get_write_buffer_size()
        if left == 0:
            self._taken()
        elif left <= _WRITE_HIGH:  # beyond it the transport itself tells when it is empty
            if not self._began:
                self._expect()
            asyncio.get_running_loop().call_later(_LOOK_AGAIN, self._after_write)

    def _release_sent(self) -> None:
        unsent, self._unsent = self._unsent, None
        for piece in unsent or ():
            piece.release()

    def pause_writing(self) -> None:
        """The peer reads too slowly: take no further request until it has taken the answer."""
        self._transport.pause_reading()
        if not self._began:
            self._expect()

    def resume_writing(self) -> None:
        self._taken()
        self._transport.resume_reading()

    def _taken(self) -> None:
        """The peer has its answer. Of a message that has begun behind its request, the rest is due from now on."""
        self._release_sent()
        if self._began:
            self._settle()
            if self._channel is not None and not self._channel.inbox.between:
                self._expect()

    def trim(self) -> None:
        """Idle for a while: keep the keys, drop the AEAD contexts."""
        if self._channel is not None:
            self._channel.trim()

    def give_up(self, error: ChannelError) -> None:
        """As `fail`, at once: a transport that is only closed waits until the peer has taken the rest of its answer."""
        self._transport.abort()
        self.fail(error)

    def fail(self, error: ChannelError) -> None:
        """The peer broke the protocol: the connection dies, by way of its guard."""
        guard = self._guard
        if guard is not None and self._transport.get_write_buffer_size():  # closing would wait for the peer to take it
            self._transport.abort()
        self._node.unfinished.pop(self, None)
        self._node.owing.pop(self, None)
        if self._recorder is self._entrance.arrivals:
            self._recorder.failed()
            self._guard = None  # nothing was established, so there is nothing to close a second time
        if guard is not None:
            guard.__exit__(type(error), error, None)

    def connection_lost(self, exc: Exception | None) -> None:
        node = self._node
        self._acceptance = None
        if self._recorder is self._entrance.arrivals and self._guard is not None:
            self.fail(HandshakeError("peer left during the handshake"))
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._release_sent()
        node.touched.pop(self, None)
        node.unfinished.pop(self, None)
        node.owing.pop(self, None)
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.release()
