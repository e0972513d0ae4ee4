"""TLS 1.3 over TCP, both sides, with the same identities as Noise: a certificate's key is the peer's identity key.

TLS runs between two memory BIOs, sans I/O like the Noise channel, so dialer and node move its bytes with the code
that moves Noise's, under plain threads, gevent and uvloop alike. Inside, messages have frame.py's head (kind, length)
and then the body; TLS cuts them into records of its own. What is received for a long message is decrypted straight
into a buffer of the pool; what is sent leaves OpenSSL as new bytes, so pooling has nothing to offer there.
"""

from __future__ import annotations

import functools
import socket
import ssl
import time
from typing import NoReturn

from reference_impl.buffer_pool import Buffers
from reference_impl.buffer_pool.buffers import Message, PooledBuffer, release_all
from reference_impl.errors import ChannelError, FrameError, HandshakeError, IdentityError, NonceExhausted
from reference_impl.security.certificates import Authority, peer_id_of
from reference_impl.security.frame import HEAD, HEAD_BYTES, MAX_BODY, MAX_SINGLE, check_body
from reference_impl.security.identity import Identity
from reference_impl.security.noise import REKEY_INTERVAL, Bytes
from reference_impl.transports.base import Accept, Address, Closable, MakeSession, Peer
from reference_impl.transports.tcp import TcpLink, TcpSettings, TcpTransport
from reference_impl.transports.tcp_server import listen_on_socket
from reference_impl.transports.waiting import receiver

_STEP = 64 * 1024
"""A BIO never shrinks, so it is never given more than this at once."""
_RECORD = 16 * 1024
_HANDSHAKE_MOST = 32 * 1024
"""Bytes that an unauthenticated peer may make us take; its real flights are about 1 KiB."""
_FLIGHT = 4 * 1024
"""Of these, looked at one after another, so that what follows the handshake does not make its BIO grow."""


class TlsChannel:
    """An established TLS connection between two BIOs. Not thread-safe."""

    __slots__ = ("_left", "_outgoing", "_tls", "inbox", "peer_id")

    def __init__(self, peer_id: bytes, ends: _Ends, buffers: Buffers) -> None:
        self.peer_id = peer_id
        self._tls: ssl.SSLObject | None = ends.tls
        self._outgoing = ends.outgoing
        self._left = REKEY_INTERVAL  # records; ssl offers no key update, and takes none
        self.inbox = TlsInbox(ends, buffers)

    def seal(self, kind: int, body: Bytes) -> bytes:
        """The message as TLS records. Raises `NonceExhausted` when the keys are used up, `FrameError` when too long."""
        size = len(body)
        self._left -= 2 + size // _RECORD
        tls = self._tls
        if self._left < 0 or tls is None:
            raise NonceExhausted("TLS keys are used up or wiped; reconnect")
        head = HEAD.pack(kind, size)
        if size <= MAX_SINGLE:
            _write(tls, head + body)
            return self._outgoing.read()
        check_body(size)
        _write(tls, head)
        view = memoryview(body)
        sealed = []
        for at in range(0, size, _STEP):
            _write(tls, view[at : at + _STEP])
            sealed.append(self._outgoing.read())
        return b"".join(sealed)

    def feed(self, data: Bytes) -> list[Message]:
        """The messages that `data` completes. Raises `ChannelError`."""
        messages = self.inbox.feed(data)
        if self._outgoing.pending:
            release_all(messages)
            raise ChannelError("peer asked for new keys, of which any number would wait to be sent")
        return messages

    def trim(self) -> None:
        """Nothing to do: OpenSSL gives its record buffers back by itself."""

    def close(self) -> None:
        """Free the keys (OpenSSL wipes them) and whatever was half received."""
        self.inbox.close()
        self._tls = None


class TlsInbox:
    """The receiving half: plaintext of any cut in, whole messages out. A TLS record of which a part has arrived is in
    OpenSSL and cannot be seen: it counts for nothing, `between` two messages too.
    """

    __slots__ = ("_acquire", "_at", "_incoming", "_kind", "_message", "_pending", "_tls")

    def __init__(self, ends: _Ends, buffers: Buffers) -> None:
        self._tls: ssl.SSLObject | None = ends.tls
        self._incoming = ends.incoming
        self._acquire = buffers.acquire
        self._message: PooledBuffer | None = None
        self._pending = b""
        self._kind = self._at = 0

    @property
    def ahead(self) -> int:
        return 0

    def space(self) -> PooledBuffer | None:
        """None: bytes of TLS go into its BIO first."""
        return None

    def feed(self, data: Bytes) -> list[Message]:
        messages: list[Message] = []
        view = memoryview(data)
        try:
            for at in range(0, len(view) or 1, _STEP):  # nothing new: there may be something left of the handshake
                self._incoming.write(view[at : at + _STEP])
                self._drain(messages)
        except BaseException:
            release_all(messages)
            raise
        return messages

    def _drain(self, messages: list[Message]) -> None:
        tls, incoming = self._tls, self._incoming
        if tls is None:
            raise ChannelError("channel is closed")
        try:
            while incoming.pending or tls.pending():
                message = self._message
                if message is None:
                    self._parse(tls.read(_RECORD) or _ended(), messages)
                else:
                    self._fill(tls, message, messages)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise ChannelError(f"TLS: {error.reason or error}") from error

    def _fill(self, tls: ssl.SSLObject, message: PooledBuffer, messages: list[Message]) -> None:
        view = message.view
        got = tls.read(len(view) - self._at, view[self._at :])  # type: ignore[arg-type, call-overload, unused-ignore]
        self._at += int(got) or _ended()
        if self._at == len(view):
            self._message = None
            messages.append(Message(self._kind, view, message))

    def _parse(self, data: bytes, messages: list[Message]) -> None:
        """Take the messages in `data`, keep what is left; a long body goes on in a buffer of its own."""
        if self._pending:
            data = self._pending + data
        start, end = 0, len(data)
        while end - start >= HEAD_BYTES:
            kind, size = HEAD.unpack_from(data, start)
            body = start + HEAD_BYTES
            if size > MAX_SINGLE:
                if size > MAX_BODY:
                    raise FrameError(f"message of {size} bytes; at most {MAX_BODY} are accepted")
                self._kind, self._at = kind, end - body
                self._message = self._acquire(size, secret=True)
                self._message.view[: self._at] = data[body:]
                start = end
                break
            if end - body < size:
                break
            messages.append(Message(kind, data[body : body + size]))
            start = body + size
        self._pending = data[start:]

    @property
    def between(self) -> bool:
        return self._message is None and not self._pending

    def close(self) -> None:
        if self._message is not None:
            self._message.release()
            self._message = None
        self._pending = b""
        self._tls = None


