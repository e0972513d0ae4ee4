"""Errors of the network layer. A `ConnectionError` kills the connection; `Rejected` and `RemoteError` do not."""

from __future__ import annotations


class ChannelError(ConnectionError):
    """The secure channel cannot go on: bad handshake, forged or malformed record, a limit. The connection dies."""


class HandshakeError(ChannelError):
    """The handshake failed or was too slow."""


class IdentityError(HandshakeError):
    """The remote end did not prove the identity that was expected of it."""


class FrameError(ChannelError):
    """A frame or message breaks the format or its size limits."""


class NonceExhausted(ChannelError):
    """A cipher reached the last nonce; nothing more may be encrypted under its key."""


class Rejected(Exception):
    """The peer's rate limiter refused the request. Nothing was done; the connection stays usable.

    `retry_after` is in seconds; infinity means that this request can never be admitted.
    """

    rejected = True

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"rejected by the peer's rate limiter; retry after {retry_after:.3f} s")
        self.retry_after = retry_after

    def __repr__(self) -> str:
        return "Rejected()"  # without the time: load generators count failures by this


class RemoteError(Exception):
    """The peer answered with an error: the request was malformed. The connection stays usable."""
