"""Who a peer is: an Ed25519 key that signs the X25519 static key its Noise handshakes use.

A peer id is the 32-byte Ed25519 public key. The proof travels inside the encrypted handshake payload, so an
eavesdropper learns no identity, and a peer cannot present a static key that its identity did not sign.
"""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from reference_impl.errors import IdentityError

PEER_ID_BYTES = 32
PROOF_BYTES = PEER_ID_BYTES + 64
_CONTEXT = b"synapsed-bench noise static key v1:"


class Identity:
    """A peer's private keys, and the proof that binds them. Making one costs two key generations and a signature."""

    __slots__ = ("peer_id", "proof", "signing_key", "static_key", "static_public")

    def __init__(self, signing_key: Ed25519PrivateKey, static_key: X25519PrivateKey) -> None:
        self.signing_key = signing_key
        self.static_key = static_key
        self.static_public = static_key.public_key().public_bytes_raw()
        self.peer_id = signing_key.public_key().public_bytes_raw()
        self.proof = self.peer_id + signing_key.sign(_CONTEXT + self.static_public)

    @classmethod
    def generate(cls) -> Identity:
        """A fresh random identity."""
        return cls.from_seed(os.urandom(32))

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """The identity that `seed` (any length; keep it secret) always gives."""
        signing = hashlib.sha256(b"ed25519:" + seed).digest()
        static = hashlib.sha256(b"x25519:" + seed).digest()
        return cls(Ed25519PrivateKey.from_private_bytes(signing), X25519PrivateKey.from_private_bytes(static))


def verify_proof(proof: bytes, static_public: bytes, expected: bytes | None = None) -> bytes:
    """The peer id that `proof` shows to own `static_public`.

    Raises `IdentityError` when the proof is malformed, its signature is wrong, or the id is not `expected`.
    """
    if len(proof) != PROOF_BYTES:
        raise IdentityError(f"identity proof of {len(proof)} bytes; expected {PROOF_BYTES}")
    peer_id, signature = proof[:PEER_ID_BYTES], proof[PEER_ID_BYTES:]
    if expected is not None and peer_id != expected:
        raise IdentityError(f"peer is {peer_id.hex()[:16]}..., expected {expected.hex()[:16]}...")
    try:
        Ed25519PublicKey.from_public_bytes(peer_id).verify(signature, _CONTEXT + static_public)
    except (InvalidSignature, ValueError) as error:
        raise IdentityError("peer's signature over its static key is wrong") from error
    return peer_id
