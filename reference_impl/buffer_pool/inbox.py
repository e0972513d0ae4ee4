"""The receiving half of a connection, for both twins of the buffer pool: wire bytes in, whole messages out.

Nothing is handed out before its record is authenticated. A connection that is idle, that is between two messages,
holds no buffer.
"""

from __future__ import annotations

from typing import Protocol

from reference_impl.buffer_pool.buffers import Message, PooledBuffer, release_all
from reference_impl.errors import FrameError
from reference_impl.security.frame import HEAD_BYTES, LENGTH_BYTES, MAX_FRAME, MAX_PLAINTEXT, MAX_SINGLE, parse_head
from reference_impl.security.noise import TAG_BYTES, Bytes, CipherState

_FRAMES_AHEAD = 8
READ_AHEAD = _FRAMES_AHEAD * MAX_FRAME
"""Bytes of a long message that are read at once."""


class Acquire(Protocol):
    """How a pool lends a buffer (see `CryptoBufferPool.acquire`)."""

    def __call__(self, size: int, *, secret: bool = False) -> PooledBuffer: ...


class Inbox(Protocol):
    """The receiving half of one connection: bytes from the wire in, whole messages out."""

    def feed(self, data: Bytes) -> list[Message]:
        """The messages that `data` completes. `data` may be reused as soon as this returns. Raises `ChannelError`."""

    @property
    def ahead(self) -> int:
        """Bytes of a long message to read next: so many, at most READ_AHEAD, that a full read cuts no record in two;
        0: read as usual.
        """

    def space(self) -> PooledBuffer | None:
        """A borrowed buffer of `ahead` bytes to read into, or None: read as usual."""

    @property
    def between(self) -> bool:
        """Whether nothing of a further message has arrived."""

    def close(self) -> None:
        """Drop what is half received, wiped."""


class PooledInbox:
    """Decrypts records where they lie in the caller's read buffer, straight into the message they belong to."""

    __slots__ = ("_acquire", "_at", "_cipher", "_filled", "_kind", "_message", "_odd", "_partial")

    def __init__(self, acquire: Acquire, cipher: CipherState) -> None:
        self._acquire = acquire
        self._cipher = cipher
        self._message: PooledBuffer | None = None
        self._partial: PooledBuffer | None = None
        self._odd = b""
        self._kind = self._at = self._filled = 0

    @property
    def ahead(self) -> int:
        if self._message is None:
            return 0
        if self._partial is None:
            return READ_AHEAD - len(self._odd)
        return (_FRAMES_AHEAD - 1) * MAX_FRAME + len(self._partial.view) - self._filled

    def space(self) -> PooledBuffer | None:
        ahead = self.ahead
        return self._acquire(ahead) if ahead else None

    def feed(self, data: Bytes) -> list[Message]:
        if self._message is None and self._partial is None and not self._odd:  # `between`, written out
            size = len(data) - LENGTH_BYTES
            if size > 0 and data[0] << 8 | data[1] == size:  # what nearly every read is: one whole record
                plaintext = self._cipher.decrypt(data[LENGTH_BYTES:])
                kind, size = parse_head(plaintext)
                if size <= MAX_SINGLE:
                    return [Message(kind, plaintext[HEAD_BYTES:])]
                self._begin(kind, size)
                return []
        messages: list[Message] = []
        try:
            self._take(data, messages)
        except BaseException:
            release_all(messages)
            raise
        return messages

    def _take(self, data: Bytes, messages: list[Message]) -> None:
        """Add to `messages` what `data` completes."""
        if self._odd:
            data = self._odd + data
            self._odd = b""
        view = memoryview(data)
        at, end = 0, len(view)
        if self._partial is not None:
            at = self._complete(self._partial, view, messages)
        while end - at >= LENGTH_BYTES:
            stop = at + LENGTH_BYTES + (view[at] << 8 | view[at + 1])
            if stop > end:
                self._partial = self._acquire(stop - at)
                self._filled = end - at
                self._partial.view[: self._filled] = view[at:end]
                return
            self._record(view[at + LENGTH_BYTES : stop], messages)
            at = stop
        if at < end:
            self._odd = bytes(view[at:end])

    def _complete(self, partial: PooledBuffer, view: memoryview, messages: list[Message]) -> int:
        """Add to the record that an earlier read cut in two; returns how much of `view` that took."""
        took = min(len(partial.view) - self._filled, len(view))
        partial.view[self._filled : self._filled + took] = view[:took]
        self._filled += took
        if self._filled == len(partial.view):
            self._partial = None
            with partial:
                self._record(partial.view[LENGTH_BYTES:], messages)
        return took

    def _record(self, ciphertext: memoryview, messages: list[Message]) -> None:
        message = self._message
        if message is None:
            plaintext = self._cipher.decrypt(ciphertext)
            kind, size = parse_head(plaintext)
            if size <= MAX_SINGLE:
                messages.append(Message(kind, plaintext[HEAD_BYTES:]))
            else:
                self._begin(kind, size)
            return
        view, start = message.view, self._at
        stop = start + check_body_record(len(ciphertext), len(view) - start)
        self._cipher.decrypt_into(ciphertext, view[start:stop])
        self._at = stop
        if stop == len(view):
            self._message = None
            messages.append(Message(self._kind, view, message))

    def _begin(self, kind: int, size: int) -> None:
        """Start a message whose body comes in records of its own."""
        self._kind, self._at = kind, 0
        self._message = self._acquire(size, secret=True)

    @property
    def between(self) -> bool:
        return self._message is None and self._partial is None and not self._odd

    def close(self) -> None:
        for buffer in (self._message, self._partial):
            if buffer is not None:
                buffer.release()
        self._message = self._partial = None
        self._odd = b""


