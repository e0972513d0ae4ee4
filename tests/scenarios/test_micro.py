"""Every micro benchmark runs and does what it says; the scripts are ordinary pyperf scripts."""

from __future__ import annotations

import math
import resource
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import psutil
import pyperf
import pytest

from reference_impl.circuit_breaker import CircuitOpen
from reference_impl.errors import IdentityError
from reference_impl.rate_limit import GcraLimiter
from reference_impl.security.identity import Identity
from scenarios.micro import channel, circuit_breaker, handshakes, metrics, rate_limit
from scenarios.micro.ends import End, allow_descriptors
from scenarios.micro.suite import Builder, Case, Room, Setup, bytes_per, chosen, each, held, in_threads
from scenarios.micro.worker import ROOMS, catalogue, measure, room_of

SCRIPTS = Path(handshakes.__file__).parent
PROCESSES = ("handshake over loopback", "CPU of a request", "memory of an idle connection")
QUICK = [
    pytest.param(case, build, id=f"{room.name}, {case.name}, {name}")
    for room in map(room_of, ROOMS)
    for case in room.cases
    if not case.name.startswith(PROCESSES)
    for name, build in case.variants.items()
    if name not in room.missing()
]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MANY", 100)
    monkeypatch.setattr(metrics, "SERIES", 20)
    monkeypatch.setattr(metrics, "HISTOGRAMS", 5)
    monkeypatch.setattr(circuit_breaker, "REJECTS", 50)
    monkeypatch.setattr(channel, "FIRST", 5)
    monkeypatch.setattr(channel, "LAST", 25)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("case", "build"), QUICK)
def test_each_variant_of_each_case_runs(case: Case, build: Builder) -> None:
    with ExitStack() as stack:
        timed = build(Setup(2, stack))
        assert timed(4) > 0.0
        assert timed(8) > 0.0


def find(room: str, name: str) -> Case:
    return next(case for case in room_of(room).cases if case.name == name)


@pytest.mark.parametrize("scheme", handshakes.SCHEMES)
@pytest.mark.parametrize("side", ["wall time", "CPU of the listening side"])
def test_handshakes_over_loopback(scheme: str, side: str) -> None:
    with ExitStack() as stack:
        timed = find("channel", f"handshake over loopback, {side}").variants[scheme](Setup(1, stack))
        assert 0.0 < timed(3) < math.inf


def test_an_idle_connection_costs_the_node_memory() -> None:
    with ExitStack() as stack:
        slope = find("channel", "memory of an idle connection, trimmed").variants["on"](Setup(1, stack))
        assert math.isfinite(slope(1))


@pytest.mark.parametrize("arm", ["off", "on"])
def test_requests_between_two_processes(arm: str) -> None:
    with ExitStack() as stack:
        timed = find("calm", "CPU of a request, all six rooms, 32 connections").variants[arm](Setup(1, stack))
        assert 0.0 < timed(64) < math.inf


def test_an_end_goes_when_its_input_ends() -> None:
    with End("accept", "on") as end:
        process = psutil.Process(end.pid)
        assert process.is_running()
    assert not process.is_running()


def test_an_end_that_cannot_start_says_so() -> None:
    with pytest.raises(RuntimeError, match="left with exit status"):
        End("accept", "nobody")


def test_too_few_descriptors_are_told_with_what_to_do() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(OSError, match=rf"{hard + 1} open descriptors are needed, {hard} are allowed: .*ulimit -n"):
        allow_descriptors(hard + 1)


