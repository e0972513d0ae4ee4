"""Room 5, crypto buffer pool: where the bytes of a message live on their way."""

from __future__ import annotations

from reference_impl.buffer_pool.pool import BUFFER_POOL, Allocating, Buffers, BufferSettings, CryptoBufferPool

__all__ = [
    "BUFFER_POOL",
    "Allocating",
    "BufferSettings",
    "Buffers",
    "CryptoBufferPool",
]
