"""An authenticated channel between two peers, sans I/O: the Noise handshake with identities, then messages.

Each end proves that its identity signed the static key it uses; the initiator names the peer it wants and accepts
no other. Two ends that have met, and both kept a ticket of it, resume instead (see `pooling/resumption.py`). Handshake
messages travel in the same 2-byte frames as records.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from reference_impl.buffer_pool import Buffers
from reference_impl.buffer_pool.buffers import Message, PooledBuffer
from reference_impl.buffer_pool.inbox import Inbox
from reference_impl.errors import HandshakeError
from reference_impl.pooling.resumption import NAME_BYTES, NO_TICKETS, Resumption, Ticket
from reference_impl.security.frame import LENGTH_BYTES
from reference_impl.security.identity import PROOF_BYTES, Identity, verify_proof
from reference_impl.security.noise import NN_PSK0, TAG_BYTES, Bytes, CipherState, Handshake

PROLOGUE = b"synapsed-bench/1"
FIRST_BYTES = LENGTH_BYTES + 32
SECOND_BYTES = LENGTH_BYTES + 32 + (32 + TAG_BYTES) + PROOF_BYTES + TAG_BYTES
THIRD_BYTES = LENGTH_BYTES + (32 + TAG_BYTES) + PROOF_BYTES + TAG_BYTES
"""Handshake frames have fixed sizes, so a slow or lying peer can make us hold at most this much."""
OFFER_BYTES = LENGTH_BYTES + NAME_BYTES + 32 + TAG_BYTES
RESUMED_BYTES = LENGTH_BYTES + 32 + TAG_BYTES
CONFIRMATION_BYTES = LENGTH_BYTES + TAG_BYTES
"""An empty record: only who made the handshake can send it, not who replays its beginning."""
_OFFER_LENGTH, _RESUMED_LENGTH = (
    (size - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "big") for size in (OFFER_BYTES, RESUMED_BYTES)
)
Role = Literal["initiator", "responder"]


class Channel:
    """An established channel: seals outgoing messages, opens incoming bytes. Not thread-safe."""

    __slots__ = ("_buffers", "_receiving", "_sending", "inbox", "peer_id")

    def __init__(self, peer_id: bytes, ciphers: tuple[CipherState, CipherState], buffers: Buffers) -> None:
        self.peer_id = peer_id
        self._sending, self._receiving = ciphers
        self._buffers = buffers
        self.inbox: Inbox = buffers.inbox(self._receiving)

    def seal(self, kind: int, body: Bytes) -> bytes | Iterator[PooledBuffer]:
        """The message ready for the wire (see `Buffers.seal`)."""
        return self._buffers.seal(self._sending, kind, body)

    def feed(self, data: Bytes) -> list[Message]:
        """The messages that `data` completes (see `Inbox.feed`)."""
        return self.inbox.feed(data)

    def trim(self) -> None:
        """Drop the AEAD contexts of an idle channel; they are rebuilt from the keys on use."""
        self._sending.trim()
        self._receiving.trim()

    def close(self) -> None:
        """Wipe the keys and whatever was half received."""
        self.inbox.close()
        self._sending.wipe()
        self._receiving.wipe()


class Initiation:
    """The dialing end's handshake: send `first`, then turn the answer into the last frame and a channel.

    With `tickets` that resume (for peers that say so too), the first frame is an offer: a ticket's name, the ephemeral
    key, and a proof that the secret is known; where there is no ticket, name and proof are random. A peer that does not
    know the ticket goes on with a full handshake from the same ephemeral key: a vain offer costs no round trip.
    """

    __slots__ = (
        "_ephemeral",
        "_expected",
        "_full",
        "_identity",
        "_message",
        "_resumption",
        "_ticket",
        "_tickets",
        "first",
    )

    def __init__(self, identity: Identity, expected: bytes, tickets: Resumption = NO_TICKETS) -> None:
        self._identity = identity
        self._expected = expected
        self._tickets = tickets
        self._ticket = ticket = tickets.take(expected)
        self._resumption: Handshake | None = None
        self._full: Handshake | None = None  # with a ticket only when it is refused, else before the wait
        self._ephemeral = ephemeral = X25519PrivateKey.generate()
        if ticket is not None:
            self._resumption = _resumption("initiator", ticket, identity.peer_id, expected, ephemeral)
            self._message = ticket.name + self._resumption.write()
            ticket.wipe()
        else:
            public = ephemeral.public_key().public_bytes_raw()
            self._message = os.urandom(NAME_BYTES) + public + os.urandom(TAG_BYTES) if tickets.resuming else public
            self._full = self._begin_full()
        self.first = _frame(self._message)

    def finish(self, answer: bytes, buffers: Buffers) -> tuple[bytes, Channel]:
        """(third frame to send; channel) from the whole second frame.

        Raises `HandshakeError`, or `IdentityError` when the answering peer is not the expected one.
        """
        if self._resumption is not None and len(answer) == RESUMED_BYTES:
            self._resumption.read(_unframe(answer, RESUMED_BYTES))
            ciphers = self._split(self._resumption, self._expected, self._ticket)
            return _frame(ciphers[0].encrypt(b"")), Channel(self._expected, ciphers, buffers)
        full = self._full or self._begin_full()
        proof = full.read(_unframe(answer, SECOND_BYTES))
        peer_id = verify_proof(proof, full.remote_static, self._expected)
        third = _frame(full.write(self._identity.proof))
        return third, Channel(peer_id, self._split(full, peer_id), buffers)

    def _begin_full(self) -> Handshake:
        full = _full("initiator", self._identity, self._message, self._ephemeral)
        full.write()  # the ephemeral key, which travels in our own first frame
        return full

    def _split(
        self, handshake: Handshake, peer_id: bytes, chain: Ticket | None = None
    ) -> tuple[CipherState, CipherState]:
        self._tickets.remember(handshake, peer_id, chain)
        return handshake.split()


class Acceptance:
    """The listening end's handshake: `answer` the first frame, then `finish` with the third, of `third_bytes`."""

    __slots__ = ("_handshake", "_identity", "_offered", "_ticket", "_tickets", "third_bytes")

    def __init__(self, identity: Identity, tickets: Resumption = NO_TICKETS) -> None:
        self._identity = identity
        self._tickets = tickets
        self._offered = False
        self._ticket: Ticket | None = None
        self.third_bytes = THIRD_BYTES

    def answer(self, first: bytes) -> bytes:
        """The second frame. Raises `HandshakeError`."""
        if len(first) != OFFER_BYTES:
            return self._answer_full(_unframe(first, FIRST_BYTES))
        offer = _unframe(first, OFFER_BYTES)
        self._offered = True
        name = offer[:NAME_BYTES]
        ticket = self._tickets.take(name)
        if ticket is not None:
            self._handshake = _resumption("responder", ticket, ticket.peer_id, self._identity.peer_id)
            try:
                self._handshake.read(offer[NAME_BYTES:])
            except HandshakeError:
                self._tickets.keep(name, ticket)  # whoever offers it does not know its secret
            else:
                ticket.wipe()
                self._ticket, self.third_bytes = ticket, CONFIRMATION_BYTES
                return _frame(self._handshake.write())
        return self._answer_full(offer)

    def _answer_full(self, message: bytes) -> bytes:
        self._handshake = _full("responder", self._identity, message)
        self._handshake.read(_ephemeral_of(message))
        return _frame(self._handshake.write(self._identity.proof))

    def finish(self, third: bytes, buffers: Buffers) -> Channel:
        """The channel to the peer that the third frame authenticates. Raises `ChannelError`."""
        handshake, ticket = self._handshake, self._ticket
        message = _unframe(third, self.third_bytes)
        peer_id = verify_proof(handshake.read(message), handshake.remote_static) if ticket is None else ticket.peer_id
        if self._offered:
            self._tickets.remember(handshake, peer_id, ticket, by_name=True)
        ciphers = handshake.split()
        if ticket is not None:
            ciphers[1].decrypt(message)
        return Channel(peer_id, ciphers, buffers)


