"""Noise_XX_25519_AESGCM_SHA256 as one writes it on the first day: straight from the specification, revision 34.

Nothing here comes from the package under test but the facts of its wire format, so that each pair of ends can talk:
the prologue, what the identity proof signs, frames of a 2-byte length, and messages of (kind, body length, body).
It knows one optimization only, the one everybody makes: an AESGCM is built once per direction and connection.
"""

from __future__ import annotations

import struct
from hashlib import sha256

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PROTOCOL_NAME = b"Noise_XX_25519_AESGCM_SHA256"
PROLOGUE = b"synapsed-bench/1"
SIGNED_CONTEXT = b"synapsed-bench noise static key v1:"
DH_LENGTH = 32
TAG_LENGTH = 16
ID_LENGTH = 32
MAX_RECORDS = 2**24
"""The other end changes its keys after this many records; this one ends the connection."""

HEAD = struct.Struct(">BI")
MAX_SINGLE = 16 * 1024
MAX_BODY = 4 * 1024 * 1024
MAX_PLAINTEXT = 65_535 - TAG_LENGTH
"""A longer body than MAX_SINGLE follows its head in records of its own, all but the last of MAX_PLAINTEXT."""
ECHO, OK, ERROR = 1, 128, 130


class SecurityError(Exception):
    """The other end is not who or what it should be."""


class CipherState:
    """Section 5.1: a key and the nonce that counts up with each record."""

    def __init__(self, key: bytes) -> None:
        self.aead = AESGCM(key)
        self.n = 0

    def nonce(self) -> bytes:
        """Section 12.4: 32 zero bits and n, big-endian."""
        if self.n >= MAX_RECORDS:
            raise SecurityError("too many records under one key")
        nonce = self.n.to_bytes(12, "big")
        self.n += 1
        return nonce

    def encrypt(self, plaintext: bytes, ad: bytes | None = None) -> bytes:
        return self.aead.encrypt(self.nonce(), plaintext, ad)

    def decrypt(self, ciphertext: bytes, ad: bytes | None = None) -> bytes:
        try:
            return self.aead.decrypt(self.nonce(), ciphertext, ad)
        except InvalidTag:
            raise SecurityError("record failed authentication") from None


class SymmetricState:
    """Section 5.2: chaining key, transcript hash, and the current handshake key."""

    def __init__(self) -> None:
        self.ck = self.h = PROTOCOL_NAME.ljust(32, b"\0")
        self.cipher: CipherState | None = None
        self.mix_hash(PROLOGUE)

    def hkdf(self, material: bytes) -> tuple[bytes, bytes]:
        out = HKDF(SHA256(), length=64, salt=self.ck, info=b"").derive(material)
        return out[:32], out[32:]

    def mix_key(self, private: X25519PrivateKey, public: bytes) -> None:
        try:
            secret = private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise SecurityError("bad public key") from None
        self.ck, key = self.hkdf(secret)
        self.cipher = CipherState(key)

    def mix_hash(self, data: bytes) -> None:
        self.h = sha256(self.h + data).digest()

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = self.cipher.encrypt(plaintext, self.h) if self.cipher else plaintext
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        plaintext = self.cipher.decrypt(ciphertext, self.h) if self.cipher else ciphertext
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        """The ciphers (initiator to responder, responder to initiator)."""
        first, second = self.hkdf(b"")
        return CipherState(first), CipherState(second)


class Identity:
    """An Ed25519 identity, its X25519 static key, and the proof that one signed the other."""

    def __init__(self) -> None:
        signing = Ed25519PrivateKey.generate()
        self.static = X25519PrivateKey.generate()
        self.static_public = self.static.public_key().public_bytes_raw()
        self.peer_id = signing.public_key().public_bytes_raw()
        self.proof = self.peer_id + signing.sign(SIGNED_CONTEXT + self.static_public)


