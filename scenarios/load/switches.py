"""What each optimization is for, in one line that a newcomer understands."""

from __future__ import annotations

from collections.abc import Mapping

PURPOSE: Mapping[str, str] = {
    "pooling": "Keep authenticated connections and use them again, instead of a handshake for every request",
    "cleanup": "Release every connection exactly once, whatever ends it: cancellation, errors, failed handshakes",
    "rate_limit": "Bound new connections per source address and requests per peer, so that one peer cannot take all",
    "circuit_breaker": "Stop trying a peer that keeps failing, try the next transport, come back after a pause",
    "buffer_pool": "Encrypt and decrypt in reused buffers, instead of allocating for every message",
    "metrics": "Count per thread and keep compact histograms, instead of samples under one lock",
}
