"""Noise with 25519, AESGCM and SHA256, sans I/O (The Noise Protocol Framework, revision 34).

    XX (section 7.5), between ends that know     NNpsk0 (section 9.4), between ends that share a secret
    nothing of each other:                       of an earlier handshake:
      -> e                                         -> psk, e
      <- e, ee, s, es                              <- e, ee
      -> s, se

A `Handshake` turns bytes into bytes; when it is done, `split` gives one `CipherState` per direction. A cipher
counts its nonces and never uses one twice: at a limit it changes its key (section 4.2 REKEY) or refuses.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from reference_impl.errors import ChannelError, HandshakeError, NonceExhausted

KEY_BYTES = 32
TAG_BYTES = 16
MAX_NONCE = 2**64 - 1
REKEY_INTERVAL = 2**24
"""Records under one key: RFC 8446, 5.5 allows 2**24.5 full-size records of AES-GCM; both ends count alike."""

_BLOCK_BYTES = 64
_OUTER, _INNER = (int.from_bytes(pad * _BLOCK_BYTES) for pad in (b"\x5c", b"\x36"))
_sha256 = hashlib.sha256

Bytes = bytes | bytearray | memoryview


class CipherState:
    """One direction of a channel: a key, its AEAD context, and the next nonce.

    `trim` drops the AEAD context (2.3 KiB) and keeps the key; the next use rebuilds it.
    """

    __slots__ = ("_aead", "_key", "_limit", "nonce")
    rekey_interval = REKEY_INTERVAL

    def __init__(self, key: bytes, *, nonce: int = 0) -> None:
        self._key = bytearray(key)
        # Of the copy, which `wipe` reaches: an AEAD context keeps the key it is made with for as long as it lives.
        self._aead: AESGCM | None = AESGCM(self._key)
        # Every fresh cipher shares the one number: an int of its own would cost an idle connection 32 bytes.
        self._limit = min(MAX_NONCE, nonce + self.rekey_interval if nonce else self.rekey_interval)
        self.nonce = nonce

    def encrypt(self, plaintext: Bytes, associated: bytes | None = None) -> bytes:
        """Ciphertext and tag of one record. Raises `NonceExhausted`."""
        nonce = self.nonce
        if nonce >= self._limit:
            self._rekey()
        self.nonce = nonce + 1
        return (self._aead or self._revive()).encrypt(nonce.to_bytes(12, "big"), plaintext, associated)

    def encrypt_into(self, plaintext: Bytes, out: memoryview) -> None:
        """Like `encrypt`, into `out`, whose length must be exactly len(plaintext) + 16."""
        nonce = self.nonce
        if nonce >= self._limit:
            self._rekey()
        self.nonce = nonce + 1
        (self._aead or self._revive()).encrypt_into(nonce.to_bytes(12, "big"), plaintext, None, out)

    def decrypt(self, ciphertext: Bytes, associated: bytes | None = None) -> bytes:
        """Plaintext of one record. Raises `ChannelError` when the tag is wrong: forged, replayed or out of order."""
        nonce = self.nonce
        if nonce >= self._limit:
            self._rekey()
        try:
            plaintext = (self._aead or self._revive()).decrypt(nonce.to_bytes(12, "big"), ciphertext, associated)
        except InvalidTag as error:
            raise ChannelError("record failed authentication") from error
        self.nonce = nonce + 1
        return plaintext

    def decrypt_into(self, ciphertext: Bytes, out: memoryview) -> None:
        """Like `decrypt`, into `out` of exactly len(ciphertext) - 16 bytes; a forged record leaves `out` wiped."""
        nonce = self.nonce
        if nonce >= self._limit:
            self._rekey()
        try:
            (self._aead or self._revive()).decrypt_into(nonce.to_bytes(12, "big"), ciphertext, None, out)
        except InvalidTag as error:
            out[:] = bytes(len(out))  # the library has already written the unauthenticated plaintext
            raise ChannelError("record failed authentication") from error
        self.nonce = nonce + 1

    def trim(self) -> None:
        """Drop the AEAD context of an idle connection; the key stays."""
        self._aead = None

    def wipe(self) -> None:
        """Forget the key. The cipher is unusable from here on."""
        self._aead = None
        self._limit = self.nonce = MAX_NONCE
        self._key[:] = bytes(len(self._key))

    def _revive(self) -> AESGCM:
        self._aead = AESGCM(self._key)
        return self._aead

    def _rekey(self) -> None:
        if self.nonce >= MAX_NONCE:
            raise NonceExhausted("the last nonce of this key is used; open a new connection")
        fresh = (self._aead or self._revive()).encrypt(MAX_NONCE.to_bytes(12, "big"), bytes(KEY_BYTES), None)
        self._key[:] = fresh[:KEY_BYTES]
        self._aead = AESGCM(self._key)
        self._limit = min(self.nonce + self.rekey_interval, MAX_NONCE)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A handshake pattern (sections 7 and 9): its protocol name, and the tokens of each message in turn."""

    name: bytes
    messages: tuple[tuple[str, ...], ...]


