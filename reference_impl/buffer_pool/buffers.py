"""What messages are made of: buffers with one owner at a time, and the message that may lie in one."""

from __future__ import annotations

from collections import deque

from reference_impl.security.frame import wire_size
from reference_impl.security.noise import Bytes

_ZEROS = memoryview(bytes(wire_size(1024 * 1024)))


class BufferReleased(RuntimeError):
    """A buffer was used or released after its release."""


class PooledBuffer:
    """Exclusive use of `view`, exactly the size asked for, until `release`; after it anything raises `BufferReleased`.

    Each loan is a new object over a reused storage, so a handle or a `view` kept too long can never reach the next
    owner's bytes. A slice of the view can: nobody can tell that there is one, so whoever makes one lets go of it first.
    """

    # Filled in by `lend`: an __init__ would cost a third of the whole loan.
    __slots__ = ("_free", "_secret", "_storage", "view")
    view: memoryview
    _free: deque[memoryview] | None
    _secret: bool
    _storage: memoryview

    def release(self) -> None:
        """Wipe what held plaintext and hand the storage to the next owner."""
        storage = self._storage
        del self._storage  # of two threads that release, one gets past this line
        view = self.view
        if self._secret:
            wipe(view)
        del self.view
        try:
            view.release()  # whoever kept it must not see the next owner's bytes
        except BufferError:  # a transport has not let go of it: the storage is its last owner's
            return
        if self._free is not None:
            self._free.append(storage)

    def __getattr__(self, name: str) -> memoryview:
        raise BufferReleased("a buffer was used or released after its release")

    def __enter__(self) -> PooledBuffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lend(storage: memoryview, size: int, free: deque[memoryview] | None, secret: bool) -> PooledBuffer:
    """A loan of the first `size` bytes of `storage`, which goes to `free` on release (None: dropped)."""
    buffer = PooledBuffer()
    buffer._storage = storage
    buffer._free = free
    buffer._secret = secret
    buffer.view = storage[:size]
    return buffer


def wipe(view: memoryview) -> None:
    """Overwrite `view` with zeros."""
    step = len(_ZEROS)
    for at in range(0, len(view), step):
        part = view[at : at + step]
        part[:] = _ZEROS[: len(part)]


def release_all(messages: list[Message]) -> None:
    """Give back what is received and not going to be looked at."""
    for message in messages:
        message.release()


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
