"""TLS's own promises: who may join a study, what a certificate carries, what keys and buffers are used for."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_impl.buffer_pool import Allocating, Buffers, BufferSettings, CryptoBufferPool
from reference_impl.dialer import Dialer
from reference_impl.errors import ChannelError, FrameError, HandshakeError, IdentityError, NonceExhausted
from reference_impl.security.certificates import Authority, peer_id_of
from reference_impl.security.channel import Initiation
from reference_impl.security.frame import HEAD, MAX_BODY, MAX_SINGLE
from reference_impl.security.noise import REKEY_INTERVAL
from reference_impl.settings import SettingsError
from reference_impl.transports.tls import TlsAcceptance, TlsChannel, _Ends
from reference_impl.transports.tls_settings import TlsSettings
from tests.reference_impl.conftest import AUTHORITY, CLIENT, NODES, RunningNode

NODE = NODES[0]


def shake(authority: Authority = AUTHORITY, buffers: Buffers | None = None) -> tuple[TlsChannel, TlsChannel, _Ends]:
    """Both ends of a connection, joined by hand; the dialing end's certificate is of `authority`."""
    buffers = buffers or CryptoBufferPool(BufferSettings())
    acceptance = TlsAcceptance(AUTHORITY.context(NODE, server_side=True), buffers)
    context = authority.context(CLIENT, server_side=False)
    context.load_verify_locations(cadata=AUTHORITY.certificate_pem)
    ends = _Ends(context, server_side=False)
    while not ends.advance():
        ends.incoming.write(acceptance.receive(ends.outgoing.read()))
    assert acceptance.receive(ends.outgoing.read()) == b""
    assert acceptance.channel is not None
    return TlsChannel(peer_id_of(ends.tls.getpeercert(True)), ends, buffers), acceptance.channel, ends


def test_both_ends_learn_each_other_and_nothing_is_left_unasked() -> None:
    client, node, ends = shake()
    assert (client.peer_id, node.peer_id) == (NODE.peer_id, CLIENT.peer_id)
    assert ends.tls.version() == "TLSv1.3"
    assert not ends.incoming.pending, "no ticket, which would look like a peer that sends unasked"


def test_a_client_of_another_study_is_refused() -> None:
    with pytest.raises(IdentityError, match="not of this study"):
        shake(Authority.generate())


def test_a_node_of_another_study_is_refused_before_we_show_who_we_are(
    running: Callable[..., RunningNode], dialing: Callable[..., Dialer]
) -> None:
    node = running("all", "tls", tls={"authority": Authority.generate().pem})
    with pytest.raises(IdentityError, match="not of this study"):
        dialing("none", circuit_breaker={"retries": 0}).connect(node.peers[0])


