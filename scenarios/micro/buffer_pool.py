"""Buffers: what the memory of a message costs, alone and under framing and encryption.

One operation on a message seals it for the wire and gives everything back. The wipe of buffers that held plaintext is
measured apart. Page faults and CPU per operation stand in each run's metadata.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from reference_impl.buffer_pool import BUFFER_POOL, BufferSettings, CryptoBufferPool
from reference_impl.security.frame import HEAD, LENGTH_BYTES, MAX_FRAME, MAX_PLAINTEXT, MAX_SINGLE, wire_size
from reference_impl.security.noise import TAG_BYTES, CipherState
from scenarios.micro.suite import Builder, Case, Goal, Room, Setup, Timed, each, main

KEY = bytes(range(32))
FIRST = wire_size(0) + MAX_FRAME
"bytes that are read before it is known how long a message is, as a link does"
SIZES = {"64 B": 64, "1 KiB": 1024, "4 KiB": 4096, "64 KiB": 65_536, "1 MiB": 1 << 20}
BIG = ("4 KiB", "64 KiB", "1 MiB")


def _acquired(size: int, *, secret: bool) -> Builder:
    def build(setup: Setup) -> Timed:
        acquire = CryptoBufferPool(BufferSettings()).acquire

        def work(times: Iterator[None]) -> None:
            for _ in times:
                acquire(size, secret=secret).release()

        return each([None], work)

    return build


def _bytearray(size: int, *, secret: bool) -> Builder:
    # What Python gives: zeroed memory. Wiping it before it is freed is one more pass.
    def build(setup: Setup) -> Timed:
        zeros = bytes(size)

        def work(times: Iterator[None]) -> None:
            for _ in times:
                bytearray(size)

        def work_wiping(times: Iterator[None]) -> None:
            for _ in times:
                bytearray(size)[:] = zeros

        return each([None], work_wiping if secret else work)

    return build


def _sealed(twin: Callable[..., Any], size: int) -> Builder:
    def build(setup: Setup) -> Timed:
        seal, cipher = twin(BufferSettings()).seal, CipherState(KEY)

        def work(bodies: Iterator[bytes]) -> None:
            for body in bodies:
                wire = seal(cipher, 1, body)
                if not isinstance(wire, bytes):
                    for piece in wire:
                        piece.release()

        return each([os.urandom(size)], work)

    return build


def _concatenation(size: int) -> Builder:
    # One header, one ciphertext, joined: no records of at most 64 KiB, so not a Noise transport, and no counted nonce.
    def build(setup: Setup) -> Timed:
        encrypt, nonce = AESGCM(KEY).encrypt, bytes(12)

        def work(bodies: Iterator[bytes]) -> None:
            for body in bodies:
                HEAD.pack(1, len(body)) + encrypt(nonce, body, None)

        return each([os.urandom(size)], work)

    return build


def _fresh_bytearray(size: int) -> Builder:
    # The same records as ours, encrypted into place, in a bytearray made for each message.
    def build(setup: Setup) -> Timed:
        cipher = CipherState(KEY)

        def work(bodies: Iterator[bytes]) -> None:
            for body in bodies:
                _seal_in_place(cipher, body, memoryview(bytearray(wire_size(size))))

        return each([os.urandom(size)], work)

    return build


def _seal_in_place(cipher: CipherState, body: bytes, out: memoryview) -> None:
    head = HEAD.pack(1, len(body))
    if len(out) == wire_size(0) + len(body):
        records: list[Any] = [head + body]
    else:
        view = memoryview(body)
        records = [head, *(view[start : start + MAX_PLAINTEXT] for start in range(0, len(view), MAX_PLAINTEXT))]
    at = 0
    for record in records:
        start, stop = at + LENGTH_BYTES, at + LENGTH_BYTES + len(record) + TAG_BYTES
        out[at:start] = (stop - start).to_bytes(LENGTH_BYTES, "big")
        cipher.encrypt_into(record, out[start:stop])
        at = stop


def _both_ends(twin: Callable[..., Any], size: int) -> Builder:
    def build(setup: Setup) -> Timed:
        buffers = twin(BufferSettings())
        sending, inbox = CipherState(KEY), buffers.inbox(CipherState(KEY))

        def work(bodies: Iterator[bytes]) -> None:
            for body in bodies:
                wire = buffers.seal(sending, 1, body)
                for piece in (wire,) if isinstance(wire, bytes) else wire:
                    view = memoryview(piece) if isinstance(piece, bytes) else piece.view
                    at = 0
                    while at < len(view):
                        read = inbox.ahead or FIRST
                        for message in inbox.feed(view[at : at + read]):
                            message.release()
                        at += read
                    if not isinstance(piece, bytes):
                        piece.release()

        return each([os.urandom(size)], work)

    return build


def _weight(label: str) -> float:
    """Long messages are many in a stretch too, so that malloc has settled."""
    return 10.0 if SIZES[label] > MAX_SINGLE else 1.0


def _seal_case(label: str, size: int) -> Case:
    variants = {
        "off": _sealed(BUFFER_POOL.off, size),
        "malloc-tuned": _sealed(BUFFER_POOL.off, size),
        "on": _sealed(BUFFER_POOL.on, size),
        "concatenation": _concatenation(size),
        "bytearray": _fresh_bytearray(size),
    }
    goals = {
        "64 KiB": (Goal(5.2 / 5.129, "concatenation", "5.2 us where one header + ciphertext takes 5.13"),),
        "1 MiB": (
            Goal(76 / 1200.594, "concatenation", "76 us where one header + ciphertext takes 1,201"),
            Goal(1.0, why="1 page fault", of="page_faults"),
        ),
    }
    no_worse = (Goal(1.03, "off", "no worse than allocating, within 3 %"),)
    return Case(f"framed encrypt, {label}", variants, goals.get(label, no_worse), weight=_weight(label))


ACQUIRE_GOALS = {"4 KiB": 250 / 228, "64 KiB": 250 / 764, "1 MiB": 250 / 9866}
ROOM = Room(
    "buffer_pool",
    __doc__,
    (
        *(
            Case(
                f"acquire + release, {label}",
                {"on": _acquired(SIZES[label], secret=False), "bytearray": _bytearray(SIZES[label], secret=False)},
                (Goal(ACQUIRE_GOALS[label], "bytearray", "250 ns where bytearray(n) takes 228 / 764 / 9,866"),),
            )
            for label in BIG
        ),
        *(
            Case(
                f"acquire + wipe + release, {label}",
                {"on": _acquired(SIZES[label], secret=True), "bytearray": _bytearray(SIZES[label], secret=True)},
            )
            for label in BIG
        ),
        *(_seal_case(label, size) for label, size in SIZES.items()),
        *(
            Case(
                f"framed encrypt + decrypt, {label}",
                {
                    "off": _both_ends(BUFFER_POOL.off, SIZES[label]),
                    "malloc-tuned": _both_ends(BUFFER_POOL.off, SIZES[label]),
                    "on": _both_ends(BUFFER_POOL.on, SIZES[label]),
                },
                weight=_weight(label),
            )
            for label in ("1 KiB", "64 KiB", "1 MiB")
        ),
    ),
    needs={"concatenation": "cryptography", "bytearray": "builtins"},
    env={"malloc-tuned": {"MALLOC_MMAP_THRESHOLD_": str(1 << 28), "MALLOC_TRIM_THRESHOLD_": str(1 << 28)}},
)

if __name__ == "__main__":
    main(ROOM)
