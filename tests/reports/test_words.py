from __future__ import annotations

import math

import msgspec
import pytest

from harness.analyse.records import Estimate
from harness.measure.metrics import Direction
from reports import words
from tests.reports.sample import STUDY, attributed, swept


def shown(ratio: float, low: float, high: float, **fields: object) -> Estimate:
    found = Estimate(ratio, low, high, 0.95, "signed rank", 12, 36, 0.01, 0.04)
    return msgspec.structs.replace(found, **fields)


def plain(text: str) -> str:
    return text.replace(words.THIN, " ").replace(words.MINUS, "-").replace(words.EN_DASH, "-")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.0, "0"),
        (0.0123456, "0.0123"),
        (8.0, "8.00"),
        (92.04, "92.0"),
        (-7.126, "-7.13"),
        (123.6, "124"),
        (47_312.0, "47 300"),
        (1_234_567.0, "1 230 000"),
        (math.nan, "-"),
        (-math.inf, "-\u221e"),
    ],
)
def test_three_significant_digits(value: float, told: str) -> None:
    assert plain(words.number(value)) == told


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [
        (0.000_000_25, "s", "0.250 \u00b5s"),
        (0.000_918, "s", "918 \u00b5s"),
        (0.0057, "s", "5.70 ms"),
        (2.5, "s", "2.50 s"),
        (512.0, "B", "512 B"),
        (3_500_000.0, "B", "3.34 MiB"),
        (-2048.0, "B", "-2.00 KiB"),
        (0.25, "1", "0.250"),
        (1234.0, "requests/s", "1 230 requests/s"),
        (math.nan, "s", "-"),
    ],
)
def test_units_suit_the_size(value: float, unit: str, told: str) -> None:
    assert plain(words.quantity(value, unit)) == told


def test_closure_tells_not_measured_from_not_yet_bounded() -> None:
    [found] = attributed().attributions
    assert words.closure(found) == "their product does NOT agree with the whole measured separately"
    once = shown(0.5, 0.0, math.inf, method="unbounded", bursts=1)
    early = msgspec.structs.replace(found, measured=once, closes=None)
    assert words.closure(early) == "the whole measured separately has no bounds yet: 1 burst is too few"
    never = msgspec.structs.replace(found, measured=None, closes=None)
    assert words.closure(never) == "the whole was not measured separately"


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (shown(0.08, 0.07, 0.09), "-92.0 % (91.0-93.0 %)"),
        (shown(1.12, 1.10, 1.15), "+12.0 % (10.0-15.0 %)"),
        (shown(0.996, 0.988, 1.005), "-0.40 % (-1.20 to +0.50 %)"),
        (shown(5.3, 5.1, 5.5), "\u00d7 5.30 (5.10-5.50)"),
        (shown(0.0004, 0.0002, 0.0005), "\u00f7 2 500 (2 000-5 000)"),
        (shown(0.5, 0.0, math.inf, method="unbounded", bursts=3), "-50.0 % (not bounded: 3 bursts are too few)"),
    ],
)
def test_a_change_always_travels_with_its_interval(found: Estimate, told: str) -> None:
    assert plain(words.change(found)) == told


@pytest.mark.parametrize(
    ("side", "bound", "told"),
    [
        ("at_most", 0.3, "at least 70 % less"),
        ("at_least", 0.9, "at most 10 % less"),
        ("at_most", 1.02, "at most 2 % more"),
        ("at_least", 1.5, "at least 50 % more"),
        ("at_least", 2.5, "at least \u00d7 2.5"),
        ("at_most", 3.0, "at most \u00d7 3"),
    ],
)
def test_a_claim_in_words(side: str, bound: float, told: str) -> None:
    assert plain(words.claim(side, bound)) == told


def test_better_and_worse_need_an_interval_that_excludes_no_change() -> None:
    assert words.sense(shown(0.9, 0.8, 0.95), "lower") == "better"
    assert words.sense(shown(0.9, 0.8, 0.95), "higher") == "worse"
    assert words.sense(shown(1.2, 1.1, 1.3), "lower") == "worse"
    assert words.sense(shown(0.9, 0.8, 1.01), "lower") == "unclear"
    assert words.sense(None, "lower") == "unclear"
    assert words.sense(shown(0.9, 0.8, 0.95), "neither") == "neutral"


@pytest.mark.parametrize(
    ("seconds", "told"), [(59.4, "59 s"), (60.0, "1 min 0 s"), (177.0, "2 min 57 s"), (3_720.0, "1 h 2 min")]
)
def test_durations(seconds: float, told: str) -> None:
    assert plain(words.duration(seconds)) == told


def test_arms_are_described_by_what_is_on() -> None:
    assert words.arm_words(STUDY, "none") == "every optimization off"
    assert words.arm_words(STUDY, "all") == "every optimization on"
    assert words.arm_words(STUDY, "pooling+metrics") == "on: pooling, metrics"
    assert "pooling" not in words.arm_words(STUDY, "all-pooling")
    assert "one locked connection" in words.arm_words(STUDY, "first-day-reuse")


def test_the_scope_names_what_was_measured() -> None:
    foreign = msgspec.structs.replace(STUDY, target=msgspec.structs.replace(STUDY.target, kind="command"))
    assert "this Python implementation" in words.scope(STUDY)
    assert "nothing about the Rust crate" in words.scope(STUDY)
    assert words.scope(foreign).startswith("The verdicts concern the measured programs")


def test_a_sweep_without_a_crossing_says_what_it_shows() -> None:
    never = swept().crossovers[1]
    worse = msgspec.structs.replace(
        never, ratios=tuple(msgspec.structs.replace(each, ratio=1.2, low=1.1, high=1.3) for each in never.ratios)
    )
    mixed = msgspec.structs.replace(never, ratios=(never.ratios[0], *worse.ratios[1:]))
    assert words.crossover_words(never, "lower").startswith("pays at every value between 64 and")
    assert words.crossover_words(never, "higher").startswith("harms at every value")
    assert words.crossover_words(worse, "lower").startswith("harms at every value")
    assert words.crossover_words(mixed, "lower").startswith("no crossover shown between")
    assert "; shown to pay at 64; to harm at " in words.crossover_words(mixed, "lower")


@pytest.mark.parametrize("direction", ["lower", "neither"])
def test_estimates_that_cross_where_nothing_is_shown_do_not_say_that_it_pays(direction: Direction) -> None:
    found = swept().crossovers[0]
    assert found.at is not None
    wide = tuple(msgspec.structs.replace(each, low=0.5, high=2.0) for each in found.ratios)
    told = words.crossover_words(msgspec.structs.replace(found, ratios=wide), direction)
    assert told.startswith("no crossover shown between")
    assert "pays" not in told
