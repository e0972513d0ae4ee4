"""Workloads with a memory of time, in a load process against a real node: names, outcomes, and nothing lost."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.errors import LoadError
from harness.execute.load import LoadProcess, LoadSpec
from harness.execute.target import Target
from harness.execute.wire import GaugesAnswer, OpenSlice, SliceResult, Work, WorkloadFile
from harness.study import file as study_file
from harness.study.file import ROOT
from reference_impl.faults.script import KINDS

PLAN = {each.name: each.settings for each in study_file.load(study_file.find("plan")).workloads}
QUICK = {"connect_timeout": 0.2, "request_timeout": 0.2}
OUTAGE = {"OUTAGE_BEGINS": "0.1", "OUTAGE_LASTS": "0.4", "OUTAGE_GRACE": "0.1"}
ALL = "pooling,cleanup,rate_limit,circuit_breaker,buffer_pool,metrics"


@contextmanager
def loaded(
    name: str, on: str, users: int, env: dict[str, str] | None = None, peers: int = 8, **settings: object
) -> Iterator[LoadProcess]:
    """A load process with one workload, in front of a node with the same switches."""
    both = {"SYNAPSED_OPTIMIZATIONS": on, "SYNAPSED_SETTINGS": json.dumps(settings), **(env or {})}
    command = (sys.executable, "-m", "reference_impl", "--peers", str(peers))
    with Target.start(command, both, ready_timeout=30.0) as target:
        path = str(ROOT / "scenarios" / "load" / f"{name}.py")
        spec = LoadSpec(
            "test", (WorkloadFile("w", path, users),), {**both, "SYNAPSED_TARGET": json.dumps(target.ready)}
        )
        with LoadProcess.start(spec) as load:
            yield load


def test_users_dial_tls_where_the_target_tells_its_authority() -> None:
    command = (sys.executable, "-m", "reference_impl", "--peers", "2", "--transports", "tls")
    env = {"SYNAPSED_OPTIMIZATIONS": "all"}
    with Target.start(command, env, ready_timeout=30.0) as target:
        assert all(set(peer["addresses"]) == {"tls"} for peer in target.ready["peers"])
        file = WorkloadFile("w", str(ROOT / "scenarios" / "load" / "surge.py"), 2)
        with LoadProcess.start(LoadSpec("test", (file,), {**env, "SYNAPSED_TARGET": json.dumps(target.ready)})) as load:
            result = load.work(Work("w", tasks=20, quiet=0.0, timeout=30.0, targets=()))
    assert result.answered == 20


@pytest.mark.parametrize(("on", "resuming"), [("pooling", True), ("first-day-reuse", False)])
def test_users_resume_with_a_node_that_says_so(on: str, resuming: bool) -> None:
    with loaded("dial", on, 2, peers=4, pooling={"max_idle_total": 1}) as load:
        load.work(Work("w", tasks=60, quiet=0.0, timeout=30.0, targets=()))
        gauges = load.gauges()
    assert (gauges.load["pooling.resumed"] > 0) == (gauges.target["pooling.resumed"] > 0) == resuming


def test_users_resume_over_a_link() -> None:
    with loaded("distant", "pooling", 2, {"DISTANT_RTT": "0.001"}, peers=4, pooling={"max_idle_total": 1}) as load:
        played(load, 0.5)
        assert load.gauges().load["pooling.resumed"] > 0


def played(load: LoadProcess, seconds: float) -> SliceResult:
    return load.slice(OpenSlice("w", planned=seconds, quiet=0.0, drain=2.0, targets=()))


def by_name(result: SliceResult) -> dict[str, int]:
    return {each.name: len(each.service) // 4 for each in result.samples}


def lost(result: SliceResult) -> int:
    """Requests that are not both counted once and told by name."""
    told = sum(each.rejected + each.failed for each in result.unanswered)
    return abs(result.rejected + sum(result.failed.values()) - told) + abs(
        result.answered - sum(by_name(result).values())
    )


def settled(load: LoadProcess, seconds: float) -> GaugesAnswer:
    load.settle(seconds)
    return load.gauges()


def test_a_flood_is_counted_by_the_node_as_it_is_by_the_attacker() -> None:
    abuser = {"max_requests_per_second": 10.0, "burst_size": 5}
    source = {**abuser, "burst_size": 20}  # everybody but the strangers comes from one
    with loaded("flood", ALL, 8, {"FLOOD_SECONDS": "1.0"}, rate_limit=abuser, source_limit=source) as load:
        result = played(load, 1.0)
        told = load.gauges()
    names, gauges = by_name(result), told.target
    honest = 4
    assert told.load["pooling.idle"] >= honest  # everybody's: each of them keeps one
    assert told.load["cleanup.open"] >= told.load["pooling.idle"]
    assert told.load["pooling.hits"] + told.load["pooling.misses"] >= names["request"]
    assert told.load["metrics.requests"] >= names["request"]
    assert told.load["buffer_pool.reuse_ratio"] == 0.0  # a KiB is not pooled
    assert names["request"] > 0
    longest = 0.5 + 1.0  # half of the flood, and as long as an attacker waits
    assert 5 <= names["abuse"] <= 5 + 10 * longest + 1
    assert 20 <= names["sybil"] <= 20 + 10 * longest + 1
    refused = {each.name: (each.rejected, each.failed) for each in result.unanswered}
    assert refused["abuse"][0] > 0
    assert refused["sybil"][1] == gauges["node.refused"] > 0
    assert result.rejected == sum(each for each, _ in refused.values()) == gauges["rate_limit.rejected"]
    asks_for_gauges = 1
    assert names["request"] + names["abuse"] + asks_for_gauges == gauges["rate_limit.admitted"]
    assert lost(result) == 0
    assert result.ended == result.tasks


@pytest.mark.parametrize("name", ["churn", "distant", "flood", "mesh", "outage"])
def test_who_opens_connections_beside_the_dialer_needs_tcp(name: str) -> None:
    command = (sys.executable, "-m", "reference_impl", "--peers", "1", "--transports", "tls")
    env = {"SYNAPSED_OPTIMIZATIONS": "none"}
    with Target.start(command, env, ready_timeout=30.0) as target:
        file = WorkloadFile("w", str(ROOT / "scenarios" / "load" / f"{name}.py"), 8)
        spec = LoadSpec("test", (file,), {**env, "SYNAPSED_TARGET": json.dumps(target.ready), "MESH_CLIENTS": "1"})
        with pytest.raises(LoadError, match="expected a node that listens on transport tcp"), LoadProcess.start(spec):
            pass


ALONE = """
import json
from scenarios.load import churn, flood, outage
print(json.dumps([churn.ChurnUser.ALONE, flood.HonestUser.ALONE, outage.OutageUser.ALONE]))
"""


def test_a_workload_by_itself_is_that_of_the_plan() -> None:
    said = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert json.loads(said) == [PLAN[name] for name in ("churn", "flood", "outage")]


PORTS = """
from types import SimpleNamespace
from scenarios.load import flood
import socket
listener = socket.create_server(("127.0.0.1", 0))
peer = SimpleNamespace(addresses={"tcp": listener.getsockname()})
first = flood.connected(peer, flood.ELSEWHERE)
here, other_end = first.getsockname(), listener.accept()
first.close()
with socket.socket() as again:
    again.bind(here)
