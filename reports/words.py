"""Numbers as people read them: three significant digits, thin units, and no estimate without its interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from harness.analyse.centre import too_few
from harness.analyse.records import Analysis, Attribution, ContrastResult, Crossover, Estimate
from harness.measure.metrics import Direction, MetricInfo, Source
from harness.plan.arms import parse_cell
from harness.study.records import Study
from reports.info import RunInfo

THIN = "\u202f"
"narrow no-break space, between a number and its unit and between groups of three digits"
MINUS = "\u2212"
EN_DASH = "\u2013"
ABSENT = "\u2013"
"stands where there is no number"
TIMES_FROM = 2.0
"ratios from here on are told as multiples, below as percentages"
DIVIDED_FROM = 0.01
"ratios below are told as divisions: -99.98 % hides its size"
SOURCES: dict[Source, str] = {
    "slice": "slices",
    "segment": "segments",
    "episode": "episodes",
    "reading": "readings per burst",
}
Sense = Literal["better", "worse", "unclear", "neutral"]


def number(value: float, decimals: int | None = None) -> str:
    """Three significant digits, groups of thousands set apart; at most `decimals` digits after the point."""
    if math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "\u221e" if value > 0 else f"{MINUS}\u221e"
    if value == 0.0:
        return "0"
    places = 2 - math.floor(math.log10(abs(value)))
    places = places if decimals is None else min(places, decimals)
    rounded = round(value, places)
    if rounded == 0.0:
        return "0"
    text = f"{abs(rounded):,.{max(0, places)}f}".replace(",", THIN)
    return f"{MINUS}{text}" if rounded < 0 else text


def count(value: float) -> str:
    """A whole number in full, groups of thousands set apart."""
    return ABSENT if math.isnan(value) else f"{value:,.0f}".replace(",", THIN).replace("-", MINUS)


def quantity(value: float, unit: str, spell: Callable[[float], str] = number) -> str:
    """A value with the unit that suits its size: seconds as s, ms or us; bytes as B, KiB, MiB or GiB."""
    if math.isnan(value):
        return ABSENT
    size = abs(value)
    if unit == "s":
        scale, shown = (1.0, "s") if size >= 1.0 else (1e3, "ms") if size >= 1e-3 else (1e6, "\u00b5s")
        return f"{spell(value * scale)}{THIN}{shown}"
    if unit == "B":
        steps = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
        divisor, shown = next((each for each in steps if size >= each[0]), (1, "B"))
        return f"{spell(value / divisor)}{THIN}{shown}"
    return spell(value) if unit == "1" else f"{spell(value)}{THIN}{unit}"


def round_number(value: float) -> str:
    """A number that is round already (a tick of an axis, a bound): no zeros behind the point."""
    return count(value) if abs(value) >= 1000.0 else f"{value:.3g}".replace("-", MINUS)


def change(shown: Estimate) -> str:
    """An estimate in words with its interval: "-92.1 % (91.0-93.2 %)" or "x 5.30 (5.11-5.52)"."""
    return f"{effect(shown)} ({interval(shown)})"


def effect(shown: Estimate) -> str:
    """The estimate of `change` alone; for places where the interval stands right beside it."""
    return ratio_words(shown.ratio)


def ratio_words(ratio: float) -> str:
    """A ratio as a signed percentage, as a multiple from 2 on, as a division below 1/100."""
    if ratio >= TIMES_FROM:
        return f"\u00d7{THIN}{number(ratio)}"
    if ratio < DIVIDED_FROM:
        return f"\u00f7{THIN}{number(1.0 / ratio)}" if ratio > 0.0 else f"{MINUS}100{THIN}%"
    percent = 100.0 * (ratio - 1.0)
    return f"{'+' if percent > 0 else ''}{number(percent, 2)}{THIN}%"


def interval(shown: Estimate) -> str:
    """The interval in the terms of `effect`; says so when the bursts do not bound it."""
    if not shown.bounded:
        return f"not bounded: {too_few(shown.bursts)}"
    return interval_words(shown.ratio, shown.low, shown.high)


def interval_words(ratio: float, low: float, high: float) -> str:
    """The ends of an interval in the terms that suit `ratio`."""
    if ratio >= TIMES_FROM:
        return f"{number(low)}{EN_DASH}{number(high)}"
    if ratio < DIVIDED_FROM:
        ends = (1.0 / high, 1.0 / low if low > 0.0 else math.inf)
        return f"{number(ends[0])}{EN_DASH}{number(ends[1])}"
    ends = (100.0 * (low - 1.0), 100.0 * (high - 1.0))
    if ends[0] >= 0.0:
        return f"{number(ends[0], 2)}{EN_DASH}{number(ends[1], 2)}{THIN}%"
    if ends[1] <= 0.0:
        return f"{number(-ends[1], 2)}{EN_DASH}{number(-ends[0], 2)}{THIN}%"
    return f"{number(ends[0], 2)} to +{number(ends[1], 2)}{THIN}%"


def claim(side: str, bound: float) -> str:
    """A claimed ratio in words: "at least 70 % less", "at least x 2.5", "at most 2 % more"."""
    if bound >= TIMES_FROM:
        return f"{'at least' if side == 'at_least' else 'at most'} \u00d7{THIN}{bound:.4g}"
    less = bound < 1.0
    word = "at least" if (side == "at_most") == less else "at most"
    return f"{word} {100.0 * abs(bound - 1.0):.4g}{THIN}% {'less' if less else 'more'}"


def sense(shown: Estimate | None, direction: Direction) -> Sense:
    """Whether the interval shows arm b better or worse than arm a; "unclear" when it contains "no change"."""
    if direction == "neither":
        return "neutral"
    if shown is None or shown.low <= 1.0 <= shown.high:
        return "unclear"
    return "better" if (shown.high < 1.0) == (direction == "lower") else "worse"


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{THIN}s"
    if whole < 3600:
        return f"{whole // 60}{THIN}min {whole % 60}{THIN}s"
    return f"{whole // 3600}{THIN}h {whole % 3600 // 60}{THIN}min"


def moment(seconds: float) -> str:
    """A time as UTC, to the second."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def plural(n: int, word: str) -> str:
    """ "1 burst", "2 bursts"."""
    return f"{count(n)} {word}" if n == 1 else f"{count(n)} {word}s"


