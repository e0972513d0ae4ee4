"""The handshake against official vectors and against an independent implementation, both ways."""

from __future__ import annotations

import hmac
import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from noise.backends.default.keypairs import KeyPair25519
from noise.connection import Keypair, NoiseConnection

from reference_impl.errors import ChannelError, HandshakeError, NonceExhausted
from reference_impl.security.noise import MAX_NONCE, NN_PSK0, XX, CipherState, Handshake, Pattern, _hkdf

ENDS: tuple[tuple[Literal["initiator", "responder"], str], ...] = (("initiator", "11"), ("responder", "22"))
VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "noise.json"


def private(text: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(text))


def end(role: Literal["initiator", "responder"], static: X25519PrivateKey, **options: Any) -> Handshake:
    return Handshake(role, static, static.public_key().public_bytes_raw(), **options)


def shake(one: Handshake, two: Handshake, tamper: Callable[[int, bytes], bytes]) -> None:
    for number, (writer, reader) in enumerate(((one, two), (two, one), (one, two))):
        assert reader.read(tamper(number, writer.write(b"hello"))) == b"hello"


def test_payloads_arrive_in_every_handshake_message() -> None:
    one, two = end("initiator", private("11" * 32)), end("responder", private("22" * 32))
    shake(one, two, lambda _, message: message)
    assert one.done
    assert two.done


@pytest.mark.skipif(not VECTORS.exists(), reason="the vector file is not beside this checkout")
def test_official_vectors() -> None:
    vectors = [
        v
        for v in json.loads(VECTORS.read_text())["vectors"]
        if v["protocol_name"] == XX.name.decode() and not v.get("init_psks")
    ]
    assert vectors
    for vector in vectors:
        prologue = bytes.fromhex(vector["init_prologue"])
        ends = [
            end(
                "initiator",
                private(vector["init_static"]),
                prologue=prologue,
                ephemeral=private(vector["init_ephemeral"]),
            ),
            end(
                "responder",
                private(vector["resp_static"]),
                prologue=prologue,
                ephemeral=private(vector["resp_ephemeral"]),
            ),
        ]
        ciphers: list[tuple[CipherState, CipherState]] = []
        for number, message in enumerate(vector["messages"]):
            payload, ciphertext = (bytes.fromhex(message[name]) for name in ("payload", "ciphertext"))
            writer, reader = number % 2, 1 - number % 2
            if number < 3:
                assert ends[writer].write(payload) == ciphertext
                assert ends[reader].read(ciphertext) == payload
                if number == 2:
                    if "handshake_hash" in vector:
                        assert ends[0].hash.hex() == ends[1].hash.hex() == vector["handshake_hash"]
                    ciphers = [one.split() for one in ends]
            else:
                assert ciphers[writer][0].encrypt(payload) == ciphertext
                assert ciphers[reader][1].decrypt(ciphertext) == payload


@pytest.mark.parametrize("ours", ["initiator", "responder"])
def test_against_noiseprotocol(ours: Literal["initiator", "responder"]) -> None:
    static = X25519PrivateKey.generate()
    mine = end(ours, static, prologue=b"same")
    peer = NoiseConnection.from_name(XX.name)
    peer.set_prologue(b"same")
    peer.set_as_responder() if ours == "initiator" else peer.set_as_initiator()
    their_key = KeyPair25519.from_private_bytes(os.urandom(32))
    peer.set_keypair_from_private_bytes(Keypair.STATIC, their_key.private.private_bytes_raw())
    peer.start_handshake()
    turns = itertools.cycle(["mine", "theirs"] if ours == "initiator" else ["theirs", "mine"])
    for _ in range(3):
        if next(turns) == "mine":
            assert bytes(peer.read_message(mine.write(b"ping"))) == b"ping"
        else:
            assert mine.read(bytes(peer.write_message(b"pong"))) == b"pong"
    assert peer.handshake_finished
    assert mine.done
    assert mine.remote_static == their_key.public_bytes
    assert mine.hash == peer.get_handshake_hash()
    sending, receiving = mine.split()
    for number in range(3):
        text = b"message %d" % number
        assert bytes(peer.decrypt(sending.encrypt(text))) == text
        assert receiving.decrypt(bytes(peer.encrypt(text))) == text


