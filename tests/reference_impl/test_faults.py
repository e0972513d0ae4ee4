"""Fault scripts: the same seed gives the same faults, bad scripts are refused, and nobody who is struck leaks."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_impl.buffer_pool import Allocating, BufferSettings
from reference_impl.buffer_pool.buffers import Message
from reference_impl.circuit_breaker import BreakerSettings, CircuitBreakers
from reference_impl.cleanup import GuardedClose
from reference_impl.dialer import Dialer
from reference_impl.errors import ChannelError
from reference_impl.faults import KINDS, Event, Fault, Script, calibrate, spoil
from reference_impl.metrics import METRICS, MetricsSettings
from reference_impl.pooling import ConnectionPool, PoolSettings
from reference_impl.pooling.resumption import Tickets
from reference_impl.security.noise import Bytes
from reference_impl.service import OK
from reference_impl.settings import SettingsError
from reference_impl.transports.base import Address, Link, Peer
from tests.ports import held
from tests.reference_impl.conftest import RunningNode

Start = Callable[..., RunningNode]
Make = Callable[..., Dialer]


def fault(kind: str, share: float, first: int, count: int, amount: float, at: int) -> Fault:
    """A valid rule: `amount` and `at` where the kind has them."""
    fields: dict[str, Any] = dict.fromkeys(KINDS[kind][2][:1], amount)
    return Fault(kind, share, first, count, **fields, **({"at": at} if KINDS[kind][3] else {}))


FAULTS = st.builds(
    fault,
    st.sampled_from(list(KINDS)),
    st.floats(0, 1),
    st.integers(0, 50),
    st.integers(0, 50),
    st.floats(0.001, 10),
    st.integers(-1, 300),
)
SCRIPTS = st.builds(Script, st.integers(), st.lists(FAULTS, max_size=5).map(tuple))


@given(SCRIPTS, st.permutations(range(60)))
def test_a_decision_depends_on_seed_and_number_only(script: Script, order: list[int]) -> None:
    table: dict[str, Any] = {"seed": script.seed, "rules": [asdict(rule) for rule in script.rules]}
    again = Script(**table)  # as it comes from a study file, in another process
    events: tuple[Event, ...] = ("connection", "message")
    for event in events:
        in_order = [script.decide("node", event, number) for number in range(60)]
        any_order = {number: again.decide("node", event, number) for number in order}
        assert [any_order[number] for number in range(60)] == in_order


@given(SCRIPTS, FAULTS, st.integers(0, 99))
def test_a_further_rule_changes_nothing_for_the_others(script: Script, rule: Fault, number: int) -> None:
    longer = Script(script.seed, (*script.rules, rule))
    before = script.decide("node", "message", number)
    assert longer.decide("node", "message", number)[: len(before)] == before


def test_shares_and_ranges_are_kept() -> None:
    script = Script(7, (Fault("reset", share=0.3, first=1000, count=10_000), Fault("corrupt", share=0)))
    struck = [number for number in range(20_000) if script.decide("node", "message", number)]
    assert 2_850 < len(struck) < 3_150
    assert struck[0] >= 1000 > struck[-1] - 10_000
    assert struck != [n for n in range(20_000) if Script(8, script.rules).decide("node", "message", n)]
    assert {hit.fault.kind for n in range(20_000) for hit in script.decide("node", "message", n)} == {"reset"}


@given(st.binary(max_size=300), SCRIPTS, st.integers(0, 99))
def test_answers_are_spoilt_as_the_script_says(data: bytes, script: Script, number: int) -> None:
    hits = script.decide("node", "message", number)
    spoilt = spoil(data, hits)
    kinds = Counter(hit.fault.kind for hit in hits)
    changed = sum(a != b for a, b in zip(data, spoilt.data, strict=False))
    assert changed <= kinds["corrupt"]
    if kinds["corrupt"] == 1 and not kinds["reset"] and data:
        assert changed == 1
    assert spoilt.reset == bool(kinds["reset"])
    assert len(spoilt.data) == len(data) or (spoilt.reset and len(spoilt.data) < len(data))
    assert spoilt.seconds == sum(hit.fault.seconds for hit in hits if hit.fault.kind == "delay")
    assert (spoilt.rate > 0) == bool(kinds["throttle"])


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ({"seed": 1.5}, r"faults\.seed is 1\.5; expected a whole number"),
        ({"rules": 5}, r"faults\.rules is 5; expected a list"),
        ({"rules": [{}]}, r"faults\.rules\[0\] is {}; expected a table with a kind: refuse, silent"),
        ({"rules": [{"kind": "explode"}]}, r"faults\.rules\[0\]\.kind is 'explode'; expected one of: refuse"),
        ({"rules": [{"kind": "reset", "shar": 1}]}, r"faults\.rules\[0\]\.shar; expected one of: kind, share"),
        ({"rules": [{"kind": "reset", "share": 2}]}, r"rules\[0\]\.share is 2; expected a number from 0 to 1"),
        ({"rules": [{"kind": "reset", "share": float("nan")}]}, r"share is nan; expected a finite number"),
        ({"rules": [{"kind": "reset", "first": -1}]}, r"first is -1; expected a whole number >= 0"),
        ({"rules": [{"kind": "reset", "at": -2}]}, r"at is -2; expected a whole number >= -1"),
        ({"rules": [{"kind": "reset"}, {"kind": "delay"}]}, r"rules\[1\]\.seconds is 0\.0; expected seconds > 0"),
        ({"rules": [{"kind": "busy"}]}, r"iterations is 0; expected seconds or iterations > 0 for busy"),
        ({"rules": [{"kind": "busy", "seconds": 1, "iterations": 1}]}, r"expected seconds or iterations > 0"),
        ({"rules": [{"kind": "refuse", "seconds": 1}]}, r"seconds is 1; refuse has no such setting"),
        ({"rules": [{"kind": "throttle", "rate": "fast"}]}, r"rate is 'fast'; expected a finite number"),
    ],
)
def test_bad_scripts_are_refused_by_name(script: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Script(**script)


def test_a_player_refuses_what_it_cannot_play(running: Start) -> None:
    busy = Script(0, (Fault("busy", iterations=1),))
    busy.check_for("node")
    with pytest.raises(SettingsError, match=r"rules\[0\]\.kind is 'busy'; a link plays: refuse, silent, reset"):
        busy.check_for("link")
    with pytest.raises(SettingsError, match=r"rules\[0\]\.kind is 'delay'; no time passes"):
        running("all", "tcp,memory", faults={"rules": [{"kind": "delay", "seconds": 1}]})


def test_calibration_takes_the_best_of_its_tries() -> None:
    readings = itertools.accumulate([0.0, 4.0, 1.0, 3.0, 1.0, 2.0, 1.0, 5.0])
    assert calibrate(lambda: next(readings), tries=4, sample=10) == 0.2


def test_the_command_line_refuses_a_bad_script() -> None:
    node = subprocess.run(
        [sys.executable, "-m", "reference_impl", "--faults", '{"rules": [{"kind": "explode"}]}'],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (node.returncode, node.stdout) == (2, "")
    assert node.stderr.startswith("serve: faults.rules[0].kind is 'explode'; expected one of: refuse, silent")


def outcome(dialer: Dialer, peer: Peer, body: bytes) -> str:
    """What became of one request."""
    try:
        with dialer.connect(peer) as connection:
            return "ok" if connection.request(body) == body else "wrong"
    except OSError as error:
        return type(error).__name__


@pytest.mark.parametrize("transport", ["tcp", "tls", "memory"])
def test_both_arms_meet_the_same_faults(running: Start, dialing: Make, transport: str) -> None:
    faults = {"seed": 3, "rules": [{"kind": "reset", "share": 0.2}, {"kind": "corrupt", "share": 0.2, "at": 30}]}
    struck = []
    for arm in ("none", "all"):
        node = running(arm, transport, faults=faults)
        dialer = dialing(arm, circuit_breaker={"retries": 0, "failure_threshold": 100})
        struck.append([outcome(dialer, node.peers[0], b"x" * 100) != "ok" for _ in range(60)])
        assert node.node.stats()["faults"]["reset"] > 3
        assert dialer.cleanup.open_connections() == dialer.gauges()["pooling"]["idle"]
    assert struck[0] == struck[1]
    script = Script(**faults)  # type: ignore[arg-type]
    assert struck[0] == [bool(script.decide("node", "message", number)) for number in range(60)]


def test_every_kind_strikes_over_tcp_and_goes_by(running: Start, dialing: Make) -> None:
    rules: list[dict[str, Any]] = [
        {"kind": "refuse", "first": 0, "count": 1},
        {"kind": "silent", "first": 1, "count": 1},
        {"kind": "reset", "first": 0, "count": 1},
        {"kind": "corrupt", "first": 1, "count": 1},
        {"kind": "delay", "first": 2, "count": 1, "seconds": 0.05},
        {"kind": "throttle", "first": 3, "count": 1, "rate": 100_000},
        {"kind": "busy", "first": 4, "count": 1, "seconds": 0.01},
        {"kind": "busy", "first": 4, "count": 1, "iterations": 1000},
    ]
    node = running("all", faults={"rules": rules})
    # The silent one costs a timeout, so it is short; the others answer well within it or are gone at once.
    tcp = {"connect_timeout": 2.0, "request_timeout": 20.0}
    dialer = dialing("all", tcp=tcp, circuit_breaker={"retries": 0, "failure_threshold": 100})
    peer, body = node.peers[0], b"x" * 10_000
    assert outcome(dialer, peer, body) in ("HandshakeError", "ConnectionResetError", "BrokenPipeError")
    assert outcome(dialer, peer, body) in ("TimeoutError", "HandshakeError")
    assert outcome(dialer, peer, body) == "ConnectionResetError"
    assert outcome(dialer, peer, body) != "ok"
    for least in (0.045, 0.08, 0.0, 0.0):
        began = time.perf_counter()
        assert outcome(dialer, peer, body) == "ok"
        assert time.perf_counter() - began >= least
    struck = node.node.stats()["faults"]
    assert struck["seconds_per_iteration"] > 0
    assert [struck.get(kind, 0) for kind in KINDS] == [1, 1, 1, 1, 1, 1, 2, 0]


def test_a_node_crashes_and_comes_back_on_the_same_ports(running: Start, dialing: Make) -> None:
    node = running("all", "tcp,tls", faults={"rules": [{"kind": "crash", "first": 3, "count": 1, "seconds": 600.0}]})
    dialer = dialing("all", circuit_breaker={"retries": 0, "failure_threshold": 1000})
    with dialer.connect(node.peers[1]) as bystander:
        assert [outcome(dialer, node.peers[0], b"x") for _ in range(3)] == ["ok"] * 3
        assert outcome(dialer, node.peers[0], b"x") == "ConnectionResetError"
        with held(node.peers[0].addresses["tcp"][1]), held(node.peers[0].addresses["tls"][1]):
            assert outcome(dialer, node.peers[0], b"x") == "ConnectionRefusedError"
        assert not bystander.is_alive()
    node.call(lambda: node.node.crash(0.0))  # the same, and back at once
    pause = threading.Event()
    while outcome(dialer, node.peers[0], b"x") != "ok":
        pause.wait(0.02)
    tls = Peer(bytes(node.peers[2]), {"tls": node.peers[2].addresses["tls"]})
    while outcome(dialer, tls, b"y") != "ok":  # ports return one by one
        pause.wait(0.02)
    assert dialer.gauges()["pooling"]["in_use"] == 0


class Struck:
    """A transport without a network: its resources are real descriptors, its faults the script's."""

    name = "struck"

    def __init__(self, script: Script) -> None:
        self._script = script
        self._numbers = itertools.count()
        self.injected = 0
        self.kinds: set[str] = set()

    def strike(self, *names: str) -> str | None:
        """The first of the kinds `names` that strikes now."""
        for hit in self._script.decide("node", "message", next(self._numbers)):
            if hit.fault.kind in names:
                self.injected += 1
                self.kinds.add(hit.fault.kind)
                return hit.fault.kind
        return None

    def open(self, address: Address) -> socket.socket:
        if self.strike("reset"):
            raise ConnectionRefusedError("refused")
        return socket.socket(socket.AF_UNIX)

    def secure(self, resource: socket.socket, peer: Peer) -> Link:
        kind = self.strike("corrupt", "delay", "crash")
        if kind == "corrupt":
            raise ChannelError("forged")
        if kind == "delay":
            raise TimeoutError("silent")
        if kind == "crash":
            raise KeyboardInterrupt
        return StruckLink(self)


