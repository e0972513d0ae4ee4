"""The wire format above the cipher.

A frame is a 2-byte big-endian length and one Noise record of that length, at most 65,535 bytes: 65,519 of
plaintext and a 16-byte tag. A message is a 5-byte head (kind, body length) and a body. A body of up to 16 KiB
shares one record with its head; a longer message is its head alone in one record, then its body in full records
and a last shorter one, so that neither end ever copies a long body to make room for its head.
"""

from __future__ import annotations

import struct

from reference_impl.errors import FrameError
from reference_impl.security.noise import TAG_BYTES

MAX_RECORD = 65_535
MAX_PLAINTEXT = MAX_RECORD - TAG_BYTES
LENGTH_BYTES = 2
MAX_FRAME = LENGTH_BYTES + MAX_RECORD
MAX_BODY = 4 * 1024 * 1024

HEAD = struct.Struct(">BI")
HEAD_BYTES = HEAD.size
MAX_SINGLE = 16 * 1024
"""The longest body that shares a record with its head: up to here copying the body costs less than one more record."""


def wire_size(body: int) -> int:
    """Bytes on the wire of a message with `body` bytes of body."""
    overhead = LENGTH_BYTES + TAG_BYTES
    if body <= MAX_SINGLE:
        return overhead + HEAD_BYTES + body
    records = -(-body // MAX_PLAINTEXT)
    return overhead + HEAD_BYTES + records * overhead + body


def parse_head(plaintext: bytes) -> tuple[int, int]:
    """(kind, body length) from the first plaintext record of a message.

    Raises `FrameError` when the record is too short, the body too long, or the two disagree.
    """
    if len(plaintext) < HEAD_BYTES:
        raise FrameError(f"message head of {len(plaintext)} bytes; expected {HEAD_BYTES}")
    kind, size = HEAD.unpack_from(plaintext)
    if size > MAX_BODY:
        raise FrameError(f"message of {size} bytes; at most {MAX_BODY} are accepted")
    if len(plaintext) != HEAD_BYTES + (size if size <= MAX_SINGLE else 0):
        raise FrameError("message length disagrees with its first record")
    return kind, size


def check_body(size: int) -> None:
    """Refuse to send what the other end would refuse to receive."""
    if size > MAX_BODY:
        raise FrameError(f"message of {size} bytes; at most {MAX_BODY} can be sent")
