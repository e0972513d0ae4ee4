"""Verdicts on data measured with any other tool: pairs in a CSV file, through the same contrasts, verdicts and gate.

Each line is one measurement: `burst` (whole number: measured with the same processes), `pair` (whole number:
measured right after one another), `arm`, `metric`, `value`; perhaps `extreme` ("none" or "all": a share of none or of
all, of which two do not differ, and none is never the greater, all never the less). A value without its partner in the
other arm is counted as left out, never dropped in silence.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.analyse.analysis import answer
from harness.analyse.centre import Floats
from harness.analyse.contrast import (
    Contrast,
    Key,
    Pairs,
    Readings,
    Value,
    burst_medians,
    judge_contrast,
    pair_up,
    usable,
)
from harness.analyse.records import Analysis, ContrastResult
from harness.analyse.verdict import Question, describe, judge
from harness.errors import DataError, UsageError
from harness.gate import rules
from harness.measure.episodes import EXTREMES
from harness.measure.metrics import METRICS, Direction, Metric
from harness.study.records import Budget, Design, Expectation, Study, Target

COLUMNS = ("burst", "pair", "arm", "metric", "value")
EXTREME = "extreme"
"a column that may be there"
_CLAIM = re.compile(
    r"\s*(?P<metric>[^<>=]+?)\s*(?P<sign><=|>=)\s*(?P<bound>[-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(?P<percent>%?)\s*"
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The values of a file by (metric, arm), then by (burst, pair); both in the order of first appearance."""

    name: str
    values: Mapping[tuple[str, str], Mapping[Key, float]]

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm of the file."""
        return tuple(dict.fromkeys(arm for _, arm in self.values))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric of the file."""
        return tuple(dict.fromkeys(metric for metric, _ in self.values))


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of the data. `a`, `b` empty = the file's two arms in order of appearance.

    `directions` tell which way is better for metrics that the table does not know; `sequential` that the one who
    measured looked at the numbers before deciding when to stop.
    """

    a: str = ""
    b: str = ""
    expectations: tuple[str, ...] = ()
    directions: Mapping[str, Direction] = field(default_factory=dict)
    confidence: float = 0.95
    sequential: bool = False
    gate: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """The study that the question amounts to, its analysis, and the gate's decision when that was asked for."""

    study: Study
    analysis: Analysis
    decision: rules.GateDecision | None

    @property
    def exit_code(self) -> int:
        """0 all met (or nothing claimed), 1 missed, 3 undecided, 4 unusable data; the gate's code goes first."""
        if self.decision is not None and self.decision.outcome != "PASS":
            return rules.EXIT_CODES[self.decision.outcome]
        outcomes = {verdict.outcome for verdict in self.analysis.verdicts}
        return 1 if "MISSED" in outcomes else 3 if "INCONCLUSIVE" in outcomes else 0