print(here[0], flood.connected(peer, "192.0.2.1").getsockname()[0])
"""


def test_an_attacker_leaves_no_port_behind_and_comes_from_where_it_can() -> None:
    """With a minute for each, looking for a free port became most of what the load process did."""
    ended = subprocess.run(
        [sys.executable, "-c", PORTS], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "127.0.0.2 127.0.0.1\n"), ended.stderr


@pytest.mark.parametrize(("on", "leaks"), [("cleanup", False), ("none", True)])
def test_churn_leaks_only_without_cleanup(on: str, leaks: bool) -> None:
    """Under every kind of fault that the plan has, each three times as often, and the crash within reach."""
    rules = PLAN["churn"]["faults"]["rules"]
    more = [
        {**each, "first": 100} if each["kind"] == "crash" else {**each, "share": 3 * each["share"]} for each in rules
    ]
    node = {"tick": 0.1, "handshake_timeout": 0.2}
    with loaded("churn", on, 4, {"SYNAPSED_SEED": "3"}, tcp=QUICK, node=node, faults={"rules": more}) as load:
        result = load.work(Work("w", tasks=300, quiet=0.0, timeout=30.0, targets=()))
        gauges = settled(load, 0.6)
    assert {each["kind"] for each in rules} == {*KINDS}
    assert result.answered > 50
    assert {"Cancelled", "CallbackError", "ChannelError", "ConnectionResetError"} <= set(result.failed)
    assert (gauges.load["cleanup.open"] > 0) == leaks
    assert (gauges.target["node.connections"] > 1) == leaks
    assert lost(result) == 0
    assert result.ended == result.tasks


def test_an_outage_costs_attempts_and_ends() -> None:
    with loaded("outage", "circuit_breaker", 8, OUTAGE, tcp=QUICK, circuit_breaker={"timeout": 0.1}) as load:
        parts = [played(load, 1.6)]
        while len(parts) < 50 and not ("after" in by_name(parts[-1]) and "outage.at_return" in load.gauges().load):
            parts.append(played(load, 0.4))  # a machine that stood still has not told the story to its end yet
        told = load.gauges().load
    assert {"request", "beside", "struck", "after"} <= set().union(*map(by_name, parts))
    assert told["outage.wasted"] >= 1
    assert told["outage.recovery"] > 0
    assert 0 <= told["outage.at_return"] <= sum(each.tasks for each in parts)
    assert all(lost(each) == 0 and each.ended == each.tasks for each in parts)


def test_what_a_node_s_start_collects_is_not_counted() -> None:
    """256 peers take seven runs of the collector to start, and transfers of buffers none."""
    with loaded("bulk", "none", 2, {"BULK_SIZE": "65536"}, peers=256) as load:
        load.work(Work("w", tasks=20, quiet=0.0, timeout=30.0, targets=()))
        gauges = load.gauges()
    assert gauges.target["process.collections"] < 4
    assert gauges.load["process.collections"] < 4


def test_every_client_of_the_mesh_asks_exactly_once() -> None:
    with loaded("mesh", ALL, 4, {"MESH_CLIENTS": "50"}) as load:
        result = load.work(Work("w", tasks=50, quiet=0.0, timeout=30.0, targets=()))
        gauges = settled(load, 0.0)
    assert by_name(result) == {"request": 50}
    assert gauges.load["mesh.clients"] == 50
    assert gauges.load["mesh.snapshot"] > 0
    assert gauges.target["metrics.series"] >= 50


@pytest.mark.parametrize("mix", ["echo", "upload,download"])
def test_bulk_transfers_whole_messages(mix: str) -> None:
    with loaded("bulk", "buffer_pool", 2, {"BULK_SIZE": "100000", "BULK_MIX": mix}) as load:
        result = load.work(Work("w", tasks=3, quiet=0.0, timeout=30.0, targets=()))
    assert set(by_name(result)) == set(mix.split(","))
    assert result.answered == 3 * 8
    assert not result.failed


@pytest.mark.parametrize(
    ("name", "requests"),
    [("soak", {"request": 5}), ("contention", {"record": 5}), ("distant", {"connect": 5, "first answer": 5})],
)
@pytest.mark.parametrize("peers", [1, 16])
def test_the_others_answer_under_their_names(name: str, requests: dict[str, int], peers: int) -> None:
    env = {"DISTANT_RTT": "0.001", "DISTANT_REUSE": "0.5", "CONTENTION_RECORDINGS": "10"}
    with loaded(name, "metrics", 2, env, peers=peers) as load:
        result = load.work(Work("w", tasks=5, quiet=0.0, timeout=30.0, targets=()))
    assert by_name(result) == requests
    assert not result.failed


def test_users_do_not_share_out_the_threads_that_wait_for_one_another() -> None:
    """As many users as a web UI starts: each task needs all eight threads at its barrier."""
    with loaded("contention", "metrics", 32, {"CONTENTION_RECORDINGS": "10"}) as load:
        result = load.work(Work("w", tasks=100, quiet=0.0, timeout=30.0, targets=()))
    assert result.answered == 100


NEW_THREADS = """
from locust import events  # patches what gevent patches, as in a load process
import gevent
from gevent.threadpool import ThreadPool
from scenarios.load.contention import THREADS, StartingLine
for number in range(300):
    pool, line = ThreadPool(THREADS), StartingLine(THREADS)
    gone = gevent.joinall([pool.spawn(line.wait) for _ in range(THREADS)], timeout=20)
    assert len(gone) == THREADS, f"line {number} was never left"
    pool.kill()