def test_garbage_and_endless_handshakes_are_refused() -> None:
    context = AUTHORITY.context(NODE, server_side=True)
    buffers = CryptoBufferPool(BufferSettings())
    with pytest.raises(HandshakeError, match="TLS handshake"):
        TlsAcceptance(context, buffers).receive(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(HandshakeError):
        TlsAcceptance(context, buffers).receive(Initiation(CLIENT, NODE.peer_id).first)
    endless = TlsAcceptance(context, buffers)
    endless.receive(b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + bytes(16_370))
    endless.receive(b"")
    endless._received = 32 * 1024  # OpenSSL's own limits strike earlier today; ours must not depend on them
    with pytest.raises(HandshakeError, match="more than 32768 bytes"):
        endless.receive(b"\x00")
    at_once = TlsAcceptance(context, buffers)
    with pytest.raises(HandshakeError):
        at_once.receive((b"\x16\x03\x01\x40\x00\x01\x01\xff\xff" + bytes(16_380)) * 7)
    assert at_once._ends.incoming.pending <= 32 * 1024


def test_what_follows_the_handshake_at_once_does_not_make_its_bio_grow() -> None:
    """The client's last flight and a long request in one read."""
    buffers = CryptoBufferPool(BufferSettings())
    acceptance = TlsAcceptance(AUTHORITY.context(NODE, server_side=True), buffers)
    ends = _Ends(AUTHORITY.context(CLIENT, server_side=False), server_side=False)
    ends.advance()
    flight = acceptance.receive(ends.outgoing.read())
    ends.incoming.write(flight)
    assert ends.advance()
    last = ends.outgoing.read()
    client = TlsChannel(NODE.peer_id, ends, buffers)
    body = os.urandom(400_000)
    acceptance.receive(last + client.seal(1, body))
    assert acceptance.channel is not None
    assert acceptance._ends.incoming.pending <= 8 * 1024
    (message,) = acceptance.channel.feed(acceptance.rest)
    assert bytes(message.body) == body


def test_an_older_tls_is_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    ends = _Ends(context, server_side=False)
    ends.advance()
    with pytest.raises(HandshakeError, match=r"PROTOCOL|VERSION"):
        TlsAcceptance(AUTHORITY.context(NODE, server_side=True), CryptoBufferPool(BufferSettings())).receive(
            ends.outgoing.read()
        )


@pytest.mark.parametrize("make", [Allocating, CryptoBufferPool])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_messages_survive_any_cut(make: Callable[[BufferSettings], Buffers], data: st.DataObject) -> None:
    client, node, _ = shake(buffers=make(BufferSettings()))
    sizes = data.draw(st.lists(st.sampled_from([0, 1, 5, MAX_SINGLE, MAX_SINGLE + 1, 70_000, 200_001]), max_size=4))
    wire = b"".join(client.seal(number + 1, bytes([number]) * size) for number, size in enumerate(sizes))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    messages = []
    for start, stop in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        messages += node.feed(wire[start:stop])
    assert [(message.kind, bytes(message.body)) for message in messages] == [
        (number + 1, bytes([number]) * size) for number, size in enumerate(sizes)
    ]


def test_a_long_message_lies_in_a_buffer_of_the_pool_and_is_wiped_after() -> None:
    pool = CryptoBufferPool(BufferSettings())
    client, node, _ = shake(buffers=pool)
    (message,) = node.feed(client.seal(1, b"s" * 100_000))
    view = memoryview(message.body)
    assert bytes(view) == b"s" * 100_000
    message.release()
    assert not any(view)
    node.feed(client.seal(1, b"t" * 100_000)[:50_000])
    node.close()  # half received
    assert pool.gauges()["acquired"] == 2
    assert pool.retained() > 2 * 100_000 - 1 or pool.gauges()["allocated"] == 1


def test_lengths_beyond_the_limit_are_refused_at_both_ends() -> None:
    client, node, ends = shake()
    with pytest.raises(FrameError, match="can be sent"):
        client.seal(1, bytes(MAX_BODY + 1))
    ends.tls.write(HEAD.pack(1, MAX_BODY + 1))
    with pytest.raises(FrameError, match="are accepted"):
        node.feed(ends.outgoing.read())


def test_a_forged_a_replayed_and_a_reordered_record_end_the_channel() -> None:
    for spoil in ("forged", "replayed", "reordered"):
        client, node, _ = shake()
        first, second = client.seal(1, b"one"), client.seal(1, b"two")
        forged = first[:-1] + bytes([first[-1] ^ 1])
        with pytest.raises(ChannelError, match="TLS"):
            node.feed({"forged": forged, "replayed": first + first, "reordered": second}[spoil])


def test_the_end_of_the_stream_and_a_closed_channel_are_said() -> None:
    client, node, ends = shake()
    with pytest.raises(ssl.SSLWantReadError):
        ends.tls.unwrap()
    with pytest.raises(ChannelError, match="peer closed"):
        node.feed(ends.outgoing.read())
    client.close()
    with pytest.raises(NonceExhausted, match="wiped"):
        client.seal(1, b"x")
    with pytest.raises(ChannelError, match="closed"):
        client.feed(b"x")


def test_keys_are_not_used_beyond_the_limit_of_their_cipher() -> None:
    client, node, _ = shake()
    assert client._left == REKEY_INTERVAL
    client._left = 3
    assert len(node.feed(client.seal(1, b"last"))) == 1
    with pytest.raises(NonceExhausted, match="reconnect"):
        client.seal(1, b"one too many")


def test_an_authority_travels_as_pem_and_bad_ones_are_refused() -> None:
    again = Authority.from_pem(AUTHORITY.pem)
    assert again.certificate == AUTHORITY.certificate
    assert again.issue(CLIENT.peer_id).public_key() == CLIENT.signing_key.public_key()
    other = Authority.generate()
    mixed = AUTHORITY.certificate_pem + other.pem[len(other.certificate_pem) :]
    for bad in ("nonsense", AUTHORITY.certificate_pem, mixed, 5):
        with pytest.raises(SettingsError, match=r"tls\.authority"):
            TlsSettings(bad)  # type: ignore[arg-type]


def test_only_certificates_with_an_identity_key_name_a_peer() -> None:
    with pytest.raises(IdentityError, match="no certificate"):
        peer_id_of(None)
    with pytest.raises(IdentityError, match="malformed"):
        peer_id_of(b"nonsense")
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    key = generate_private_key(SECP256R1())
    real = AUTHORITY.certificate
    foreign = (
        x509.CertificateBuilder()
        .subject_name(real.subject)
        .issuer_name(real.issuer)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(real.not_valid_before_utc)
        .not_valid_after(real.not_valid_after_utc)
        .sign(key, SHA256())
    )
    with pytest.raises(IdentityError, match="Ed25519"):
        peer_id_of(foreign.public_bytes(Encoding.DER))