def metric_info(analysis: Analysis, name: str) -> MetricInfo:
    """The metric of that name; one without description if the analysis does not list it."""
    found = (each for each in analysis.metrics if each.name == name)
    return next(found, MetricInfo(name, name.replace("_", " "), "", "neither", "", (), False))


def metric_words(analysis: Analysis, name: str, request: str) -> str:
    """The metric's noun, and the request it is about."""
    noun = metric_info(analysis, name).noun
    return f"{noun} of {request}" if request else noun


def contrast_words(contrast: ContrastResult) -> str:
    """Who is compared with whom."""
    return f"{contrast.b} against {contrast.a}"


def crossover_words(found: Crossover, direction: Direction) -> str:
    """From where on the treatment pays, with the interval, and at which values it is shown to: an estimate that
    crosses 1 may do so among values where nothing is shown.
    """
    senses = [sense(each, direction) for each in found.ratios]
    if found.at is None or {"better", "worse"}.isdisjoint(senses):
        said = {frozenset({"better"}): "pays at every value", frozenset({"worse"}): "harms at every value"}
        told = said.get(frozenset(senses), "no crossover shown")
        told += f" between {round_number(found.values[0])} and {round_number(found.values[-1])}"
    else:
        side = "" if found.pays_above is None else "from " if found.pays_above else "up to "
        ends = f"{number(found.low)}{EN_DASH}{number(found.high)}"
        told = f"pays {side}{found.parameter} = {number(found.at)} ({ends})"
    if len(set(senses)) == 1:
        return told
    at: dict[str, str] = {
        one: ", ".join(round_number(value) for value, each in zip(found.values, senses, strict=True) if each == one)
        for one in senses
    }
    words_of = {"better": "shown to pay at", "worse": "to harm at", "unclear": "no difference shown at"}
    shown = [f"{what} {at[one]}" for one, what in words_of.items() if one in at]
    return f"{told}; {'; '.join(shown)}"


def closure(found: Attribution) -> str:
    """Whether the flags' effects multiply to what all of them do together."""
    if found.measured is None:
        return "the whole was not measured separately"
    if found.closes is None:
        return f"the whole measured separately has no bounds yet: {too_few(found.measured.bursts)}"
    return f"their product {'agrees' if found.closes else 'does NOT agree'} with the whole measured separately"


def place(workload: str) -> str:
    """The workload, or what stands in its place for readings of a whole burst."""
    return workload or "after the fixed work"


def arm_words(study: Study, name: str) -> str:
    """What an arm is: its optimizations, or what stands in their place."""
    declared = next((each for each in study.arms if each.name == name), None)
    if declared is not None and declared.target is not None:
        return "the program: " + " ".join(declared.target.command)
    on = declared.optimizations if declared is not None else parse_cell(name, study.optimizations) or ()
    words = f"on: {', '.join(on)}" if on else "every optimization off"
    if set(on) == set(study.optimizations):
        words = "every optimization on"
    if declared is None and name == "first-day-reuse":
        words = "one locked connection per peer kept open, everything else off"
    sides = [each.on if each.name in on else each.off for each in study.switches]
    told = [word for side in sides for word in side.args]
    env = {key: value for side in sides for key, value in side.env.items()} | (declared.env if declared else {})
    told += [f"{key}={value}" for key, value in sorted(env.items())]
    return "; ".join((words, " ".join(told))) if told else words


def unfinished(info: RunInfo) -> tuple[str, str]:
    """What a run that is not complete is, in a word and in a sentence."""
    if info.running:
        return "STILL RUNNING", "The run was being measured when this was written."
    return (
        "INTERRUPTED",
        "The run stopped before its end; what it says holds unless it was stopped because of what it said.",
    )


def scope(study: Study) -> str:
    """What the verdicts are about, and what not."""
    if study.target.kind == "reference":
        return (
            "The verdicts concern this Python implementation of the network layer,"
            " measured on this machine; they say nothing about the Rust crate synapsed-net."
        )
    return "The verdicts concern the measured programs, on the machine they ran on, and no others."