"""


def test_threads_just_started_all_leave_the_starting_line() -> None:
    """threading.Barrier in its place was left by none after a few turns."""
    command = [sys.executable, "-c", NEW_THREADS]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr


BROKEN_RECORDER = """
from scenarios.load.contention import THREADS, ContentionUser
class Broken:
    def request(self, *_):
        raise ValueError("a broken recorder")
user = ContentionUser.__new__(ContentionUser)
user.recorders, reported = [Broken()] * THREADS, []
user.report = lambda *arguments: reported.append(arguments)
try:
    user.record()
except ValueError as error:
    print(error, reported)
"""


def test_a_recorder_that_raises_is_no_fast_recording() -> None:
    command = [sys.executable, "-c", BROKEN_RECORDER]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "a broken recorder []\n"), ended.stderr


def test_without_its_link_a_workload_does_not_begin() -> None:
    """Dialed directly, peers that should be far away would be near."""
    said = "workload 'w' cannot begin: ConnectionError: the link to the peers did not start"
    with pytest.raises(LoadError, match=said), loaded("distant", "all", 2, {"DISTANT_RTT": "-1"}):
        pass


@pytest.mark.parametrize(("reuse", "least", "most"), [("0", -1, 0), ("1", 24, 24), ("0.5", 4, 20)])
def test_as_many_dials_find_a_connection_as_are_to_acquaintances(reuse: str, least: int, most: int) -> None:
    env = {"DISTANT_RTT": "0", "DISTANT_REUSE": reuse}
    with loaded("distant", "pooling", 1, env, peers=60) as load:
        load.work(Work("w", tasks=200 if reuse == "1" else 1, quiet=0.0, timeout=30.0, targets=()))
        before = load.gauges().load
        load.work(Work("w", tasks=24, quiet=0.0, timeout=30.0, targets=()))
        after = load.gauges().load
    # asking the node for its gauges dials its first peer, which may be one miss more
    met_again = 24 - (after["pooling.misses"] - before["pooling.misses"])
    assert least <= met_again <= most


def test_attempts_at_the_return_are_counted_for_as_long_as_a_breaker_may_wait() -> None:
    slow = {"timeout": 2.0, "failure_threshold": 1}
    with loaded(
        "outage", "circuit_breaker", 4, {**OUTAGE, "OUTAGE_GRACE": "2.5"}, tcp=QUICK, circuit_breaker=slow
    ) as load:
        for _ in range(50):
            played(load, 1.0)
            if "outage.at_return" in load.gauges().load:
                break
        told = load.gauges().load
    assert told["outage.at_return"] >= 1


def test_how_long_an_outage_lasts_follows_the_seed_alone() -> None:
    lasted = {}
    for seed, on in (("1", "none"), ("2", "circuit_breaker")):
        env = {**OUTAGE, "OUTAGE_SPREAD": "0.2", "SYNAPSED_SEED": seed}
        with loaded("outage", on, 4, env, tcp=QUICK) as load:
            for _ in range(50):
                played(load, 0.8)
                if "outage.lasted" in load.gauges().load:
                    break
            lasted[seed] = load.gauges().load["outage.lasted"]
    assert lasted == {seed: 0.4 + random.Random(seed).uniform(-0.2, 0.2) for seed in ("1", "2")}


def test_none_or_several_peers_can_be_struck() -> None:
    for struck in ("0", "3"):
        with loaded("outage", "circuit_breaker", 8, {**OUTAGE, "OUTAGE_STRUCK": struck}, tcp=QUICK) as load:
            result = played(load, 0.8)
            told = load.gauges().load
        assert ("struck" in {*by_name(result), *(each.name for each in result.unanswered)}) == (struck != "0")
        assert (told["outage.wasted"] > 0) == (struck != "0")
        assert lost(result) == 0
