"""What dialer and node need of a way to reach a peer. A further transport joins by implementing these Protocols.

Dialing has two steps so that the resource is owned (see `cleanup.py`) before the handshake can fail: `open` makes
it, `secure` authenticates the peer over it. Listening has two halves: a `Listener` brings connections to the node's
sessions, an `Acceptance`, sans I/O, turns a connection's first bytes into a `Channel`. What a session does with the
channel - requests, limits, back-pressure - is the same for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from reference_impl.buffer_pool.buffers import Message, PooledBuffer
from reference_impl.buffer_pool.inbox import Inbox
from reference_impl.security.identity import Identity
from reference_impl.security.noise import Bytes

Address = tuple[str, int]


class Peer(bytes):
    """Whom to reach and where: a peer id (the bytes themselves, pinned when dialed) that knows its addresses.

    `addresses`: an address per transport name, in order of preference. `resumes`: whether it says that it keeps tickets
    (see `pooling/resumption.py`); no other is offered one. Two peers are equal when their ids are; being bytes, a peer
    is hashed and compared as fast as a dictionary key can be.
    """

    addresses: Mapping[str, Address]
    resumes: bool

    def __new__(cls, peer_id: bytes, addresses: Mapping[str, Address], *, resumes: bool = False) -> Peer:
        peer = super().__new__(cls, peer_id)
        peer.addresses = dict(addresses)
        peer.resumes = resumes
        return peer


class Closable(Protocol):
    """A resource that holds a descriptor."""

    def close(self) -> None: ...


class Link(Protocol):
    """An authenticated connection to a peer: one request at a time."""

    @property
    def usable(self) -> bool:
        """False while an exchange is under way and for ever after one that did not finish."""

    def exchange(self, kind: int, body: Bytes) -> Message:
        """Send one message and wait for the answer.

        Raises `OSError` (timeout, reset), `ChannelError`, or `RuntimeError` when the link is not usable.
        """

    def is_idle_and_alive(self) -> bool:
        """Without waiting: the peer has neither closed the connection nor sent anything unasked."""

    def wipe(self) -> None:
        """Forget the keys; the resource below is closed by its owner."""


class Transport(Protocol):
    """One way to reach peers."""

    @property
    def name(self) -> str: ...

    def open(self, address: Address) -> Any:
        """A connected resource (`Closable`) that is not yet authenticated. Raises `OSError`."""

    def secure(self, resource: Any, peer: Peer) -> Link:
        """Authenticate `peer` over `resource`. Raises `HandshakeError` or `OSError`; never closes `resource`."""


class Channel(Protocol):
    """An authenticated channel, sans I/O: seals outgoing messages, opens incoming bytes."""

    @property
    def peer_id(self) -> bytes: ...

    @property
    def inbox(self) -> Inbox: ...

    def seal(self, kind: int, body: Bytes) -> bytes | Iterator[PooledBuffer]:
        """The message ready for the wire (see `Buffers.seal`). Raises `ChannelError`."""

    def feed(self, data: Bytes) -> list[Message]:
        """The messages that `data` completes (see `Inbox.feed`)."""

    def trim(self) -> None:
        """Idle for a while: drop what can be rebuilt."""

    def close(self) -> None:
        """Wipe the keys and whatever was half received."""


class Acceptance(Protocol):
    """The listening end of one handshake, sans I/O. `rest` holds bytes that came behind it, for the channel."""

    @property
    def channel(self) -> Channel | None:
        """The channel once the peer is authenticated."""

    @property
    def rest(self) -> bytes: ...

    def receive(self, data: bytes) -> bytes:
        """What to send in answer to `data`, maybe nothing. Raises `ChannelError`."""


Accept = Callable[[], Acceptance]
MakeSession = Callable[[], asyncio.BufferedProtocol]


class Listener(Protocol):
    """The listening half of a transport."""

    @property
    def name(self) -> str: ...

    def acceptor(self, identity: Identity) -> Accept:
        """Makes the handshakes of connections to `identity`."""

    async def listen(self, make_session: MakeSession, host: str, port: int, backlog: int) -> tuple[Closable, Address]:
        """Bring every connection to a session of its own; what stops it, and the address. Raises `OSError`."""