@pytest.mark.parametrize("ours", ["initiator", "responder"])
def test_nnpsk0_against_noiseprotocol(ours: Literal["initiator", "responder"]) -> None:
    mine = Handshake(ours, pattern=NN_PSK0, psk=b"s" * 32, prologue=b"same")
    peer = NoiseConnection.from_name(NN_PSK0.name)
    peer.set_prologue(b"same")
    peer.set_psks(b"s" * 32)
    peer.set_as_responder() if ours == "initiator" else peer.set_as_initiator()
    peer.start_handshake()
    if ours == "initiator":
        assert bytes(peer.read_message(mine.write(b"ping"))) == b"ping"
        assert mine.read(bytes(peer.write_message(b"pong"))) == b"pong"
    else:
        assert mine.read(bytes(peer.write_message(b"pong"))) == b"pong"
        assert bytes(peer.read_message(mine.write(b"ping"))) == b"ping"
    assert peer.handshake_finished
    assert mine.done
    assert mine.hash == peer.get_handshake_hash()
    sending, receiving = mine.split()
    assert bytes(peer.decrypt(sending.encrypt(b"there"))) == b"there"
    assert receiving.decrypt(bytes(peer.encrypt(b"back"))) == b"back"


@pytest.mark.parametrize("pattern", [XX, NN_PSK0])
def test_exported_secrets_are_shared_and_of_their_own(pattern: Pattern) -> None:
    one, two = (
        end(role, private(key * 32), pattern=pattern, psk=b"s" * 32 * (pattern is NN_PSK0)) for role, key in ENDS
    )
    with pytest.raises(HandshakeError, match="before"):
        one.export(b"a")
    for number in range(len(pattern.messages)):
        writer, reader = (one, two) if number % 2 == 0 else (two, one)
        reader.read(writer.write())
    assert one.export(b"a") == two.export(b"a") != one.export(b"b")
    assert [len(each) for each in one.export(b"a")] == [32, 32]
    one.split()
    with pytest.raises(HandshakeError, match="before"):
        one.export(b"a")


@pytest.mark.parametrize(("pattern", "psk"), [(NN_PSK0, b""), (NN_PSK0, b"s" * 31), (XX, b"s" * 32)])
def test_a_pattern_takes_a_shared_secret_of_its_size_or_none(pattern: Pattern, psk: bytes) -> None:
    with pytest.raises(HandshakeError, match="shared secret of"):
        end("initiator", private("11" * 32), pattern=pattern, psk=psk)


def test_a_pattern_with_static_keys_needs_one() -> None:
    one, two = Handshake("initiator"), end("responder", private("22" * 32))
    with pytest.raises(HandshakeError, match="static key"):
        shake(one, two, lambda _, message: message)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_keys_are_derived_as_the_library_would(chaining_key: bytes, material: bytes) -> None:
    secret = hmac.digest(chaining_key, material, "sha256")
    first = hmac.digest(secret, b"\x01", "sha256")
    assert _hkdf(chaining_key, material) == (first, hmac.digest(secret, first + b"\x02", "sha256"))


