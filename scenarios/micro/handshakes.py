"""Three ways to authenticate two peers to each other, and to do it again when they have met.

Identities are the same, and checks of equal worth: each end proves its Ed25519 identity and the dialing end accepts one
peer id only. A `Scheme` plays both ends in memory, and one end at a time over a socket. Where a library lets some work
be done once for all handshakes, it is.
"""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import tempfile
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from reference_impl.buffer_pool import Allocating, BufferSettings
from reference_impl.errors import IdentityError
from reference_impl.pooling.lease import PoolSettings
from reference_impl.pooling.resumption import NAME_BYTES, Tickets
from reference_impl.security.channel import FIRST_BYTES, PROLOGUE, SECOND_BYTES, THIRD_BYTES, Acceptance, Initiation
from reference_impl.security.identity import Identity, verify_proof
from reference_impl.security.noise import NN_PSK0

BUFFERS = Allocating(BufferSettings())
DIALER = Identity.from_seed(b"micro dialer")
LISTENER = Identity.from_seed(b"micro listener")


class InMemory(Protocol):
    """One way to authenticate."""

    def both_ends(self) -> object:
        """A whole handshake, both ends in this thread, without sockets."""


class Scheme(InMemory, Protocol):
    """One way to authenticate, over sockets too."""

    def dial(self, connected: socket.socket) -> object:
        """The dialing end over a blocking socket, which the scheme may replace; returns what must be closed."""

    def accept(self, connected: socket.socket) -> object:
        """The listening end over a blocking socket; returns what must be closed."""


