"""What the dialer needs of a way to reach a peer. A third transport joins by implementing `Transport` and `Link`.

Dialing has two steps so that the resource is owned (see `cleanup.py`) before the handshake can fail: `open` makes
it, `secure` authenticates the peer over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from reference_impl.buffers import Message
from reference_impl.noise import Bytes

Address = tuple[str, int]


class Peer(bytes):
    """Whom to reach and where: a peer id (the bytes themselves, pinned when dialed) that knows its addresses.

    `addresses`: an address per transport name, in order of preference. Two peers are equal when their ids are; being
    bytes, a peer is hashed and compared as fast as a dictionary key can be.
    """

    addresses: Mapping[str, Address]

    def __new__(cls, peer_id: bytes, addresses: Mapping[str, Address]) -> Peer:
        peer = super().__new__(cls, peer_id)
        peer.addresses = dict(addresses)
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

    name: str

    def open(self, address: Address) -> Any:
        """A connected resource (`Closable`) that is not yet authenticated. Raises `OSError`."""

    def secure(self, resource: Any, peer_id: bytes) -> Link:
        """Authenticate `peer_id` over `resource`. Raises `HandshakeError` or `OSError`; never closes `resource`."""
