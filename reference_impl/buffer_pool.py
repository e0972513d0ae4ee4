"""Room 5, crypto buffer pool: where the bytes of a message live while they are framed, encrypted, read and decrypted.

Few buffers are shared, last in first out, so that the one handed out is still in cache. A buffer has one owner at
a time; whatever held plaintext is wiped before the next owner sees it; what is retained is capped by construction (each class is a
deque of bounded length, whose append drops the coldest). Messages of up to 4 KiB are allocated on both sides:
an allocation of that size costs less than any pool (docs/baselines.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from reference_impl import settings as check
from reference_impl.errors import FrameError
from reference_impl.frame import (
    HEAD,
    HEAD_BYTES,
    LENGTH_BYTES,
    MAX_FRAME,
    MAX_PLAINTEXT,
    MAX_SINGLE,
    check_body,
    parse_head,
    wire_size,
)
from reference_impl.noise import TAG_BYTES, Bytes, CipherState
from reference_impl.optimizations import Switch

_ZEROS = memoryview(bytes(wire_size(1024 * 1024)))
_READ_AHEAD = 4 * MAX_FRAME


@dataclass(frozen=True, slots=True)
class BufferSettings:
    """Size classes and caps of the pool.

    `small`, `medium`, `large`: payload bytes a class serves (4 KB, 64 KB, 1 MB as planned; each buffer is that plus
    the framing overhead). `*_buffers`: most buffers of a class kept while free: together at most about 10.3 MiB,
    enough for 8 bulk transfers at once. `pool_above`: bodies up to this many bytes are allocated, not pooled.
    """

    small: int = 4 * 1024
    medium: int = 64 * 1024
    large: int = 1024 * 1024
    small_buffers: int = 64
    medium_buffers: int = 32
    large_buffers: int = 8
    pool_above: int = 4 * 1024

    def __post_init__(self) -> None:
        for name in ("small", "medium", "large", "small_buffers", "medium_buffers", "large_buffers"):
            check.count("buffer_pool", name, getattr(self, name))
        check.count("buffer_pool", "pool_above", self.pool_above, least=0)
        check.ordered("buffer_pool", "small", self.small, "medium", self.medium)
        check.ordered("buffer_pool", "medium", self.medium, "large", self.large)
        check.ordered("buffer_pool", "pool_above", self.pool_above, "large", self.large)
        if self.large > 1024 * 1024:
            raise check.SettingsError(f"buffer_pool.large is {self.large!r}; expected at most 1048576")


class BufferReleased(RuntimeError):
    """A buffer was used or released after its release."""


class Message:
    """One received message. `body` is bytes, or a view that is valid until `release`."""

    __slots__ = ("_buffer", "body", "kind")

    def __init__(self, kind: int, body: Bytes, buffer: PooledBuffer | None = None) -> None:
        self.kind = kind
        self.body = body
        self._buffer = buffer

    def release(self) -> None:
        """Give a borrowed body back, wiped; a no-op for a body that is plain bytes."""
        if self._buffer is not None:
            self.body = b""
            self._buffer.release()
            self._buffer = None

    def __enter__(self) -> Message:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Inbox(Protocol):
    """The receiving half of one connection: bytes from the wire in, whole messages out."""

    def feed(self, data: Bytes) -> list[Message]:
        """The messages that `data` completes. `data` may be reused as soon as this returns. Raises `ChannelError`."""

    def space(self) -> PooledBuffer | None:
        """A borrowed buffer to read the next bytes of a long message into, or None: read as usual."""

    def close(self) -> None:
        """Drop what is half received, wiped."""


class Buffers(Protocol):
    """How messages become wire bytes and wire bytes messages."""

    def seal(self, cipher: CipherState, kind: int, body: Bytes) -> bytes | Iterator[PooledBuffer]:
        """The message ready for the wire: bytes, or buffers to be sent in order and each released when it is out."""

    def inbox(self, cipher: CipherState) -> Inbox:
        """A receiving half for a new connection."""

    def sweep(self) -> int:
        """Trim what has been idle since the last sweep; returns bytes freed."""

    def gauges(self) -> dict[str, float]: ...


class PooledBuffer:
    """Exclusive use of `view`, exactly the size asked for, until `release`. Anything after that raises `BufferReleased`."""

    __slots__ = ("_free", "_secret", "_storage", "view")

    def __init__(self, storage: memoryview, size: int, free: deque[memoryview] | None, secret: bool) -> None:
        self._storage = storage
        self._free = free
        self._secret = secret
        self.view = storage[:size]

    def release(self) -> None:
        """Wipe what held plaintext and hand the storage to the next owner."""
        view = self.view
        del self.view  # a second release, or a use after it, lands in __getattr__
        if self._secret:
            wipe(view)
        if self._free is not None:
            self._free.append(self._storage)

    def __getattr__(self, name: str) -> memoryview:
        raise BufferReleased(f"{name} of a buffer that was released")

    def __enter__(self) -> PooledBuffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def wipe(view: memoryview) -> None:
    """Overwrite `view` with zeros."""
    step = len(_ZEROS)
    for at in range(0, len(view), step):
        part = view[at : at + step]
        part[:] = _ZEROS[: len(part)]


class CryptoBufferPool:
    """On: few shared buffers in three classes; records are encrypted and decrypted straight into place."""

    def __init__(self, settings: BufferSettings) -> None:
        self._pool_above = settings.pool_above
        self._small, self._medium, self._large = (
            wire_size(n) for n in (settings.small, settings.medium, settings.large)
        )
        self._free: tuple[deque[memoryview], ...] = (
            deque(maxlen=settings.small_buffers),
            deque(maxlen=settings.medium_buffers),
            deque(maxlen=settings.large_buffers),
        )
        self._acquired = 0
        self._allocated = 0
        self._oversize = 0
        self._swept = [0, 0, 0]

    def acquire(self, size: int, *, secret: bool = False) -> PooledBuffer:
        """A buffer of `size` bytes, its content undefined; `secret` ones are wiped on release.

        Sizes beyond the largest class are served and not retained. Thread-safe without a lock: deque's pop and append are atomic.
        """
        self._acquired += 1
        if size <= self._small:
            free, capacity = self._free[0], self._small
        elif size <= self._medium:
            free, capacity = self._free[1], self._medium
        elif size <= self._large:
            free, capacity = self._free[2], self._large
        else:
            self._oversize += 1
            return PooledBuffer(memoryview(bytearray(size)), size, None, secret)
        try:
            storage = free.pop()
        except IndexError:
            self._allocated += 1
            storage = memoryview(bytearray(capacity))
        return PooledBuffer(storage, size, free, secret)

    def seal(self, cipher: CipherState, kind: int, body: Bytes) -> bytes | Iterator[PooledBuffer]:
        if len(body) <= self._pool_above:
            ciphertext = cipher.encrypt(HEAD.pack(kind, len(body)) + body)
            return len(ciphertext).to_bytes(2, "big") + ciphertext
        check_body(len(body))
        return self._seal_long(cipher, kind, body)

    def _seal_long(self, cipher: CipherState, kind: int, body: Bytes) -> Iterator[PooledBuffer]:
        view = memoryview(body)
        head = HEAD.pack(kind, len(view))
        if len(view) <= MAX_SINGLE:
            piece = self.acquire(wire_size(len(view)))
            _seal_record(cipher, head + view, piece.view, 0)
            yield piece
            return
        per_piece = self._large // MAX_FRAME * MAX_PLAINTEXT
        for start in range(0, len(view), per_piece):
            part = view[start : start + per_piece]
            records = -(-len(part) // MAX_PLAINTEXT)
            size = len(part) + records * (LENGTH_BYTES + TAG_BYTES)
            at = 0
            if start == 0:
                piece = self.acquire(size + LENGTH_BYTES + HEAD_BYTES + TAG_BYTES)
                at = _seal_record(cipher, head, piece.view, 0)
            else:
                piece = self.acquire(size)
            for offset in range(0, len(part), MAX_PLAINTEXT):
                at = _seal_record(cipher, part[offset : offset + MAX_PLAINTEXT], piece.view, at)
            yield piece

    def inbox(self, cipher: CipherState) -> Inbox:
        return PooledInbox(self, cipher)

    def retained(self) -> int:
        """Bytes kept in free buffers."""
        return sum(
            len(free) * size for free, size in zip(self._free, (self._small, self._medium, self._large), strict=True)
        )

    def sweep(self) -> int:
        """Free half of each class in which nothing was acquired since the last sweep, coldest first."""
        before = self.retained()
        for index, free in enumerate(self._free):
            if self._swept[index] == self._acquired:
                for _ in range((len(free) + 1) // 2):
                    try:
                        free.popleft()
                    except IndexError:
                        break
            self._swept[index] = self._acquired
        return before - self.retained()

    def gauges(self) -> dict[str, float]:
        """`acquired` and `allocated` are counted without a lock: approximate while several threads acquire."""
        return {
            "acquired": self._acquired,
            "allocated": self._allocated,
            "oversize": self._oversize,
            "reuse_ratio": 1 - (self._allocated + self._oversize) / self._acquired if self._acquired else 0.0,
            "retained_bytes": self.retained(),
        }


def _seal_record(cipher: CipherState, plaintext: Bytes, out: memoryview, at: int) -> int:
    """Frame and encrypt one record into `out` at `at`; returns where the next one goes."""
    start = at + LENGTH_BYTES
    stop = start + len(plaintext) + TAG_BYTES
    out[at:start] = (stop - start).to_bytes(LENGTH_BYTES, "big")
    cipher.encrypt_into(plaintext, out[start:stop])
    return stop


class PooledInbox:
    """Decrypts records where they lie in the caller's read buffer, straight into the message they belong to."""

    __slots__ = ("_at", "_cipher", "_filled", "_kind", "_message", "_odd", "_partial", "_pool")

    def __init__(self, pool: CryptoBufferPool, cipher: CipherState) -> None:
        self._pool = pool
        self._cipher = cipher
        self._message: PooledBuffer | None = None
        self._partial: PooledBuffer | None = None
        self._odd = b""
        self._kind = self._at = self._filled = 0

    def space(self) -> PooledBuffer | None:
        return self._pool.acquire(_READ_AHEAD) if self._message is not None else None

    def feed(self, data: Bytes) -> list[Message]:
        messages: list[Message] = []
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
                self._partial = self._pool.acquire(stop - at)
                self._filled = end - at
                self._partial.view[: self._filled] = view[at:end]
                return messages
            self._record(view[at + LENGTH_BYTES : stop], messages)
            at = stop
        if at < end:
            self._odd = bytes(view[at:end])
        return messages

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
                self._kind, self._at = kind, 0
                self._message = self._pool.acquire(size, secret=True)
            return
        view, start = message.view, self._at
        stop = start + check_body_record(len(ciphertext), len(view) - start)
        self._cipher.decrypt_into(ciphertext, view[start:stop])
        self._at = stop
        if stop == len(view):
            self._message = None
            messages.append(Message(self._kind, view, message))

    def close(self) -> None:
        for buffer in (self._message, self._partial):
            if buffer is not None:
                buffer.release()
        self._message = self._partial = None
        self._odd = b""


