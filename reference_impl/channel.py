"""An authenticated channel between two peers, sans I/O: the Noise handshake with identities, then messages.

Each end proves that its identity signed the static key it uses; the initiator names the peer it wants and accepts
no other. Handshake messages travel in the same 2-byte frames as records.
"""

from __future__ import annotations

from collections.abc import Iterator

from reference_impl.buffer_pool import Buffers
from reference_impl.buffers import Message, PooledBuffer
from reference_impl.errors import HandshakeError
from reference_impl.frame import LENGTH_BYTES
from reference_impl.identity import PROOF_BYTES, Identity, verify_proof
from reference_impl.inbox import Inbox
from reference_impl.noise import TAG_BYTES, Bytes, CipherState, Handshake

PROLOGUE = b"synapsed-bench/1"
FIRST_BYTES = LENGTH_BYTES + 32
SECOND_BYTES = LENGTH_BYTES + 32 + (32 + TAG_BYTES) + PROOF_BYTES + TAG_BYTES
THIRD_BYTES = LENGTH_BYTES + (32 + TAG_BYTES) + PROOF_BYTES + TAG_BYTES
"""Handshake frames have fixed sizes, so a slow or lying peer can make us hold at most this much."""


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
    """The dialing end's handshake: send `first`, then turn the answer into the last frame and a channel."""

    __slots__ = ("_expected", "_handshake", "_identity", "first")

    def __init__(self, identity: Identity, expected: bytes) -> None:
        self._identity = identity
        self._expected = expected
        self._handshake = Handshake("initiator", identity.static_key, identity.static_public, prologue=PROLOGUE)
        self.first = _frame(self._handshake.write())

    def finish(self, answer: bytes, buffers: Buffers) -> tuple[bytes, Channel]:
        """(last frame to send, channel) from the whole second frame.

        Raises `HandshakeError`, or `IdentityError` when the answering peer is not the expected one.
        """
        proof = self._handshake.read(_unframe(answer, SECOND_BYTES))
        peer_id = verify_proof(proof, self._handshake.remote_static, self._expected)
        last = _frame(self._handshake.write(self._identity.proof))
        return last, Channel(peer_id, self._handshake.split(), buffers)


class Acceptance:
    """The listening end's handshake: `answer` the first frame, then `finish` with the third."""

    __slots__ = ("_handshake", "_identity")

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._handshake = Handshake("responder", identity.static_key, identity.static_public, prologue=PROLOGUE)

    def answer(self, first: bytes) -> bytes:
        """The second frame. Raises `HandshakeError`."""
        if self._handshake.read(_unframe(first, FIRST_BYTES)):
            raise HandshakeError("first handshake message carries a payload")
        return _frame(self._handshake.write(self._identity.proof))

    def finish(self, third: bytes, buffers: Buffers) -> Channel:
        """The channel to the peer that the third frame authenticates. Raises `HandshakeError`."""
        proof = self._handshake.read(_unframe(third, THIRD_BYTES))
        peer_id = verify_proof(proof, self._handshake.remote_static)
        return Channel(peer_id, self._handshake.split(), buffers)


def _frame(message: bytes) -> bytes:
    return len(message).to_bytes(LENGTH_BYTES, "big") + message


def _unframe(frame: bytes, size: int) -> bytes:
    if len(frame) != size or int.from_bytes(frame[:LENGTH_BYTES], "big") != size - LENGTH_BYTES:
        raise HandshakeError(f"handshake frame is malformed; expected {size} bytes")
    return frame[LENGTH_BYTES:]
