"""The naive pair speaks our wire format both ways, knows nothing of our code, and runs as the honest study's arm."""

from __future__ import annotations

import ast
import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.execute.launch import arm_spec
from harness.execute.load import LoadProcess, LoadSpec
from harness.execute.target import Target
from harness.execute.wire import OpenSlice, WorkloadFile
from harness.plan.arms import layout
from harness.study.file import ROOT, load
from reference_impl import assemble
from reference_impl.errors import RemoteError
from reference_impl.optimizations import parse
from reference_impl.security.identity import Identity
from reference_impl.transports import base
from tests.naive import client, secure

HERE = Path(__file__).parent
STUDY = HERE / "honest.toml"
OURS = (sys.executable, "-m", "reference_impl", "--peers", "2")
NAIVE = (sys.executable, "-m", "tests.naive.node", "--peers", "2")


@pytest.fixture
def start() -> Iterator[Callable[..., Target]]:
    """Starts nodes, and ends them."""
    targets: list[Target] = []

    def node(command: tuple[str, ...], optimizations: str = "none") -> Target:
        env = {"PYTHONPATH": str(ROOT), "SYNAPSED_OPTIMIZATIONS": optimizations}
        targets.append(Target.start(command, env, ready_timeout=30))
        return targets[-1]

    yield node
    for target in targets:
        target.stop()


def naive_peers(target: Target) -> list[client.Peer]:
    return [
        client.Peer(bytes.fromhex(each["peer_id"]), tuple(each["addresses"]["tcp"])) for each in target.ready["peers"]
    ]


def our_peers(target: Target) -> list[base.Peer]:
    return [base.Peer(peer.peer_id, {"tcp": peer.address}) for peer in naive_peers(target)]


@pytest.mark.parametrize("optimizations", ["none", "all"])
def test_a_naive_client_is_served_by_our_node(start: Callable[..., Target], optimizations: str) -> None:
    for peer in naive_peers(start(OURS, optimizations)):
        with client.Connection(secure.Identity(), peer) as connection:
            for size in (0, 1, 1024, secure.MAX_SINGLE, secure.MAX_SINGLE + 1, 65_519, 65_520, 1 << 20):
                for number in range(3):
                    payload = bytes([number]) * size
                    assert connection.request(payload) == payload, f"{size} bytes"


@pytest.mark.parametrize("optimizations", ["none", "first-day-reuse", "all"])
def test_our_dialer_is_served_by_a_naive_node(start: Callable[..., Target], optimizations: str) -> None:
    peers = our_peers(start(NAIVE))
    dialer = assemble.dialer(parse([optimizations]), Identity.generate())
    try:
        for size in (0, 1, 1024, secure.MAX_SINGLE, secure.MAX_SINGLE + 1, 65_519, 65_520, 1 << 20):
            for peer in peers:
                with dialer.connect(peer) as connection:
                    assert connection.request(b"x" * size) == b"x" * size
        with dialer.connect(peers[0]) as connection, pytest.raises(RemoteError, match="only echoes"):
            connection.upload(b"no sink here")
    finally:
        dialer.close()


def test_a_naive_client_pins_the_peer(start: Callable[..., Target]) -> None:
    first, second = naive_peers(start(OURS))
    with pytest.raises(secure.SecurityError, match="another peer"):
        client.Connection(secure.Identity(), client.Peer(first.peer_id, second.address))


def test_a_naive_node_ends_a_connection_that_is_not_noise(start: Callable[..., Target]) -> None:
    peer = naive_peers(start(NAIVE))[0]
    with socket.create_connection(peer.address, timeout=20) as stranger:
        stranger.sendall(secure.frame(bytes(31)))
        assert stranger.recv(1) == b""
    with client.Connection(secure.Identity(), peer) as connection:
        assert connection.request(b"still there") == b"still there"


def test_records_are_bound_to_their_order_and_their_number() -> None:
    key = bytes(range(32))
    sending, receiving = secure.CipherState(key), secure.CipherState(key)
    record = sending.encrypt(b"first")
    assert receiving.decrypt(record) == b"first"
    with pytest.raises(secure.SecurityError, match="authentication"):
        receiving.decrypt(record)
    sending.n = secure.MAX_RECORDS
    with pytest.raises(secure.SecurityError, match="too many"):
        sending.encrypt(b"one more")


@pytest.mark.parametrize("name", ["secure.py", "node.py", "client.py", "users.py", "surge.py", "dial.py", "bulk.py"])
def test_the_naive_pair_knows_nothing_of_our_code(name: str) -> None:
    for node in ast.walk(ast.parse((HERE / name).read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not [each for each in names if each.split(".")[0] in {"reference_impl", "scenarios", "harness"}]


def test_the_honest_study_claims_equivalence_from_both_sides() -> None:
    study = load(STUDY)
    sides: dict[tuple[str, str], dict[str, float | None]] = {}
    for each in study.expectations:
        assert (each.arm, each.against) == ("naive", ("none",))
        bounds = {"at_most": each.at_most, "at_least": each.at_least}
        sides.setdefault((each.workload, each.metric), {}).update({k: v for k, v in bounds.items() if v is not None})
    assert sides.keys() == {
        ("surge", "throughput"),
        ("surge", "latency_p50"),
        ("surge", "cpu_per_request"),
        ("steady", "latency_p50"),
        ("dial", "latency_mean"),
        ("bulk-64k", "cpu_per_request"),
        ("bulk-1m", "cpu_per_request"),
    }
    assert all(each == {"at_most": 1.15, "at_least": 0.87} for each in sides.values())


@pytest.mark.parametrize("arm", ["none", "naive"])
def test_both_arms_of_the_honest_study_run_and_report_the_same_requests(arm: str) -> None:
    study = load(STUDY)
    (wanted,) = [each for each in layout(study).arms if each.name == arm]
    plan = arm_spec(study, wanted, HERE, 0)
    files = tuple(WorkloadFile(each.name, plan.files[each.name], 4, scheduled=True) for each in study.workloads)
    env = {**plan.env, "SYNAPSED_OPTIMIZATIONS": ""}
    with Target.start(plan.command, env, plan.cwd, ready_timeout=30) as target:
        env["SYNAPSED_TARGET"] = json.dumps(target.ready)
        with LoadProcess.start(LoadSpec(arm, files, env, cwd=plan.cwd)) as load_process:
            asked = (
                ("surge", {"request"}),
                ("steady", {"request"}),
                ("dial", {"connect", "first request"}),
                ("bulk-1m", {"echo"}),
            )
            for workload, names in asked:
                result = load_process.slice(OpenSlice(workload, 0.2, 0.0, 5.0, target.pids()))
                assert {each.name for each in result.samples} == names
                assert not result.failed
                assert result.answered == result.ended > 0