def read(path: Path) -> Recorded:
    """The data of a CSV file with the columns COLUMNS, perhaps EXTREME, in any order (others are ignored).

    Raises `DataError`: file, line, column, what was expected.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parse(str(path), csv.reader(file, strict=True))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error


def judged(recorded: Recorded, ask: Ask, command: str = "") -> Judged:
    """Estimates of every metric, verdicts on every expectation, the gate's word. `command` names the source.

    Raises `UsageError` when the question does not fit the data.
    """
    a, b = _arms(recorded, ask)
    if unknown := [name for name in ask.directions if name not in recorded.metrics]:
        raise UsageError(
            f"--{ask.directions[unknown[0]]} {unknown[0]!r} is no metric of {recorded.name}; expected one of:"
            f" {', '.join(recorded.metrics)}"
        )
    metrics = {name: _metric(name, ask) for name in recorded.metrics}
    expectations = tuple(_expectation(text, recorded, a, b) for text in ask.expectations)
    study = _study(recorded, ask, (a, b), expectations)
    family = 1.0 - (1.0 - ask.confidence) / max(1, len(expectations))
    contrasts = {name: _contrast(recorded, (a, b), of, study, ask.confidence)[0] for name, of in metrics.items()}
    questions = []
    for each in expectations:
        evidence = _contrast(recorded, (a, b), metrics[each.metric], study, family)
        questions.append(Question(each, a, *evidence, metrics[each.metric]))
    verdicts = judge(questions, study)
    found = tuple(contrasts.values())
    bursts = {burst for values in recorded.values.values() for burst, _ in values}
    analysis = Analysis(
        study=study.name,
        baseline=a,
        treatment=b,
        controls=(),
        arms=(a, b),
        hidden=(),
        confidence=ask.confidence,
        family_confidence=family,
        bursts=len(bursts),
        interrupted=0,
        seconds_measured=0.0,
        valid=True,
        answer=answer(verdicts, found, "") if verdicts else " ".join(_sentences(a, b, found, metrics)),
        metrics=tuple(each.info() for each in metrics.values()),
        contrasts=found,
        verdicts=verdicts,
        checks=(),
        curves=(),
        throughput=(),
        cpu=(),
        memory=(),
        summaries=(),
        gauges=(),
    )
    return Judged(study, analysis, _decision(recorded, ask, (a, b), metrics) if ask.gate else None)


def _parse(name: str, rows: Iterator[list[str]]) -> Recorded:
    places = _header(name, rows)
    values: dict[tuple[str, str], dict[Key, float]] = {}
    line = 1
    try:
        for line, row in enumerate(rows, 2):
            if not any(row):
                continue
            if len(row) <= max(places.values()):
                raise DataError(f"{name}:{line}: has {len(row)} columns; expected {max(places.values()) + 1}")
            cells = {column: row[place].strip() for column, place in places.items()}
            key = (_whole(name, line, "burst", cells["burst"]), _whole(name, line, "pair", cells["pair"]))
            of = values.setdefault((_word(name, line, "metric", cells), _word(name, line, "arm", cells)), {})
            if key in of:
                told = f"burst {key[0]}, pair {key[1]} of {cells['metric']!r} on {cells['arm']!r}"
                raise DataError(f"{name}:{line}: value: a second value for {told}; expected one")
            value = _number(name, line, cells["value"])
            of[key] = _extreme(name, line, cells[EXTREME], value) if cells.get(EXTREME) else value
    except csv.Error as error:
        raise DataError(f"{name}:{line + 1}: not CSV: {error}") from error
    if not values:
        raise DataError(f"{name}:2: has no measurements; expected a line per value under the header")
    return Recorded(Path(name).name, values)


def _header(name: str, rows: Iterator[list[str]]) -> Mapping[str, int]:
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
    except csv.Error as error:
        raise DataError(f"{name}:1: not CSV: {error}") from error
    for column in COLUMNS:
        if header.count(column) != 1:
            how = "is missing" if column not in header else "appears twice"
            raise DataError(f"{name}:1: {column}: {how}; expected a header with {','.join(COLUMNS)}")
    if header.count(EXTREME) > 1:
        raise DataError(f"{name}:1: {EXTREME}: appears twice; expected it once, or not at all")
    return {column: header.index(column) for column in (*COLUMNS, EXTREME) if column in header}


def _whole(name: str, line: int, column: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise DataError(f"{name}:{line}: {column}: is {text[:40]!r}; expected a whole number >= 0")
    return int(text)


def _word(name: str, line: int, column: str, cells: Mapping[str, str]) -> str:
    if not cells[column]:
        raise DataError(f"{name}:{line}: {column}: is empty; expected a name")
    return cells[column]


def _number(name: str, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{name}:{line}: value: is {text[:40]!r}; expected a finite number")
    return value


def _extreme(name: str, line: int, text: str, value: float) -> float:
    kind = EXTREMES.get(text)
    if kind is None:
        raise DataError(
            f"{name}:{line}: {EXTREME}: is {text[:40]!r}; expected one of: {', '.join(EXTREMES)}, or nothing"
        )
    return kind(value)


def _arms(recorded: Recorded, ask: Ask) -> tuple[str, str]:
    known = recorded.arms
    for flag, arm in (("--a", ask.a), ("--b", ask.b)):
        if arm and arm not in known:
            raise UsageError(f"{flag} {arm!r} is no arm of {recorded.name}; expected one of: {', '.join(known)}")
    others = [arm for arm in known if arm not in (ask.a, ask.b)]
    missing = (not ask.a) + (not ask.b)
    if len(others) < missing or (missing and len(others) > missing):
        raise UsageError(f"{recorded.name} has the arms {', '.join(known)}; expected two, or --a and --b to name them")
    a = ask.a or others.pop(0)
    b = ask.b or others.pop(0)
    if a == b:
        raise UsageError(f"--a and --b are both {a!r}; expected two different arms")
    return a, b


def _metric(name: str, ask: Ask) -> Metric:
    """The table's metric of that name without its demands on requests (there are none to count), or a new one."""
    direction = ask.directions.get(name)
    known = METRICS.get(name)
    if known is not None:
        return Metric(name, known.noun, known.unit, direction or known.direction, known.definition, ("slice",))
    noun = name.replace("_", " ")
    return Metric(name, noun, "1", direction or "neither", f"{noun}, as measured elsewhere", ("slice",))


