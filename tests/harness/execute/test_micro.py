"""Workers of the micro suite as real processes."""

from __future__ import annotations

from pathlib import Path

import pyperf
import pytest

from harness.errors import TargetError, UsageError
from harness.execute import micro as execute
from harness.execute.micro import ROOMS, Job, catalogue, measure, merge, readings
from scenarios.micro import worker


def job(variant: str, number: int = 0) -> Job:
    return Job("cleanup", variant, number, seed=number, threads=2, seconds=0.0001, env={})


def test_the_rooms_are_those_that_have_scripts() -> None:
    assert ROOMS == worker.ROOMS


def test_a_room_says_what_it_measures() -> None:
    room = catalogue("cleanup")
    assert room.room == "cleanup"
    assert set(room.peers) == {"contextmanager", "weakref.finalize"}
    assert room.missing == ()
    assert {"off", "on"} <= set(room.cases[0].variants)
    assert room.cases[0].goals[0].against == "contextmanager"


def test_an_unknown_room_is_the_users_mistake() -> None:
    with pytest.raises(UsageError, match="unknown room 'pool'; expected some of: pooling"):
        catalogue("pool")


def test_workers_of_one_variant_become_one_pyperf_suite() -> None:
    suites: dict[str, pyperf.BenchmarkSuite] = {}
    found = []
    for number in range(2):
        suite = measure(job("on", number))
        found += readings(suite, job("on", number))
        merge(suites, "cleanup-on", suite)
    names = {each.name for each in catalogue("cleanup").cases if "on" in each.variants}
    assert {each.case for each in found} == names
    assert {each.round for each in found} == {0, 1}
    assert all(each.value > 0.0 and each.cpu_time > 0.0 for each in found)
    benchmarks = suites["cleanup-on"].get_benchmarks()
    assert {each.get_name() for each in benchmarks} == {f"cleanup: {name}" for name in names}
    assert all(each.get_nrun() == 2 for each in benchmarks)


def test_a_worker_that_ends_while_it_writes_measured_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cut.py").write_text("import sys; open(sys.argv[sys.argv.index('--out') + 1], 'w').write('{\"ben')")
    monkeypatch.setattr(execute, "_WORKER", (str(tmp_path / "cut.py"),))
    with pytest.raises(TargetError, match="the worker of cleanup, on measured nothing: exit status 0"):
        measure(job("on"))


def test_a_worker_that_fails_is_reported_with_its_last_words() -> None:
    with pytest.raises(TargetError, match="the worker of cleanup, nobody measured nothing: exit status 1"):
        measure(job("nobody"))
