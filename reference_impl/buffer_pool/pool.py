"""Room 5, crypto buffer pool: where the bytes of a message live while they are framed, encrypted, read and decrypted.

Few buffers are shared, last in first out, so that the one handed out is still in cache. A buffer has one owner at
a time; whatever held plaintext is wiped before the next owner sees it; what is retained is capped by construction
(each class is a deque of bounded length, whose append drops the coldest). Messages of one record are allocated on
both sides: an allocation of that size costs less than any pool (docs/baselines.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from reference_impl import settings as check
from reference_impl.buffer_pool.buffers import PooledBuffer, lend
from reference_impl.buffer_pool.inbox import Inbox, JoinedInbox, PooledInbox
from reference_impl.optimizations import Switch
from reference_impl.security.frame import (
    HEAD,
    HEAD_BYTES,
    LENGTH_BYTES,
    MAX_FRAME,
    MAX_PLAINTEXT,
    MAX_SINGLE,
    check_body,
    wire_size,
)
from reference_impl.security.noise import TAG_BYTES, Bytes, CipherState


@dataclass(frozen=True, slots=True)
class BufferSettings:
    """Size classes and caps of the pool.

    `small`, `medium`, `large`: payload bytes a class serves (4 KB, 64 KB, 1 MB as planned; each buffer is that plus
    the framing overhead). Long messages are read into buffers of 512 KiB, which a smaller `large` would not keep.
    `*_buffers`: most buffers of a class kept while free: together at most about 10.3 MiB, enough for 8 bulk transfers
    at once. `pool_above`: bodies of up to this many bytes are allocated, not pooled; 16 KiB, because up to there a
    message is one record and allocating it costs less than taking a buffer and copying its head in.
    """

    small: int = 4 * 1024
    medium: int = 64 * 1024
    large: int = 1024 * 1024
    small_buffers: int = 64
    medium_buffers: int = 32
    large_buffers: int = 8
    pool_above: int = 16 * 1024

    def __post_init__(self) -> None:
        for name in ("small", "medium", "small_buffers", "medium_buffers", "large_buffers"):
            check.count("buffer_pool", name, getattr(self, name), most=check.INT_MAX)
        check.count("buffer_pool", "large", self.large, least=64 * 1024, most=1024 * 1024)  # a whole record at least
        check.count("buffer_pool", "pool_above", self.pool_above, least=0, most=MAX_SINGLE)
        check.ordered("buffer_pool", "small", self.small, "medium", self.medium)
        check.ordered("buffer_pool", "medium", self.medium, "large", self.large)


class Buffers(Protocol):
    """How messages become wire bytes and wire bytes messages."""

    def seal(self, cipher: CipherState, kind: int, body: Bytes) -> bytes | Iterator[PooledBuffer]:
        """The message ready for the wire: bytes, or buffers to be sent in order and each released when it is out."""

    def inbox(self, cipher: CipherState) -> Inbox:
        """A receiving half for a new connection."""

    def acquire(self, size: int, *, secret: bool = False) -> PooledBuffer:
        """A buffer of `size` bytes for a transport that frames by itself; what is in it at first is undefined."""

    def sweep(self) -> int:
        """Trim what has been idle since the last sweep; returns bytes freed."""

    def gauges(self) -> dict[str, float]: ...


class _Class:
    """Free storages of one size, hottest last; `acquired` and `allocated` are counted without a lock."""

    __slots__ = ("acquired", "allocated", "free", "size", "swept")

    def __init__(self, size: int, most: int) -> None:
        self.size = size
        self.free: deque[memoryview] = deque(maxlen=most)
        self.acquired = self.allocated = self.swept = 0


class CryptoBufferPool:
    """On: few shared buffers in three classes; records are encrypted and decrypted straight into place."""

    def __init__(self, settings: BufferSettings) -> None:
        self._pool_above = settings.pool_above
        self._small = _Class(wire_size(settings.small), settings.small_buffers)
        self._medium = _Class(wire_size(settings.medium), settings.medium_buffers)
        self._large = _Class(wire_size(settings.large), settings.large_buffers)
        self._classes = (self._small, self._medium, self._large)
        self._oversize = 0
        self._acquire = self.acquire  # one bound method for all connections

    def acquire(self, size: int, *, secret: bool = False) -> PooledBuffer:
        """A buffer of `size` bytes, its content undefined; `secret` ones are wiped on release.

        Sizes beyond the largest class are served and not retained. Needs no lock: deque's pop and append are atomic.
        """
        if size <= self._small.size:
            kind = self._small
        elif size <= self._medium.size:
            kind = self._medium
        elif size <= self._large.size:
            kind = self._large
        else:
            self._oversize += 1
            return lend(memoryview(bytearray(size)), size, None, secret)
        kind.acquired += 1
        try:
            storage = kind.free.pop()
        except IndexError:
            kind.allocated += 1
            storage = memoryview(bytearray(kind.size))
        return lend(storage, size, kind.free, secret)

    def seal(self, cipher: CipherState, kind: int, body: Bytes) -> bytes | Iterator[PooledBuffer]:
        if len(body) <= self._pool_above:
            return _framed(cipher, HEAD.pack(kind, len(body)) + body)
        check_body(len(body))
        return self._seal_long(cipher, kind, body)

    def _seal_long(self, cipher: CipherState, kind: int, body: Bytes) -> Iterator[PooledBuffer]:
        view = memoryview(body)
        head = HEAD.pack(kind, len(view))
        if len(view) <= MAX_SINGLE:
            piece = self.acquire(wire_size(len(view)))
            _seal_record(cipher, head + body, piece.view, 0)
            yield piece
            return
        per_piece = self._large.size // MAX_FRAME * MAX_PLAINTEXT
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
        return PooledInbox(self._acquire, cipher)

    def retained(self) -> int:
        """Bytes kept in free buffers."""
        return sum(len(kind.free) * kind.size for kind in self._classes)

    def sweep(self) -> int:
        """Free half of each class in which nothing was acquired since the last sweep, coldest first."""
        freed = 0
        for kind in self._classes:
            if kind.swept == kind.acquired:
                for _ in range((len(kind.free) + 1) // 2):
                    try:
                        freed += len(kind.free.popleft())
                    except IndexError:  # taken by another thread meanwhile
                        break
            kind.swept = kind.acquired
        return freed

    def gauges(self) -> dict[str, float]:
        """Counts since the start (approximate while several threads acquire), and the bytes retained now."""
        acquired = self._oversize + sum(kind.acquired for kind in self._classes)
        allocated = self._oversize + sum(kind.allocated for kind in self._classes)
        return {
            "acquired": acquired,
            "allocated": allocated,
            "oversize": self._oversize,
            "reuse_ratio": 1 - allocated / acquired if acquired else 0.0,
            "retained_bytes": self.retained(),
        }


def _seal_record(cipher: CipherState, plaintext: Bytes, out: memoryview, at: int) -> int:
    """Frame and encrypt one record into `out` at `at`; returns where the next one goes."""
    start = at + LENGTH_BYTES
    stop = start + len(plaintext) + TAG_BYTES
    out[at:start] = (stop - start).to_bytes(LENGTH_BYTES, "big")
    cipher.encrypt_into(plaintext, out[start:stop])
    return stop


def _framed(cipher: CipherState, plaintext: Bytes) -> bytes:
    ciphertext = cipher.encrypt(plaintext)
    return len(ciphertext).to_bytes(LENGTH_BYTES, "big") + ciphertext


class Allocating:
    """Off: the same protocol, allocating per frame: header + ciphertext by concatenation, plaintexts joined."""

    def __init__(self, settings: BufferSettings) -> None:
        self._messages = 0

    def seal(self, cipher: CipherState, kind: int, body: Bytes) -> bytes | Iterator[PooledBuffer]:
        self._messages += 1
        head = HEAD.pack(kind, len(body))
        if len(body) <= MAX_SINGLE:
            return _framed(cipher, head + body)
        check_body(len(body))
        return self._seal_long(cipher, head, memoryview(body))

    @staticmethod
    def _seal_long(cipher: CipherState, head: bytes, body: memoryview) -> Iterator[PooledBuffer]:
        """Record by record, each sent before the next is made: to join them would be one more copy of it all."""
        begun = _framed(cipher, head)
        for at in range(0, len(body), MAX_PLAINTEXT):
            wire = begun + _framed(cipher, body[at : at + MAX_PLAINTEXT])
            begun = b""
            yield lend(memoryview(wire), len(wire), None, False)

    def inbox(self, cipher: CipherState) -> Inbox:
        return JoinedInbox(cipher)

    def acquire(self, size: int, *, secret: bool = False) -> PooledBuffer:
        self._messages += 1
        return lend(memoryview(bytearray(size)), size, None, False)

    def sweep(self) -> int:
        return 0

    def gauges(self) -> dict[str, float]:
        return {"acquired": self._messages, "allocated": self._messages, "reuse_ratio": 0.0, "retained_bytes": 0.0}


BUFFER_POOL: Switch[Buffers] = Switch("buffer_pool", off=Allocating, on=CryptoBufferPool)