def receive(connected: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes."""
    data = connected.recv(size)
    while len(data) < size:
        more = connected.recv(size - len(data))
        if not more:
            raise ConnectionResetError("the other end left")
        data += more
    return data


class OurNoise:
    """Ours: what the transport and the node do."""

    def both_ends(self) -> object:
        initiation, acceptance = Initiation(DIALER, LISTENER.peer_id), Acceptance(LISTENER)
        last, near = initiation.finish(acceptance.answer(initiation.first), BUFFERS)
        return near, acceptance.finish(last, BUFFERS)

    def dial(self, connected: socket.socket) -> object:
        initiation = Initiation(DIALER, LISTENER.peer_id)
        connected.sendall(initiation.first)
        last, _ = initiation.finish(receive(connected, SECOND_BYTES), BUFFERS)
        connected.sendall(last)
        return connected

    def accept(self, connected: socket.socket) -> object:
        acceptance = Acceptance(LISTENER)
        connected.sendall(acceptance.answer(receive(connected, FIRST_BYTES)))
        acceptance.finish(receive(connected, THIRD_BYTES), BUFFERS)
        return connected


class OurResumption:
    """Ours between two ends that have met."""

    def __init__(self) -> None:
        self._near, self._far = (Tickets(PoolSettings()) for _ in range(2))
        self.both_ends()  # a full handshake, which leaves the first ticket

    def both_ends(self) -> object:
        initiation, acceptance = Initiation(DIALER, LISTENER.peer_id, self._near), Acceptance(LISTENER, self._far)
        last, near = initiation.finish(acceptance.answer(initiation.first), BUFFERS)
        return near, acceptance.finish(last, BUFFERS)


class NoiseProtocol:
    """The package noiseprotocol: the same pattern, prologue, payloads and frames, and our check of the identity.

    It is used by its public interface, which derives the static public key anew for each connection.
    """

    def __init__(self) -> None:
        from noise.connection import Keypair, NoiseConnection

        self._connection = NoiseConnection
        self._static = Keypair.STATIC
        self._keys = {each.peer_id: each.static_key.private_bytes_raw() for each in (DIALER, LISTENER)}

    def _start(self, identity: Identity, *, initiator: bool) -> Any:
        connection = self._connection.from_name(b"Noise_XX_25519_AESGCM_SHA256")
        connection.set_prologue(PROLOGUE)
        (connection.set_as_initiator if initiator else connection.set_as_responder)()
        connection.set_keypair_from_private_bytes(self._static, self._keys[identity.peer_id])
        connection.start_handshake()
        return connection

    @staticmethod
    def _finish_dialing(near: Any, answer: bytes) -> bytes:
        state = near.noise_protocol.handshake_state
        proof = bytes(near.read_message(answer))
        verify_proof(proof, state.rs.public_bytes, LISTENER.peer_id)
        return bytes(near.write_message(DIALER.proof))

    @staticmethod
    def _finish_accepting(far: Any, third: bytes) -> None:
        state = far.noise_protocol.handshake_state
        verify_proof(bytes(far.read_message(third)), state.rs.public_bytes)

    def both_ends(self) -> object:
        near, far = self._start(DIALER, initiator=True), self._start(LISTENER, initiator=False)
        far.read_message(bytes(near.write_message()))
        self._finish_accepting(far, self._finish_dialing(near, bytes(far.write_message(LISTENER.proof))))
        return near, far

    def dial(self, connected: socket.socket) -> object:
        near = self._start(DIALER, initiator=True)
        connected.sendall(_framed(near.write_message()))
        connected.sendall(_framed(self._finish_dialing(near, receive(connected, SECOND_BYTES)[2:])))
        return connected

    def accept(self, connected: socket.socket) -> object:
        far = self._start(LISTENER, initiator=False)
        far.read_message(receive(connected, FIRST_BYTES)[2:])
        connected.sendall(_framed(far.write_message(LISTENER.proof)))
        self._finish_accepting(far, receive(connected, THIRD_BYTES)[2:])
        return connected


class NoiseProtocolResumption:
    """The package noiseprotocol: the same pattern under one secret that both ends have; it keeps no tickets."""

    def __init__(self) -> None:
        from noise.connection import NoiseConnection

        self._connection = NoiseConnection

    def _start(self, *, initiator: bool) -> Any:
        connection = self._connection.from_name(NN_PSK0.name)
        connection.set_prologue(PROLOGUE + bytes(NAME_BYTES) + DIALER.peer_id + LISTENER.peer_id)
        connection.set_psks(b"s" * 32)
        (connection.set_as_initiator if initiator else connection.set_as_responder)()
        connection.start_handshake()
        return connection

    def both_ends(self) -> object:
        near, far = self._start(initiator=True), self._start(initiator=False)
        far.read_message(bytes(near.write_message()))
        near.read_message(bytes(far.write_message()))
        return near, far


def _framed(message: bytes | bytearray) -> bytes:
    return len(message).to_bytes(2, "big") + message


class Tls13:
    """TLS 1.3 by OpenSSL: X25519, AES-128-GCM or -256-GCM, certificates of the identities' keys on both sides.

    Each end trusts one authority and then compares the certificate's key with a peer id. No session `tickets` unless
    they are used. What a deployment adds (host names, revocation) is left out.
    """

    def __init__(self, tickets: int = 0) -> None:
        authority = Identity.from_seed(b"micro authority").signing_key  # the same in both processes
        root = _certificate("authority", authority.public_key(), authority, authority=True)
        with tempfile.TemporaryDirectory() as folder:
            self._client = _context(ssl.PROTOCOL_TLS_CLIENT, DIALER, root, authority, Path(folder))
            self._server = _context(ssl.PROTOCOL_TLS_SERVER, LISTENER, root, authority, Path(folder))
        self._server.num_tickets = tickets

    def both_ends(self, session: ssl.SSLSession | None = None) -> tuple[ssl.SSLObject, ssl.SSLObject]:
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        near = self._client.wrap_bio(to_client, to_server, session=session)
        far = self._server.wrap_bio(to_server, to_client, server_side=True)
        waiting = [near, far]
        while waiting:
            end = waiting.pop(0)
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting.append(end)
        _check(near, LISTENER.peer_id)
        _check(far, DIALER.peer_id)
        return near, far

    def dial(self, connected: socket.socket) -> object:
        secured = self._client.wrap_socket(connected)
        _check(secured, LISTENER.peer_id)
        return secured

    def accept(self, connected: socket.socket) -> object:
        secured = self._server.wrap_socket(connected, server_side=True)
        _check(secured, DIALER.peer_id)
        return secured


class Tls13Resumption:
    """TLS 1.3 with a session ticket, which serves again and again; both ends know the certificates from it."""

    def __init__(self) -> None:
        self._tls = Tls13(tickets=1)
        near, _ = self._tls.both_ends()
        with contextlib.suppress(ssl.SSLWantReadError):
            near.read(1)  # the ticket comes behind the handshake
        self.session = near.session

    def both_ends(self) -> tuple[ssl.SSLObject, ssl.SSLObject]:
        return self._tls.both_ends(self.session)


def _check(secured: ssl.SSLSocket | ssl.SSLObject, expected: bytes) -> None:
    certificate = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey) or key.public_bytes_raw() != expected:
        raise IdentityError("the certificate is somebody else's")


def _certificate(
    name: str, key: Ed25519PublicKey, signer: Ed25519PrivateKey, *, authority: bool = False
) -> x509.Certificate:
    begins = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(signer, None)
    )


def _context(
    protocol: Any, identity: Identity, root: x509.Certificate, authority: Ed25519PrivateKey, folder: Path
) -> ssl.SSLContext:
    own = _certificate("peer", identity.signing_key.public_key(), authority)
    key = identity.signing_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / f"{identity.peer_id.hex()}.pem"
    path.write_bytes(key + own.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=root.public_bytes(Encoding.PEM).decode())
    context.load_cert_chain(path)
    return context


SCHEMES: dict[str, type[Scheme]] = {"on": OurNoise, "noiseprotocol": NoiseProtocol, "tls13": Tls13}
RESUMPTIONS: dict[str, type[InMemory]] = {
    "off": OurNoise,
    "on": OurResumption,
    "noiseprotocol": NoiseProtocolResumption,
    "tls13": Tls13Resumption,
}
"""Handshakes between two ends that have met; without resumption they have to authenticate anew."""
