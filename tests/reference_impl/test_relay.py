"""The link relay: bytes pass unchanged and late, and the script's faults strike the connections it names."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from reference_impl.dialer import Dialer
from reference_impl.errors import ChannelError
from reference_impl.faults import Script
from reference_impl.faults.relay import Relay
from reference_impl.settings import SettingsError
from reference_impl.transports.base import Address, Peer
from tests.ports import held
from tests.reference_impl.conftest import RunningNode
from tests.reference_impl.helpers import wait_until

Start = Callable[..., RunningNode]
Make = Callable[..., Dialer]
Linked = Callable[..., tuple[Relay, Peer]]


@pytest.fixture
def linked() -> Iterator[Linked]:
    """Relays on a node's own loop, and the node's first peer through one."""
    made: list[tuple[RunningNode, Relay]] = []

    def start(node: RunningNode, rules: list[dict[str, Any]] | None = None, rtt: float = 0.0) -> tuple[Relay, Peer]:
        relay = Relay(Script(5, tuple(rules or ())), rtt)  # type: ignore[arg-type]
        made.append((node, relay))
        addresses: dict[str, Address] = {
            name: node.call(lambda where=where: relay.link(*where))  # type: ignore[misc]
            for name, where in node.peers[0].addresses.items()
        }
        return relay, Peer(bytes(node.peers[0]), addresses, resumes=node.peers[0].resumes)

    yield start
    for node, relay in made:
        node.call(relay.close)


@pytest.mark.parametrize("rtt", [0.0, 0.02])
@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_messages_of_every_size_pass(running: Start, dialing: Make, linked: Linked, transport: str, rtt: float) -> None:
    node, dialer = running("all", transport), dialing("all")
    relay, peer = linked(node, rtt=rtt)
    with dialer.connect(peer) as connection:
        for size in (0, 1000, 70_000, 4 * 1024 * 1024):
            body = os.urandom(1009) * (size // 1009 + 1)
            began = time.perf_counter()
            assert connection.request(body[:size]) == body[:size]
            assert time.perf_counter() - began >= rtt * 0.9
    assert len(relay.open) == 1
    dialer.close()
    assert wait_until(lambda: not relay.open), "both ends of a closed connection are closed"
    assert wait_until(lambda: node.node.cleanup.open_connections() == 0)
    assert relay.gauges()["bytes_carried"] > 8 * 1024 * 1024


def test_a_slow_reader_holds_the_node_back_and_loses_nothing(running: Start, linked: Linked) -> None:
    node = running("all")
    sent = os.urandom(1000) * 16_000

    def serve(listening: socket.socket) -> None:
        accepted, _ = listening.accept()
        with accepted:
            accepted.sendall(sent)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=serve, args=(listening,))
        server.start()
        relay = Relay(Script(), 0.002)
        address = node.call(lambda: relay.link(*listening.getsockname()))
        with socket.create_connection(address) as slow:
            assert wait_until(lambda: relay.carried > 0)
            got = b"".join(iter(lambda: slow.recv(1 << 20), b""))
        server.join()
        node.call(relay.close)
    assert got == sent


@pytest.mark.parametrize("rtt", [0.0, 0.01])
def test_a_half_closed_connection_still_carries_the_answer(running: Start, rtt: float) -> None:
    node = running("all")

    def serve(listening: socket.socket) -> None:
        accepted, _ = listening.accept()
        with accepted:
            question = b"".join(iter(lambda: accepted.recv(100), b""))
            accepted.sendall(question[::-1])

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=serve, args=(listening,))
        server.start()
        relay = Relay(Script(), rtt)
        address = node.call(lambda: relay.link(*listening.getsockname()))
        with socket.create_connection(address) as asking:
            asking.sendall(b"abc")
            asking.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: asking.recv(100), b"")) == b"cba"
        server.join()
        assert wait_until(lambda: not relay.open)
        node.call(relay.close)


def outcome(dialer: Dialer, peer: Peer, size: int = 1000) -> str:
    """What became of one request."""
    try:
        with dialer.connect(peer) as connection:
            return "ok" if connection.request(b"x" * size) == b"x" * size else "wrong"
    except ChannelError:
        return "ChannelError"
    except ConnectionError:
        return "ConnectionError"
    except OSError as error:
        return type(error).__name__


def test_every_kind_strikes_the_connection_it_names(running: Start, dialing: Make, linked: Linked) -> None:
    rules = [
        {"kind": "refuse", "first": 0, "count": 1},
        {"kind": "silent", "first": 1, "count": 1},
        {"kind": "reset", "first": 2, "count": 1, "at": 1000},
        {"kind": "corrupt", "first": 3, "count": 1, "at": 1000},
        {"kind": "delay", "first": 4, "count": 1, "seconds": 0.03},
        {"kind": "throttle", "first": 5, "count": 1, "rate": 100_000},
    ]
    node = running("all")
    relay, peer = linked(node, rules)
    dialer = dialing(  # a connection per request; only the silent one costs its timeout
        "cleanup", tcp={"connect_timeout": 1.0}, circuit_breaker={"retries": 0}
    )
    assert outcome(dialer, peer) in ("ConnectionError", "ChannelError")
    assert outcome(dialer, peer) in ("TimeoutError", "ChannelError")
    assert outcome(dialer, peer) == "ConnectionError"
    assert outcome(dialer, peer) == "ChannelError"
    for least in (0.05, 0.008):
        began = time.perf_counter()
        assert outcome(dialer, peer) == "ok"
        assert time.perf_counter() - began >= least
    assert relay.struck == {rule["kind"]: 1 for rule in rules}
    assert outcome(dialer, peer) == "ok"
    assert wait_until(lambda: not relay.open)
    assert dialer.cleanup.open_connections() == 0


def test_a_link_that_crashes_takes_its_connections_along_and_comes_back(
    running: Start, dialing: Make, linked: Linked
) -> None:
    node = running("all")
    relay, peer = linked(node, [{"kind": "crash", "first": 1, "count": 1, "seconds": 0.2}])
    dialer = dialing("cleanup", circuit_breaker={"retries": 0})
    with dialer.connect(peer) as bystander:
        assert outcome(dialer, peer) in ("ConnectionError", "ChannelError")
        assert wait_until(lambda: not bystander.is_alive())
    pause = threading.Event()
    while outcome(dialer, peer) != "ok":
        pause.wait(0.02)
    assert relay.struck == {"crash": 1}


def test_a_dialer_that_resets_takes_the_node_s_end_along(running: Start, linked: Linked) -> None:
    node = running("all")
    relay, peer = linked(node)
    with socket.create_connection(peer.addresses["tcp"]) as rude:
        rude.sendall(b"x")
        assert wait_until(lambda: len(node.node.unfinished) == 1)
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert wait_until(lambda: not node.node.unfinished and not relay.open)


def test_a_reset_arrives_behind_what_was_sent_before_it(running: Start) -> None:
    node = running("all")
    with socket.create_server(("127.0.0.1", 0)) as rude:
        relay = Relay(Script(), 0.2)
        address = node.call(lambda: relay.link(*rude.getsockname()))
        with socket.create_connection(address, 10) as dialer:
            other, _ = rude.accept()
            other.sendall(b"half an ans")
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            threading.Event().wait(0.05)  # it flies for 0.1 s
            other.close()
            assert dialer.recv(100) == b"half an ans"
            with pytest.raises(ConnectionResetError):
                dialer.recv(100)
        node.call(relay.close)


def test_nobody_behind_the_link_resets_the_dialer(running: Start) -> None:
    node = running("all")
    with held() as port:
        relay = Relay(Script())
        address = node.call(lambda: relay.link("127.0.0.1", port))
        with pytest.raises(ConnectionResetError), socket.create_connection(address, 10) as dialer:
            dialer.recv(1)
        node.call(relay.close)


def test_bad_relays_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"relay\.rtt is -1; expected a finite number >= 0"):
        Relay(Script(), -1)
    with pytest.raises(SettingsError, match="a link plays"):
        Relay(Script(0, ({"kind": "busy", "iterations": 1},)))  # type: ignore[arg-type]
    for faults, said in (('{"rules": [{"kind": "x"}]}', "kind is 'x'"), ('{"sed": 1}', "sed; expected one of: seed")):
        relay = subprocess.run(
            [sys.executable, "-m", "reference_impl.faults.relay", "--faults", faults],
            check=False, capture_output=True, text=True, timeout=60, input='{"peers": []}\n',
        )  # fmt: skip
        assert relay.returncode == 2
        assert said in relay.stderr


def test_the_command_leads_a_ready_line_through_and_states_its_cpu(running: Start, dialing: Make) -> None:
    node = running("all", "tcp,tls")
    ready = {
        "contract": 1,
        "peers": [{"peer_id": peer.hex(), "addresses": peer.addresses} for peer in node.peers],
        "tls": {"authority": "kept"},
    }
    with subprocess.Popen(
        [sys.executable, "-m", "reference_impl.faults.relay", "--rtt", "0.01"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as relay:  # fmt: skip
        try:
            assert relay.stdin is not None
            assert relay.stdout is not None
            relay.stdin.write(json.dumps(ready) + "\n")
            relay.stdin.flush()
            led = json.loads(relay.stdout.readline())
            peer = Peer(bytes(node.peers[3]), {name: tuple(at) for name, at in led["peers"][3]["addresses"].items()})
            assert outcome(dialing(), peer) == "ok"
            assert outcome(dialing(), Peer(bytes(peer), {"tls": peer.addresses["tls"]})) == "ok"
        finally:
            relay.send_signal(signal.SIGTERM)
        last = json.loads(relay.stdout.readline())
    assert led["tls"] == ready["tls"]
    assert led["relay"] == {"pid": relay.pid, "rtt": 0.01}
    assert last["cpu_seconds"] > 0
    assert last["bytes_carried"] > 2 * 1000
    assert relay.returncode == 0


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_a_new_connection_costs_a_round_trip_for_tcp_and_one_for_its_handshake(
    running: Start, dialing: Make, linked: Linked, transport: str
) -> None:
    """What the relay promises is a least time: later is the machine's affair."""
    rtt = 0.05
    node, dialer = running(transports="tcp,tls"), dialing()
    _, peer = linked(node, rtt=rtt)
    only = Peer(bytes(peer), {transport: peer.addresses[transport]})
    began = time.monotonic()
    with dialer.connect(only) as connection:
        connected = time.monotonic()
        connection.request(b"x")
        answered = time.monotonic()
    assert connected - began >= 2 * rtt - 0.002
    assert answered - connected >= rtt - 0.002