class StruckLink:
    def __init__(self, transport: Struck) -> None:
        self._transport = transport
        self.usable = True

    def exchange(self, kind: int, body: Bytes) -> Message:
        self.usable = False
        struck = self._transport.strike("reset", "corrupt", "delay", "crash")
        if struck == "crash":
            raise KeyboardInterrupt
        if struck:
            raise {"reset": ConnectionResetError, "corrupt": ChannelError, "delay": TimeoutError}[struck]("struck")
        self.usable = True
        return Message(OK, body)

    def is_idle_and_alive(self) -> bool:
        return not self._transport.strike("reset")

    def wipe(self) -> None:
        self.usable = False


def test_100_000_faults_leak_nothing() -> None:
    rules = (
        Fault("reset", share=0.3),
        Fault("corrupt", share=0.3),
        Fault("delay", share=0.3, seconds=1),
        Fault("crash", share=0.1, seconds=1),
    )
    transport = Struck(Script(1, rules))
    hooks: tuple[Counter[int], Counter[int]] = (Counter(), Counter())

    def counted(on_close: Callable[[int], None], on_connection_closed: Callable[[int], None]) -> GuardedClose:
        def first(number: int) -> None:
            hooks[0][number] += 1
            on_close(number)

        def second(number: int) -> None:
            hooks[1][number] += 1
            on_connection_closed(number)

        return GuardedClose(first, second)

    pool = PoolSettings(max_connections_per_peer=2)
    dialer = Dialer(
        {"struck": transport},
        make_cleanup=counted,
        attempts=CircuitBreakers(BreakerSettings(retries=0, failure_threshold=10**9)),
        buffers=Allocating(BufferSettings()),
        metrics=METRICS.on(MetricsSettings()),
        make_pool=lambda **calls: ConnectionPool(pool, **calls),
        tickets=Tickets(pool),
        cleanup_interval=pool.cleanup_interval,
    )
    descriptors = len(os.listdir("/dev/fd"))
    peers = [Peer(bytes([number]) * 32, {"struck": ("nowhere", 0)}) for number in range(8)]
    for number in itertools.count():
        with contextlib.suppress(OSError, KeyboardInterrupt), dialer.connect(peers[number % 8]) as connection:
            connection.request(b"x")
        if transport.injected >= 100_000:
            break
    gauges = dialer.gauges()
    assert transport.kinds == {"reset", "corrupt", "delay", "crash"}
    assert gauges["pooling"]["in_use"] == gauges["pooling"]["waiting"] == 0
    assert dialer.cleanup.open_connections() == gauges["pooling"]["idle"] == len(dialer.recorders)
    dialer.close()
    assert dialer.cleanup.open_connections() == 0
    assert len(os.listdir("/dev/fd")) == descriptors
    guards = max(hooks[0])
    assert hooks[0] == hooks[1] == Counter(range(1, guards + 1))
    assert guards > 10_000


@pytest.mark.parametrize("arm", ["cleanup", "all"])
def test_thousands_of_faults_on_the_node_leak_nothing(running: Start, dialing: Make, arm: str) -> None:
    rules = [{"kind": kind, "share": 0.3} for kind in ("refuse", "silent", "reset", "corrupt")]
    node = running(arm, "memory", faults={"rules": rules}, node={"handshake_timeout": 60.0})
    dialer = dialing(arm, circuit_breaker={"retries": 0, "failure_threshold": 10**9})
    descriptors = len(os.listdir("/dev/fd"))
    seen = Counter(outcome(dialer, node.peers[number % 4], b"x" * 50) for number in range(1_500))
    struck = node.node.stats()["faults"]
    assert min(struck[kind] for kind in ("refuse", "silent", "reset", "corrupt")) > 50
    assert seen["ok"] > 200
    assert seen["wrong"] == 0
    dialer.close()
    assert dialer.cleanup.open_connections() == node.node.cleanup.open_connections() == 0
    assert not node.node.unfinished
    assert not node.node.recorders
    assert not dialer.recorders
    assert len(os.listdir("/dev/fd")) == descriptors
