"""Metrics of episodes: by request name, of what is left, of what the workload tells; and the slope of a leak."""

from __future__ import annotations

import math

import msgspec
import pytest

from harness.analyse.contrast import readings, value_of
from harness.analyse.rows import arrange
from harness.measure.episodes import AllOf, Episode, NoneOf, extreme, slope
from harness.measure.metrics import metric
from harness.measure.records import ArmReading, Burst, Measured, Memory, Sample, Unanswered
from tests.harness.analyse.synthetic import a_stretch

LOAD = msgspec.structs.replace(
    a_stretch(kind="episode", workload="churn", seconds=10.0, requests=2000, latency=0.001),
    started=2500,
    rejected=300,
    failed={"TimeoutError": 200},
    unanswered=(Unanswered("request", 300, 100, 2.0), Unanswered("other", 0, 100, 5.0)),
)
IDLE = Memory(1000, 1000, 1000, 10)


def a_moment(at: float, uss: int) -> Sample:
    return Sample(0, "none", "churn", at, Memory(uss, 0, 0, 10), IDLE, {})


def left(descriptors: int = 10, told: dict[str, float] | None = None, load_descriptors: int = 10) -> ArmReading:
    target, load = (Memory(2000, 2000, 2000, held) for held in (descriptors, load_descriptors))
    node, dialer = {"node.connections": 4.0}, {"cleanup.open": 2.0, **(told or {})}
    return ArmReading(0, "none", 2000, IDLE, target, IDLE, load, node, dialer, "churn")


EPISODE = Episode(left(), LOAD, ())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("goodput", 200.0),
        ("admitted_rate", 200.0),
        ("success_ratio", 2000.5 / 2401),
        ("time_per_request", (2000 * 0.001 + 2.0) / 2400),
    ],
)
def test_requests_of_one_name(name: str, expected: float) -> None:
    assert value_of(metric(name), LOAD, "request") == pytest.approx(expected)


def test_a_name_that_never_ended_has_no_ratio_and_one_that_always_failed_has() -> None:
    assert value_of(metric("success_ratio"), LOAD, "unheard") == "no 'unheard' request ended"
    assert value_of(metric("success_ratio"), LOAD, "other") == pytest.approx(0.5 / 101)


def test_collections_are_those_of_both_ends_and_none_of_them_is_no_difference() -> None:
    def after(node: float, dialer: float) -> Episode:
        reading = left(told={"process.collections": dialer})
        return Episode(msgspec.structs.replace(reading, gauges={"process.collections": node}), LOAD, ())

    collections = metric("collections_per_request")
    assert value_of(collections, after(3.0, 5.0), "") == 8.0 / 2000
    assert isinstance(value_of(collections, after(0.0, 0.0), ""), NoneOf)
    assert value_of(collections, after(0.0, 0.0), "") == 1.0 / 2000
    assert value_of(collections, EPISODE, "") == "the target does not tell its process.collections"
    idle = msgspec.structs.replace(after(3.0, 5.0).stretch, answered=0)
    assert value_of(collections, Episode(after(3.0, 5.0).reading, idle, ()), "") == "no answered request"


def test_what_is_left_counts_one_more() -> None:
    assert value_of(metric("descriptors_left"), EPISODE, "") == 1.0
    assert value_of(metric("descriptors_left"), Episode(left(17), LOAD, ()), "") == 8.0
    assert value_of(metric("registry_left"), EPISODE, "") == 6.0
    assert value_of(metric("target_memory"), EPISODE, "") == 1000.0
    linked = Episode(left(17, {"link.relays": 1.0}), LOAD, ())
    assert value_of(metric("descriptors_left"), linked, "") == "a relay between both ends has descriptors of its own"
    silent = Episode(msgspec.structs.replace(left(), gauges={}), LOAD, ())
    assert value_of(metric("registry_left"), silent, "") == "the target or the dialer does not tell its registry"


def test_both_ends_hold_what_is_left_but_for_connections_that_wait_in_the_pool() -> None:
    waiting = Episode(left(17, {"pooling.idle": 2.0}, load_descriptors=15), LOAD, ())
    assert value_of(metric("descriptors_left"), waiting, "") == 1.0 + 7.0 + 5.0 - 2 * 2.0
    assert value_of(metric("registry_left"), waiting, "") == 6.0 - 2 * 2.0


def test_what_the_workload_tells_or_not() -> None:
    told = Episode(left(10, {"outage.wasted": 0.0, "outage.recovery": 0.5}), LOAD, ())
    assert value_of(metric("attempts_wasted"), told, "") == 1.0
    assert value_of(metric("recovery_time"), told, "") == 0.5
    assert value_of(metric("recovery_time"), EPISODE, "") == "the workload does not tell outage.recovery"


def test_the_slope_of_a_leak_is_per_thousand_requests() -> None:
    growing = tuple(a_moment(float(at), 1000 + 500 * at) for at in range(11))
    assert slope(Episode(left(), LOAD, growing), "target") == pytest.approx(500 * 10 / 2000 * 1000)
    assert slope(Episode(left(), LOAD, growing), "load") == 0.0
    starting = tuple(a_moment(float(at), 10 ** (9 - at)) for at in range(3))
    assert slope(Episode(left(), LOAD, starting + growing[3:7]), "target") == pytest.approx(500 * 10 / 2000 * 1000)
    assert math.isnan(slope(Episode(left(), LOAD, growing[:6]), "target")), "start-up apart they are too few"


def test_rows_join_an_episode_with_its_load_and_moments() -> None:
    moments = (a_moment(2.0, 5), a_moment(1.0, 4))
    alone = msgspec.structs.replace(left(), burst=1)  # its load was never stored
    rows = arrange(Measured((Burst(0, ("none",), 0.0, True),), (LOAD,), (left(), alone), moments))
    assert rows.readings == {}
    ((episode,),) = rows.episodes.values()
    assert [each.at for each in episode.samples] == [1.0, 2.0]
    assert readings(rows.episodes["churn", "none"], metric("descriptors_left"), "").values == {(0, 0): 1.0}


def test_an_extreme_has_a_name_that_files_keep() -> None:
    assert [extreme(each) for each in (NoneOf(0.1), AllOf(0.9), 0.5)] == ["none", "all", ""]