def test_only_who_holds_many_connections_needs_many_descriptors() -> None:
    code = """
import resource
from scenarios.micro.ends import End
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
with End("node", "on", "--peers", "32") as end:
    print(len(end.ready["peers"]))
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == "32\n"


def test_limiters_reject_what_the_rejecting_case_asks() -> None:
    refusing = {
        "ours": rate_limit._ours(GcraLimiter, rate_limit.TIGHT),
        "token-bucket": rate_limit._token_bucket(math.ulp(1.0), 1),
        "limits": rate_limit._limits(1),
    }
    key = rate_limit._limits_keys(1)[0]
    first = {name: check(key) for name, check in refusing.items()}
    second = {name: check(key) for name, check in refusing.items()}
    assert first == {"ours": 0.0, "token-bucket": True, "limits": True}
    assert second["ours"] != 0.0
    assert (second["token-bucket"], second["limits"]) == (False, False)


@pytest.mark.parametrize(
    ("breaker", "refusal"),
    [
        (circuit_breaker._ours, CircuitOpen),
        (circuit_breaker._circuitbreaker, circuit_breaker._circuitbreaker_refusal()),
        (circuit_breaker._pybreaker, circuit_breaker._pybreaker_refusal()),
    ],
)
def test_breakers_refuse_once_they_are_open(breaker: object, refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        circuit_breaker._opened(breaker)()  # type: ignore[arg-type]


def test_tls_is_1_3_with_both_identities_proved() -> None:
    near, far = handshakes.Tls13().both_ends()
    assert (near.version(), far.version()) == ("TLSv1.3", "TLSv1.3")
    handshakes._check(far, handshakes.DIALER.peer_id)
    with pytest.raises(IdentityError):
        handshakes._check(far, handshakes.LISTENER.peer_id)


@pytest.mark.parametrize("scheme", [handshakes.OurNoise, handshakes.NoiseProtocol, handshakes.Tls13])
def test_every_handshake_refuses_another_peer(scheme: type, monkeypatch: pytest.MonkeyPatch) -> None:
    listening = scheme()
    stranger = Identity.from_seed(b"a stranger")

    class Expected:
        """A listener that proves itself to be one peer while another is expected."""

        def __init__(self) -> None:
            self.peer_id = stranger.peer_id

        def __getattr__(self, name: str) -> object:
            return getattr(Identity.from_seed(b"micro listener"), name)

    if scheme is handshakes.NoiseProtocol:
        listening._keys[stranger.peer_id] = handshakes.LISTENER.static_key.private_bytes_raw()
    monkeypatch.setattr(handshakes, "LISTENER", Expected())
    with pytest.raises(IdentityError):
        listening.both_ends()


def test_threads_share_the_operations() -> None:
    done: list[int] = []
    timed = in_threads(4, lambda number: done.append)
    assert timed(40) > 0.0
    assert done == [10] * 4


def test_held_counts_what_is_kept_and_not_what_is_dropped() -> None:
    assert held(lambda: bytearray(100_000)) == pytest.approx(100_000, rel=0.01)
    assert held(lambda: len(bytearray(100_000))) < 1000


def test_what_comes_with_the_first_thing_is_not_counted() -> None:
    loaded: list[bytearray] = []

    def build(count: int) -> object:
        if not loaded:
            loaded.append(bytearray(1_000_000))  # as a library is when it is first imported
        return [bytearray(1000) for _ in range(count)]

    assert bytes_per(100, build)(1) == pytest.approx(1000, rel=0.2)


def test_our_histogram_is_counted_at_its_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    def memory() -> float:
        with ExitStack() as stack:
            return find("metrics", "memory of a histogram").variants["on"](Setup(1, stack))(1)

    counted = memory()
    for observations in range(50, 150):
        monkeypatch.setattr(metrics, "OBSERVATIONS", observations)
        assert memory() <= 1.01 * counted


def test_a_stretch_goes_on_where_the_last_one_ended() -> None:
    seen: list[str] = []
    timed = each("abcde", seen.extend)
    for loops in (2, 2, 3):
        timed(loops)
    assert "".join(seen) == "abcdeab"


def test_an_operation_longer_than_a_value_is_done_twice() -> None:
    calls: list[int] = []

    def slow(loops: int) -> float:
        calls.append(loops)
        return 5.0 * loops

    (warmups, values), told = measure(Case("slow", {}), lambda setup: slow, 1, 0.001, 15)
    assert calls == [1, 1]
    assert (warmups, values) == ([(1, 5.0)], [5.0])
    assert told["unit"] == "second"


def test_loops_are_calibrated_to_the_stretch_asked_for() -> None:
    (warmups, values), told = measure(Case("quick", {}), lambda setup: lambda loops: 1e-6 * loops, 1, 0.001, 15)
    assert told["loops"] >= 1000
    assert warmups[-1][0] == told["loops"]
    assert values == pytest.approx([1e-6] * 15)
    (_, fewer), _ = measure(Case("heavy", {}, weight=5.0), lambda setup: lambda loops: 1e-6 * loops, 1, 0.001, 15)
    assert len(fewer) == 5


def test_peers_that_are_missing_are_told_and_left_out() -> None:
    case = Case("one", {"on": lambda setup: lambda loops: 1.0, "gone": lambda setup: lambda loops: 1.0})
    room = Room("room", "", (case,), needs={"gone": "no_such_package.inside"})
    assert room.missing() == ["gone"]
    assert catalogue(room)["missing"] == ["gone"]
    assert [name for name, _ in chosen(room, case, peers=True, variant="all")] == ["on"]
    assert [name for name, _ in chosen(room, case, peers=False, variant="all")] == ["on"]


def script(out: Path, *arguments: str) -> pyperf.BenchmarkSuite:
    quickly = ("--processes", "1", "--values", "1", "--warmups", "0", "--loops", "10", "--quiet")
    command = [sys.executable, str(SCRIPTS / "cleanup.py"), "-o", str(out), *quickly, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return pyperf.BenchmarkSuite.load(str(out))


def test_a_script_is_an_ordinary_pyperf_script(tmp_path: Path) -> None:
    everything = script(tmp_path / "all.json")
    assert "cleanup: guard: one further use [on]" in everything.get_benchmark_names()
    files = [tmp_path / "off.json", tmp_path / "on.json"]
    for file in files:
        assert "cleanup: guard: one further use" in script(file, "--variant", file.stem).get_benchmark_names()
    command = [sys.executable, "-m", "pyperf", "compare_to", "--table", *map(str, files)]
    compared = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "guard" in compared or "hidden because not significant" in compared


@pytest.mark.parametrize(
    ("name", "option", "told"),
    [
        (
            "cleanup",
            ("--variant", "nobody"),
            "--variant nobody cannot be measured here; expected all, off, on, context",
        ),
        ("buffer_pool", ("--variant", "malloc-tuned"), "malloc-tuned cannot be measured here; expected all, on, byte"),
        ("cleanup", ("--threads", "0"), "--threads 0; expected 1 or more"),
    ],
)
def test_a_script_refuses_what_measures_nothing(name: str, option: tuple[str, str], told: str) -> None:
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *option, "--processes", "1", "--loops", "1", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert told in done.stderr


def test_tls_resumes_with_both_identities_known() -> None:
    near, far = handshakes.Tls13Resumption().both_ends()
    assert near.session_reused
    handshakes._check(near, handshakes.LISTENER.peer_id)
    handshakes._check(far, handshakes.DIALER.peer_id)


def test_ours_resumes_every_time() -> None:
    ours = handshakes.OurResumption()
    for _ in range(3):
        ours.both_ends()
    assert ours._near.gauges() == ours._far.gauges() == {"tickets": 1, "resumed": 3}