def _expectation(text: str, recorded: Recorded, a: str, b: str) -> Expectation:
    """`throughput>=2.5`: the ratio b/a is at least 2.5; `latency<=-70%`: at most 0.30."""
    found = _CLAIM.fullmatch(text)
    if found is None or found["metric"] not in recorded.metrics:
        raise UsageError(
            f"--expect {text!r}; expected METRIC>=RATIO or METRIC<=RATIO (2.5, -70%) with a metric of"
            f" {recorded.name}: {', '.join(recorded.metrics)}"
        )
    try:
        bound = float(found["bound"])
    except ValueError:
        bound = math.nan
    ratio = 1.0 + bound / 100.0 if found["percent"] else bound
    if not (ratio > 0.0 and math.isfinite(ratio)):
        raise UsageError(f"--expect {text!r}: the ratio {b} to {a} would be {ratio:g}; expected one > 0")
    return Expectation(
        name=text.strip(),
        claim=text.strip(),
        workload=recorded.name,
        metric=found["metric"],
        arm=b,
        against=(a,),
        at_least=ratio if found["sign"] == ">=" else None,
        at_most=ratio if found["sign"] == "<=" else None,
    )


def _study(recorded: Recorded, ask: Ask, arms: tuple[str, str], expectations: tuple[Expectation, ...]) -> Study:
    return Study(
        name=recorded.name,
        title=f"{arms[1]} against {arms[0]}, from {recorded.name}",
        confidence=ask.confidence,
        target=Target(kind="command"),
        design=Design(baseline=arms[0], treatment=arms[1], hidden=False),
        budget=Budget(stop_early=ask.sequential, min_bursts=1),
        workloads=(),
        expectations=expectations,
    )


def _contrast(
    recorded: Recorded, arms: tuple[str, str], of: Metric, study: Study, confidence: float
) -> tuple[ContrastResult, Floats]:
    a, b = _readings(recorded, arms, of.name)
    return judge_contrast(
        Contrast(*arms, "treatment", recorded.name, of, "", "slice"), Readings(a, len(a)), Readings(b, len(b)),
        study, confidence,
    )  # fmt: skip


def _readings(recorded: Recorded, arms: tuple[str, str], metric: str) -> tuple[dict[Key, Value], dict[Key, Value]]:
    """The values of both arms; where one has none, the reason stands in its place."""
    a, b = (recorded.values.get((metric, arm), {}) for arm in arms)
    keys = sorted(a.keys() | b.keys())
    return (
        {key: usable(a[key]) if key in a else f"no value of {arms[0]}" for key in keys},
        {key: usable(b[key]) if key in b else f"no value of {arms[1]}" for key in keys},
    )


def _decision(recorded: Recorded, ask: Ask, arms: tuple[str, str], metrics: Mapping[str, Metric]) -> rules.GateDecision:
    for name, of in metrics.items():
        if of.direction == "neither":
            raise UsageError(f"which way is {name!r} better? expected --lower {name} or --higher {name}")
    pairs = {name: _independent(pair_up(*_readings(recorded, arms, name))) for name in metrics}
    return rules.decide(pairs, rules.Policy(directions={name: of.direction for name, of in metrics.items()}))


def _independent(pairs: Pairs) -> Pairs:
    """The pairs, or one value per burst where a burst has more of them than the gate's margins were calibrated for."""
    if not pairs.bursts.size or np.max(np.unique(pairs.bursts, return_counts=True)[1]) <= rules.MAX_PAIRS:
        return pairs
    return Pairs(*burst_medians(pairs), pairs.reasons)


def _sentences(a: str, b: str, contrasts: Sequence[ContrastResult], metrics: Mapping[str, Metric]) -> Iterable[str]:
    for each in contrasts:
        noun = metrics[each.metric].noun
        told = describe(each.estimate) if each.estimate is not None else each.problem
        yield f"{noun[0].upper()}{noun[1:]} of {b} {told} against {a}."