@given(data=st.data())
def test_any_flipped_bit_in_the_handshake_is_refused(data: st.DataObject) -> None:
    broken = data.draw(st.integers(1, 2), label="message")  # the first message has no secret to authenticate it yet

    def flip(number: int, message: bytes) -> bytes:
        if number != broken:
            return message
        bit = data.draw(st.integers(0, len(message) * 8 - 1), label="bit")
        return message[: bit // 8] + bytes([message[bit // 8] ^ 1 << bit % 8]) + message[bit // 8 + 1 :]

    with pytest.raises(HandshakeError):
        shake(end("initiator", private("11" * 32)), end("responder", private("22" * 32)), flip)


@given(st.binary(max_size=200))
def test_garbage_never_passes_for_a_handshake(garbage: bytes) -> None:
    initiator = end("initiator", private("11" * 32))
    initiator.write()
    with pytest.raises(HandshakeError):
        initiator.read(garbage)


def test_messages_out_of_turn_are_refused() -> None:
    with pytest.raises(HandshakeError, match="out of turn"):
        end("responder", private("22" * 32)).write()
    with pytest.raises(HandshakeError, match="out of turn"):
        end("initiator", private("22" * 32)).read(b"x" * 32)
    with pytest.raises(HandshakeError, match="before"):
        end("initiator", private("22" * 32)).split()


class SoonRekeyed(CipherState):
    """As if four records were as many as a key may protect."""

    __slots__ = ()
    rekey_interval = 4


def test_rekey_happens_on_both_ends_at_the_same_record_and_nonces_go_on() -> None:
    key = os.urandom(32)
    sender, receiver = SoonRekeyed(key), SoonRekeyed(key)
    plain = CipherState(key)
    for number in range(10):
        sealed = sender.encrypt(b"x")
        assert (sealed == plain.encrypt(b"x")) == (number < 4)
        assert receiver.decrypt(sealed) == b"x"
    assert sender.nonce == receiver.nonce == 10


def test_a_cipher_holds_no_copy_of_its_key_that_wiping_cannot_reach() -> None:
    key = os.urandom(32)
    before = sys.getrefcount(key)
    cipher = CipherState(key)
    assert sys.getrefcount(key) == before
    cipher.wipe()
    assert cipher._key == bytes(32)


def test_the_last_nonce_is_never_used() -> None:
    sender = CipherState(os.urandom(32), nonce=MAX_NONCE - 1)
    sender.encrypt(b"the last one allowed")
    for _ in range(2):
        with pytest.raises(NonceExhausted):
            sender.encrypt(b"x")


def test_forged_replayed_and_reordered_records_are_refused() -> None:
    key = os.urandom(32)
    sender, receiver = CipherState(key), CipherState(key)
    first, second = sender.encrypt(b"first"), sender.encrypt(b"second")
    for wrong in (second, first[:-1] + bytes([first[-1] ^ 1]), first[:10], b""):
        with pytest.raises(ChannelError):
            receiver.decrypt(wrong)
    assert receiver.decrypt(first) == b"first"
    with pytest.raises(ChannelError):
        receiver.decrypt(first)
    assert receiver.decrypt(second) == b"second"


def test_a_forged_record_leaves_no_plaintext_behind() -> None:
    key = os.urandom(32)
    sealed = bytearray(CipherState(key).encrypt(b"secret " * 100))
    sealed[-1] ^= 1
    out = bytearray(b"?" * 700)
    with pytest.raises(ChannelError):
        CipherState(key).decrypt_into(sealed, memoryview(out))
    assert out == bytes(700)


def test_trim_keeps_the_key_and_wipe_forgets_it() -> None:
    key = os.urandom(32)
    sender, receiver = CipherState(key), CipherState(key)
    sender.trim()
    receiver.trim()
    assert sender._aead is receiver._aead is None
    assert receiver.decrypt(sender.encrypt(b"after a pause")) == b"after a pause"
    sender.wipe()
    with pytest.raises(NonceExhausted):
        sender.encrypt(b"x")
    assert sender._key == bytes(32)


def test_a_key_of_low_order_ends_the_handshake() -> None:
    """X25519 with such a key gives zero, whatever the other key is (RFC 7748, 6.1)."""
    static = X25519PrivateKey.generate()
    responder = end("responder", static)
    responder.read(bytes(32))
    with pytest.raises(HandshakeError, match="low order"):
        responder.write()
    with pytest.raises(HandshakeError, match="out of turn"):
        responder.write()