def check_body_record(ciphertext: int, missing: int) -> int:
    """Plaintext bytes of the next body record; it must be full or the last. Raises `FrameError`."""
    expected = min(MAX_PLAINTEXT, missing)
    if ciphertext - TAG_BYTES != expected:
        raise FrameError(f"body record of {ciphertext - TAG_BYTES} bytes; expected {expected}")
    return expected


class Allocating:
    """Off: the same protocol, allocating per frame: header + ciphertext by concatenation, frames and reads joined."""

    def __init__(self, settings: BufferSettings) -> None:
        self._messages = 0

    def seal(self, cipher: CipherState, kind: int, body: Bytes) -> bytes | Iterator[PooledBuffer]:
        self._messages += 1
        head = HEAD.pack(kind, len(body))
        if len(body) <= MAX_SINGLE:
            ciphertext = cipher.encrypt(head + body)
            return len(ciphertext).to_bytes(2, "big") + ciphertext
        check_body(len(body))
        view = memoryview(body)
        plaintexts: list[Bytes] = [head, *(view[at : at + MAX_PLAINTEXT] for at in range(0, len(view), MAX_PLAINTEXT))]
        frames = []
        for plaintext in plaintexts:
            ciphertext = cipher.encrypt(plaintext)
            frames.append(len(ciphertext).to_bytes(2, "big") + ciphertext)
        return b"".join(frames)

    def inbox(self, cipher: CipherState) -> Inbox:
        return JoinedInbox(cipher)

    def sweep(self) -> int:
        return 0

    def gauges(self) -> dict[str, float]:
        return {"acquired": self._messages, "allocated": self._messages, "reuse_ratio": 0.0, "retained_bytes": 0.0}


class JoinedInbox:
    """Reads are appended to one bytes object, records sliced out of it, their plaintexts joined."""

    __slots__ = ("_cipher", "_kind", "_missing", "_parts", "_pending")

    def __init__(self, cipher: CipherState) -> None:
        self._cipher = cipher
        self._pending = b""
        self._parts: list[bytes] = []
        self._kind = self._missing = 0

    def space(self) -> PooledBuffer | None:
        return None

    def feed(self, data: Bytes) -> list[Message]:
        messages: list[Message] = []
        pending = self._pending + data
        at, end = 0, len(pending)
        while end - at >= LENGTH_BYTES:
            stop = at + LENGTH_BYTES + int.from_bytes(pending[at : at + LENGTH_BYTES], "big")
            if stop > end:
                break
            self._record(pending[at + LENGTH_BYTES : stop], messages)
            at = stop
        self._pending = pending[at:] if at else pending
        return messages

    def _record(self, ciphertext: bytes, messages: list[Message]) -> None:
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

    def close(self) -> None:
        self._pending = b""
        self._parts = []


BUFFER_POOL: Switch[Buffers] = Switch("buffer_pool", off=Allocating, on=CryptoBufferPool)