XX = Pattern(b"Noise_XX_25519_AESGCM_SHA256", (("e",), ("e", "ee", "s", "es"), ("s", "se")))
NN_PSK0 = Pattern(b"Noise_NNpsk0_25519_AESGCM_SHA256", (("psk", "e"), ("e", "ee")))


class Handshake:
    """One end of a handshake. Call `write` and `read` in turn until `done`, then `split` once.

    `static_key` and `static_public` are this end's in patterns that send static keys, `psk` (32 bytes) is of those
    with a shared one. `remote_static` is the peer's static key once it has arrived; `hash` binds the whole transcript.
    Raises `HandshakeError` on anything unexpected; the handshake is dead from then on.
    """

    __slots__ = ("_aead", "_ephemeral", "_initiator", "_key_chain", "_nonce", "_pattern", "_psk", "_remote_ephemeral",
                 "_static", "_static_public", "_step", "hash", "remote_static")  # fmt: skip

    def __init__(
        self,
        role: Literal["initiator", "responder"],
        static_key: X25519PrivateKey | None = None,
        static_public: bytes = b"",
        *,
        pattern: Pattern = XX,
        psk: Bytes = b"",
        prologue: bytes = b"",
        ephemeral: X25519PrivateKey | None = None,
    ) -> None:
        wanted = KEY_BYTES if "psk" in pattern.messages[0] else 0
        if len(psk) != wanted:
            raise HandshakeError(f"a shared secret of {len(psk)} bytes; this pattern takes {wanted}")
        self._initiator = role == "initiator"
        self._pattern = pattern
        self._static = static_key
        self._static_public = static_public
        self._psk = psk
        self._ephemeral = ephemeral
        self._remote_ephemeral: X25519PublicKey | None = None
        self._aead: AESGCM | None = None  # of the newest key, which serves one or two messages
        self._nonce = 0
        self._step = 0
        self.remote_static = b""
        # No protocol name here is longer than a hash, so it is padded (section 5.2, Initialize).
        self._key_chain = pattern.name.ljust(32, b"\0")
        self.hash = _sha256(self._key_chain + prologue).digest()

    @property
    def done(self) -> bool:
        """All messages have passed."""
        return self._step == len(self._pattern.messages)

    def write(self, payload: bytes = b"") -> bytes:
        """The next message to send, with `payload` inside."""
        message = b""
        for token in self._turn(writing=True):
            if token == "e":
                message += self._write_ephemeral()
            elif token == "s":
                message += self._encrypt_and_hash(self._static_public)
            else:
                self._mix_secret(token)
        return message + self._encrypt_and_hash(payload)

    def read(self, message: bytes) -> bytes:
        """The payload of the next message received."""
        tokens = self._turn(writing=False)
        try:
            for token in tokens:
                if token == "e":
                    message = self._read_ephemeral(message)
                elif token == "s":
                    message = self._read_static(message)
                else:
                    self._mix_secret(token)
            return self._decrypt_and_hash(message)
        except InvalidTag as error:
            self._step = -1
            raise HandshakeError("handshake message failed authentication") from error
        except (ChannelError, ValueError) as error:
            self._step = -1
            raise HandshakeError(f"handshake message failed: {error}") from error

    def export(self, label: bytes) -> tuple[bytes, bytes]:
        """Twice 32 secret bytes that both ends share and nobody else knows, of their own for each `label` (not empty).

        `split` draws its keys from the chaining key with an empty label. Only when `done` and before `split`.
        """
        if not self.done:
            raise HandshakeError("export before the handshake is done")
        return _hkdf(self._key_chain, label + self.hash)

    def split(self) -> tuple[CipherState, CipherState]:
        """(sending, receiving) ciphers of this end; the handshake's own secrets are dropped."""
        if not self.done:
            raise HandshakeError("split before the handshake is done")
        first, second = _hkdf(self._key_chain, b"")
        self._ephemeral = self._aead = None
        self._key_chain = self._psk = b""
        self._step = -1
        initiator, responder = CipherState(first), CipherState(second)
        return (initiator, responder) if self._initiator else (responder, initiator)

    def _turn(self, *, writing: bool) -> tuple[str, ...]:
        """The tokens of the next message."""
        if self._step < 0 or self.done or ((self._step % 2 == 0) == self._initiator) != writing:
            raise HandshakeError("handshake message out of turn")
        self._step += 1
        return self._pattern.messages[self._step - 1]

    def _write_ephemeral(self) -> bytes:
        if self._ephemeral is None:
            self._ephemeral = X25519PrivateKey.generate()
        public = self._ephemeral.public_key().public_bytes_raw()
        self._mix_public(public)
        return public

    def _read_ephemeral(self, message: bytes) -> bytes:
        if len(message) < 32:
            raise HandshakeError("message too short for an ephemeral key")
        public = message[:32]
        self._remote_ephemeral = X25519PublicKey.from_public_bytes(public)
        self._mix_public(public)
        return message[32:]

    def _read_static(self, message: bytes) -> bytes:
        size = 32 + TAG_BYTES
        if len(message) < size:
            raise HandshakeError("message too short for a static key")
        self.remote_static = self._decrypt_and_hash(message[:size])
        return message[size:]

    def _mix_public(self, ephemeral: bytes) -> None:
        self._mix_hash(ephemeral)
        if self._psk:  # section 9.2: so that no two handshakes encrypt under one key
            self._mix_key(ephemeral)

    def _mix_hash(self, data: bytes) -> None:
        self.hash = _sha256(self.hash + data).digest()

    def _mix_secret(self, token: str) -> None:
        if token == "psk":
            self._key_chain, folded = _hkdf(self._key_chain, self._psk)
            self._mix_hash(folded)
            return  # its key serves nothing: "e" comes next and mixes in another
        # The first letter names the initiator's key, the second the responder's.
        first, second = token[0], token[1]
        mine, theirs = (first, second) if self._initiator else (second, first)
        private = self._ephemeral if mine == "e" else self._static
        public = self._remote_ephemeral if theirs == "e" else X25519PublicKey.from_public_bytes(self.remote_static)
        if private is None or public is None:
            self._step = -1
            raise HandshakeError("this pattern needs a static key")
        try:
            secret = private.exchange(public)
        except ValueError as error:  # a public key of low order: the secret would be zero
            self._step = -1
            raise HandshakeError("handshake message carries a key of low order") from error
        self._mix_key(secret)

    def _mix_key(self, material: Bytes) -> None:
        self._key_chain, key = _hkdf(self._key_chain, material)
        self._aead = AESGCM(key)
        self._nonce = 0

    def _encrypt_and_hash(self, plaintext: bytes) -> bytes:
        data = plaintext if self._aead is None else self._aead.encrypt(self._next_nonce(), plaintext, self.hash)
        self._mix_hash(data)
        return data

    def _decrypt_and_hash(self, data: bytes) -> bytes:
        plaintext = data if self._aead is None else self._aead.decrypt(self._next_nonce(), data, self.hash)
        self._mix_hash(data)
        return plaintext

    def _next_nonce(self) -> bytes:
        nonce = self._nonce
        self._nonce = nonce + 1
        return nonce.to_bytes(12, "big")


def _hkdf(chaining_key: bytes, material: Bytes) -> tuple[bytes, bytes]:
    """Noise HKDF with two outputs (section 4.3), by HMAC-SHA256 (RFC 2104).

    HMAC is written out: `hmac.digest` asks OpenSSL for it anew each time, which takes twice as long as the hashing; of
    a resumed handshake that was two fifths.
    """
    outer, inner = _pads(chaining_key)
    outer, inner = _pads(_sha256(outer + _sha256(inner + material).digest()).digest())
    first = _sha256(outer + _sha256(inner + b"\x01").digest()).digest()
    return first, _sha256(outer + _sha256(inner + first + b"\x02").digest()).digest()


def _pads(key: bytes) -> tuple[bytes, bytes]:
    """The outer and the inner key block of HMAC; without tables, which would let caches tell about the key."""
    block = int.from_bytes(key.ljust(_BLOCK_BYTES, b"\0"))
    return (block ^ _OUTER).to_bytes(_BLOCK_BYTES), (block ^ _INNER).to_bytes(_BLOCK_BYTES)
