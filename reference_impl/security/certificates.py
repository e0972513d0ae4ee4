"""A study's certificate authority, and what TLS needs of it: certificates that carry a peer's identity key.

A leaf's key is the peer's Ed25519 identity key itself, so whoever completes a handshake has proved the peer id; the
authority only says who takes part in the study. It is made for one study and dies with it, which is why its
certificates state no end ("99991231235959Z", RFC 5280, 4.1.2.5).
"""

from __future__ import annotations

import contextlib
import datetime
import ssl
import tempfile

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from reference_impl.errors import IdentityError
from reference_impl.security.identity import Identity
from reference_impl.settings import SettingsError

_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "synapsed-bench study authority")])
_BEGIN = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_END = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


class Authority:
    """A certificate authority: its own certificate and its key. `pem` holds both; whoever has it can join the study."""

    __slots__ = ("_key", "certificate")

    def __init__(self, key: Ed25519PrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self.certificate = certificate

    @classmethod
    def generate(cls, key: Ed25519PrivateKey | None = None) -> Authority:
        """A new authority over `key`, or a fresh random one."""
        key = key or Ed25519PrivateKey.generate()
        return cls(key, _certificate(_NAME, key.public_key(), key, authority=True))

    @classmethod
    def from_pem(cls, pem: str) -> Authority:
        """The authority whose `pem` this is. Raises `SettingsError`."""
        try:
            certificate = x509.load_pem_x509_certificate(pem.encode())
            key = load_pem_private_key(pem.encode(), None)
        except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
            raise SettingsError("tls.authority is not a PEM certificate followed by its unencrypted key") from error
        if not isinstance(key, Ed25519PrivateKey) or key.public_key() != certificate.public_key():
            raise SettingsError("tls.authority's key is not the Ed25519 key of its certificate")
        return cls(key, certificate)

    @property
    def pem(self) -> str:
        return self.certificate_pem + _key_pem(self._key)

    @property
    def certificate_pem(self) -> str:
        """What a peer needs to check others."""
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def issue(self, peer_id: bytes) -> x509.Certificate:
        """A certificate for `peer_id`, which is the public key of the certificate."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, peer_id.hex())])
        return _certificate(name, Ed25519PublicKey.from_public_bytes(peer_id), self._key, authority=False)

    def context(self, identity: Identity, *, server_side: bool) -> ssl.SSLContext:
        """TLS 1.3 only, X25519; both ends show a certificate of this authority; no tickets: handshakes are whole."""
        # Looked up in the module at each call: a class bound before gevent patches ssl would recurse for ever.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the peer id is pinned, which says more than a name
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.certificate_pem)
        with contextlib.suppress(ssl.SSLError):  # a Python linked the old way takes NIST curves only (gh-77063) ...
            context.set_ecdh_curve("X25519")  # ... and leaves OpenSSL's own order, which X25519 leads up to 3.4
        if server_side:
            context.num_tickets = 0  # a ticket would look like something sent unasked
        leaf = self.issue(identity.peer_id).public_bytes(Encoding.PEM).decode()
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as chain:  # ssl reads keys from files only; mode 0600
            chain.write(leaf + _key_pem(identity.signing_key))
            chain.flush()
            context.load_cert_chain(chain.name)
        return context


def peer_id_of(der: bytes | None) -> bytes:
    """The peer id that the certificate `der` carries. Raises `IdentityError`."""
    if der is None:
        raise IdentityError("peer showed no certificate")
    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError("peer's certificate is malformed") from error
    if not isinstance(key, Ed25519PublicKey):
        raise IdentityError("peer's certificate does not carry an Ed25519 key")
    return key.public_bytes_raw()


def _certificate(
    subject: x509.Name, key: Ed25519PublicKey, signing_key: Ed25519PrivateKey, *, authority: bool
) -> x509.Certificate:
    usage = x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(_NAME)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
        .sign(signing_key, None)
    )


def _key_pem(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