class JoinedInbox:
    """Records are decrypted where they were read, or, where two reads cut one, joined first; plaintexts are joined."""

    __slots__ = ("_cipher", "_kind", "_missing", "_parts", "_pending")

    def __init__(self, cipher: CipherState) -> None:
        self._cipher = cipher
        self._pending = b""
        self._parts: list[bytes] = []
        self._kind = self._missing = 0

    @property
    def ahead(self) -> int:
        if not self._missing:
            return 0
        begun = self._pending
        if len(begun) < LENGTH_BYTES:
            return READ_AHEAD - len(begun)
        return (_FRAMES_AHEAD - 1) * MAX_FRAME + LENGTH_BYTES + (begun[0] << 8 | begun[1]) - len(begun)

    def space(self) -> PooledBuffer | None:
        return None

    def feed(self, data: Bytes) -> list[Message]:
        messages: list[Message] = []
        view = memoryview(data)
        at, end = self._complete(view, messages) if self._pending else 0, len(view)
        while end - at >= LENGTH_BYTES:
            stop = at + LENGTH_BYTES + (view[at] << 8 | view[at + 1])
            if stop > end:
                break
            self._record(view[at + LENGTH_BYTES : stop], messages)
            at = stop
        if at < end:
            self._pending = bytes(view[at:])
        return messages

    def _complete(self, view: memoryview, messages: list[Message]) -> int:
        """Take the rest of the record that an earlier read began; returns how much of `view` that was."""
        begun = self._pending
        length = (begun[:LENGTH_BYTES] + view[:1])[:LENGTH_BYTES]  # even that may have been cut
        rest = LENGTH_BYTES + int.from_bytes(length, "big") - len(begun)
        record = begun + view[:rest]
        if rest > len(view):
            self._pending = record
            return len(view)
        self._pending = b""
        self._record(memoryview(record)[LENGTH_BYTES:], messages)
        return rest

    def _record(self, ciphertext: memoryview, messages: list[Message]) -> None:
        if self._missing:
            self._missing -= check_body_record(len(ciphertext), self._missing)
            self._parts.append(self._cipher.decrypt(ciphertext))
            if not self._missing:
                messages.append(Message(self._kind, b"".join(self._parts)))
                self._parts = []
            return
        plaintext = self._cipher.decrypt(ciphertext)
        kind, size = parse_head(plaintext)
        if size <= MAX_SINGLE:
            messages.append(Message(kind, plaintext[HEAD_BYTES:]))
        else:
            self._kind, self._missing = kind, size

    @property
    def between(self) -> bool:
        return not self._pending and not self._missing

    def close(self) -> None:
        self._pending = b""
        self._parts = []


def check_body_record(ciphertext: int, missing: int) -> int:
    """Plaintext bytes of the next body record; it must be full or the last. Raises `FrameError`."""
    expected = min(MAX_PLAINTEXT, missing)
    if ciphertext - TAG_BYTES != expected:
        raise FrameError(f"body record of {ciphertext - TAG_BYTES} bytes; expected {expected}")
    return expected