def first_bytes(received: bytes) -> int:
    """The size of the first frame, of which `received` is the beginning."""
    return OFFER_BYTES if received[:LENGTH_BYTES] == _OFFER_LENGTH else FIRST_BYTES


def second_bytes(received: bytes) -> int:
    """The size of the second frame, of which `received` is the beginning."""
    return RESUMED_BYTES if received[:LENGTH_BYTES] == _RESUMED_LENGTH else SECOND_BYTES


def _is_offer(message: bytes) -> bool:
    """The first message is an offer, or an ephemeral key alone."""
    return len(message) == OFFER_BYTES - LENGTH_BYTES


def _ephemeral_of(message: bytes) -> bytes:
    return message[NAME_BYTES : NAME_BYTES + 32] if _is_offer(message) else message


def _full(role: Role, identity: Identity, message: bytes, ephemeral: X25519PrivateKey | None = None) -> Handshake:
    """The prologue binds a whole offer: nobody can change it on its way and have the full handshake succeed."""
    prologue = PROLOGUE + message if _is_offer(message) else PROLOGUE
    return Handshake(role, identity.static_key, identity.static_public, prologue=prologue, ephemeral=ephemeral)


def _resumption(
    role: Role, ticket: Ticket, dialer: bytes, listener: bytes, ephemeral: X25519PrivateKey | None = None
) -> Handshake:
    """The prologue names the ticket and both peers: a ticket is good between the two it was issued to."""
    prologue = PROLOGUE + ticket.name + dialer + listener
    return Handshake(role, pattern=NN_PSK0, psk=ticket.secret, prologue=prologue, ephemeral=ephemeral)


def _frame(message: bytes) -> bytes:
    return len(message).to_bytes(LENGTH_BYTES, "big") + message


def _unframe(frame: bytes, size: int) -> bytes:
    if len(frame) != size or int.from_bytes(frame[:LENGTH_BYTES], "big") != size - LENGTH_BYTES:
        raise HandshakeError(f"handshake frame is malformed; expected {size} bytes")
    return frame[LENGTH_BYTES:]