def verify(proof: bytes, static_public: bytes) -> bytes:
    """The id of the peer that owns `static_public`, according to its proof."""
    peer_id, signature = proof[:ID_LENGTH], proof[ID_LENGTH:]
    try:
        Ed25519PublicKey.from_public_bytes(peer_id).verify(signature, SIGNED_CONTEXT + static_public)
    except (InvalidSignature, ValueError):
        raise SecurityError("identity proof is wrong") from None
    return peer_id


class Initiator:
    """The dialing end: -> e   <- e, ee, s, es   -> s, se."""

    def __init__(self, identity: Identity, expected: bytes) -> None:
        self.identity = identity
        self.expected = expected
        self.state = SymmetricState()
        self.e = X25519PrivateKey.generate()

    def first(self) -> bytes:
        public = self.e.public_key().public_bytes_raw()
        self.state.mix_hash(public)
        return public + self.state.encrypt_and_hash(b"")

    def third(self, second: bytes) -> bytes:
        """The last message; raises when the second does not come from the expected peer."""
        state = self.state
        re, rest = second[:DH_LENGTH], second[DH_LENGTH:]
        state.mix_hash(re)
        state.mix_key(self.e, re)
        rs = state.decrypt_and_hash(rest[: DH_LENGTH + TAG_LENGTH])
        state.mix_key(self.e, rs)
        if verify(state.decrypt_and_hash(rest[DH_LENGTH + TAG_LENGTH :]), rs) != self.expected:
            raise SecurityError("another peer answered")
        static = state.encrypt_and_hash(self.identity.static_public)
        state.mix_key(self.identity.static, re)
        return static + state.encrypt_and_hash(self.identity.proof)

    def ciphers(self) -> tuple[CipherState, CipherState]:
        """(sending, receiving)."""
        return self.state.split()


class Responder:
    """The listening end."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.state = SymmetricState()
        self.e = X25519PrivateKey.generate()

    def second(self, first: bytes) -> bytes:
        state = self.state
        re = first[:DH_LENGTH]
        state.mix_hash(re)
        state.decrypt_and_hash(first[DH_LENGTH:])
        public = self.e.public_key().public_bytes_raw()
        state.mix_hash(public)
        state.mix_key(self.e, re)
        static = state.encrypt_and_hash(self.identity.static_public)
        state.mix_key(self.identity.static, re)
        return public + static + state.encrypt_and_hash(self.identity.proof)

    def finish(self, third: bytes) -> bytes:
        """The id of the peer that dialed."""
        state = self.state
        rs = state.decrypt_and_hash(third[: DH_LENGTH + TAG_LENGTH])
        state.mix_key(self.e, rs)
        return verify(state.decrypt_and_hash(third[DH_LENGTH + TAG_LENGTH :]), rs)

    def ciphers(self) -> tuple[CipherState, CipherState]:
        """(sending, receiving)."""
        receiving, sending = self.state.split()
        return sending, receiving


def frame(record: bytes) -> bytes:
    return len(record).to_bytes(2, "big") + record


def seal(cipher: CipherState, kind: int, body: bytes) -> bytes:
    """A message on the wire: one record, or its head and then its body in records."""
    head = HEAD.pack(kind, len(body))
    if len(body) <= MAX_SINGLE:
        return frame(cipher.encrypt(head + body))
    parts = [body[at : at + MAX_PLAINTEXT] for at in range(0, len(body), MAX_PLAINTEXT)]
    return b"".join(frame(cipher.encrypt(part)) for part in [head, *parts])


def parse(record: bytes) -> tuple[int, bytes, int]:
    """(kind, body so far, bytes that are to come in further records) from the first record of a message."""
    if len(record) < HEAD.size:
        raise SecurityError("message without a head")
    kind, size = HEAD.unpack_from(record)
    body = record[HEAD.size :]
    if size > MAX_BODY or len(body) != (size if size <= MAX_SINGLE else 0):
        raise SecurityError("message of another length than it says")
    return kind, body, size - len(body)