def _ended() -> NoReturn:
    raise ChannelError("peer closed the connection")


def _write(tls: ssl.SSLObject, data: Bytes) -> None:
    written = tls.write(data)
    while written < len(data):  # OpenSSL takes a record at a time when it was built so
        written += tls.write(memoryview(data)[written:])


class _Ends:
    """A TLS connection and its two BIOs."""

    __slots__ = ("incoming", "outgoing", "tls")

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side)

    def advance(self) -> bool:
        """Handshake as far as what has arrived allows; whether it is finished. Raises `HandshakeError`."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError as error:
            raise IdentityError(f"peer's certificate is not of this study: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise HandshakeError(f"TLS handshake: {error.reason or error}") from error
        return True


class TlsAcceptance:
    """The listening end of a TLS handshake; the peer id is that of the certificate it demands."""

    __slots__ = ("_buffers", "_ends", "_received", "channel", "rest")

    def __init__(self, context: ssl.SSLContext, buffers: Buffers) -> None:
        self._ends = _Ends(context, server_side=True)
        self._buffers = buffers
        self._received = 0
        self.channel: TlsChannel | None = None
        self.rest = b""
        """What came behind the handshake; its beginning may wait in the BIO."""

    def receive(self, data: bytes) -> bytes:
        ends = self._ends
        for at in range(0, len(data), _FLIGHT):
            flight = data[at : at + _FLIGHT]
            self._received += len(flight)
            if self._received > _HANDSHAKE_MOST:
                raise HandshakeError(f"more than {_HANDSHAKE_MOST} bytes and no handshake")
            ends.incoming.write(flight)
            if ends.advance():
                self.channel = TlsChannel(peer_id_of(ends.tls.getpeercert(True)), ends, self._buffers)
                self.rest = data[at + _FLIGHT :]
                break
        return ends.outgoing.read()


class TlsListener:
    """Brings TCP connections, authenticated by TLS."""

    name = "tls"

    def __init__(self, authority: Authority, buffers: Buffers) -> None:
        self.authority = authority
        self._buffers = buffers

    def acceptor(self, identity: Identity) -> Accept:
        context = self.authority.context(identity, server_side=True)
        return lambda: TlsAcceptance(context, self._buffers)

    async def listen(self, make_session: MakeSession, host: str, port: int, backlog: int) -> tuple[Closable, Address]:
        return await listen_on_socket(make_session, host, port, backlog)


class TlsTransport(TcpTransport):
    """Dials TCP addresses that speak TLS; the settings are those of TCP. Every handshake is a full one."""

    name = "tls"

    def __init__(self, identity: Identity, authority: Authority, buffers: Buffers, settings: TcpSettings) -> None:
        super().__init__(identity, buffers, settings)
        self._make_context = functools.cache(lambda: authority.context(identity, server_side=False))

    def secure(self, resource: socket.socket, peer: Peer) -> TcpLink:
        ends = _Ends(self._make_context(), server_side=False)
        deadline = time.monotonic() + self._settings.connect_timeout
        while not ends.advance():
            resource.sendall(ends.outgoing.read())
            left = deadline - time.monotonic()
            resource.settimeout(max(left, 0.001))
            data = resource.recv(_STEP) if left > 0 else b""
            if not data:
                raise HandshakeError("peer left or fell silent during the handshake")
            ends.incoming.write(data)
        found = peer_id_of(ends.tls.getpeercert(True))
        if found != peer:  # and our own certificate, which waits in the BIO, is never sent
            raise IdentityError(f"peer is {found.hex()[:16]}..., expected {peer.hex()[:16]}...")
        resource.sendall(ends.outgoing.read())
        reading = receiver(resource, self._settings.request_timeout)
        return TcpLink(resource, TlsChannel(found, ends, self._buffers), reading)
