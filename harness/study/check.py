"""What types cannot say about a study: names that must exist, numbers in their range, contradictions.

`problems` tells each as the place in the study and a sentence with what was expected; it reads no file but asks
`resolve` for those the study names.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from harness.errors import StudyError
from harness.measure.metrics import METRICS, Metric
from harness.plan import arms
from harness.study.place import Where
from harness.study.records import OPTIMIZATIONS, PLACEHOLDER, Arm, Study, Sweep, Target, Workload

Problem = tuple[Where, str]
Resolve = Callable[[str], object]
Rule = tuple[str, Callable[[Any], object], str]
"""A field, what it must satisfy, and what to say was expected."""

ARRIVALS = 10
"that a slice of an open workload must have, so that none is without any"
MOST_ARRIVALS = 10_000_000
"that a stretch of one may have: each is decided, and sent to the load process, before the first"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_STUDY: Sequence[Rule] = (
    ("name", _NAME.fullmatch, "letters, digits, '.', '_' and '-', as it names the run's folder"),
    ("seed", lambda v: v >= 0, "a whole number >= 0"),
    ("confidence", lambda v: 0.5 <= v <= 0.9999, "0.5 <= confidence <= 0.9999"),
    ("workloads", bool, "at least one [[workload]]"),
)
_BUDGET: Sequence[Rule] = (
    ("seconds", lambda v: 0 < v < math.inf, "a number of seconds > 0"),
    ("blocks", lambda v: v >= 1, "a whole number >= 1"),
    ("min_bursts", lambda v: v >= 1, "a whole number >= 1"),
    ("max_bursts", lambda v: v >= 1, "a whole number >= 1"),
    ("table_every", lambda v: v >= 1, "a whole number of rounds >= 1"),
    ("memory_requests", lambda v: v >= 1, "a whole number >= 1"),
)
_DESIGN: Sequence[Rule] = (("fractions", lambda v: 1 <= v <= 4, "1 to 4 quarters of the 64 cells"),)
_WORKLOAD: Sequence[Rule] = (
    ("name", bool, "a name"),
    ("users", lambda v: v >= 1, "a whole number >= 1"),
    ("rate", lambda v: 0 <= v < math.inf, "requests per second, or 0 for half the slower arm's capacity"),
    ("blocks", lambda v: v >= 0, "a whole number, or 0 for as many as the budget says"),
    ("slice_seconds", lambda v: 0.1 <= v < math.inf, "at least 0.1 s"),
    ("quiet_seconds", lambda v: 0 <= v < math.inf, "a number of seconds >= 0"),
    ("segment_seconds", lambda v: 0 <= v < math.inf, "a number of seconds >= 0"),
    ("episode_seconds", lambda v: 0 <= v < math.inf, "a number of seconds >= 0"),
    ("tasks", lambda v: v >= 0, "a whole number >= 0"),
    ("warm_tasks", lambda v: v >= 0, "a whole number >= 0"),
    ("settle_seconds", lambda v: 0 <= v < math.inf, "a number of seconds >= 0"),
    ("request", bool, "the name of a request"),
    ("max_error_ratio", lambda v: 0 <= v <= 1, "a share from 0 to 1"),
    ("max_rejection_ratio", lambda v: 0 <= v <= 1, "a share from 0 to 1"),
)


def _no_nul(text: Iterable[str]) -> bool:
    return "\0" not in "".join(text)


def says_when_ready(ready: str) -> bool:
    """Whether it is of one of the four kinds, with a place or a pattern that can be read."""
    kind, _, value = ready.partition(":")
    try:
        if kind == "port":
            value.rpartition(":")[0].encode("idna")
        elif kind == "url":
            urlsplit(value)
        elif kind == "pattern":
            re.compile(value)
    except (ValueError, re.error):
        return False
    return re.fullmatch(r"line|port:.*:(\d{1,5}|\{port\})|url:.+|pattern:.+", ready) is not None


_TARGET: Sequence[Rule] = (
    ("command", _no_nul, "words without a NUL byte"),
    ("peers", lambda v: 1 <= v <= 2_000, "a whole number from 1 to 2000, all of whom the ready line can name"),
    ("ready", says_when_ready, "line, port:HOST:PORT, url:URL or pattern:REGEX"),
)
_SIDE: Sequence[Rule] = (("args", _no_nul, "words without a NUL byte"),)
_ARM: Sequence[Rule] = (
    ("name", bool, "a name"),
    ("interpreter", _no_nul, "a path without a NUL byte"),
)


def problems(study: Study, resolve: Resolve) -> Iterator[Problem]:
    """Everything wrong with `study`. `resolve` raises StudyError for a file that does not exist."""
    yield from _broken(study, _STUDY, ())
    yield from _target(study.target, ("target",))
    yield from _broken(study.design, _DESIGN, ("design",))
    yield from _broken(study.budget, _BUDGET, ("budget",))
    if study.budget.max_bursts < study.budget.min_bursts:
        yield ("budget", "max_bursts"), f"is less than min_bursts, {study.budget.min_bursts}; expected at least that"
    yield from _switches(study)
    for index, workload in enumerate(study.workloads):
        yield from _workload(study, workload, ("workloads", index), resolve)
    for index, arm in enumerate(study.arms):
        yield from _arm(study, arm, ("arms", index), resolve)
    yield from _places(study)
    yield from _design(study)
    yield from _sweep(study, resolve)
    yield from _expectations(study)


def _broken(record: Any, rules: Sequence[Rule], where: Where) -> Iterator[Problem]:
    for field, holds, expected in rules:
        value = getattr(record, field)
        if not holds(value):
            shown = "is empty" if value in ("", ()) else f"is {value!r}"
            yield (*where, field), f"{shown}; expected {expected}"


def _variables(env: Mapping[str, str], where: Where) -> Iterator[Problem]:
    """What no environment of a process can hold."""
    for name, value in env.items():
        if not name or "=" in name or not _no_nul(name):
            yield (*where, "env"), f"names {name!r}; expected names of variables, without '=' and NUL bytes"
        elif not _no_nul(value):
            yield (*where, "env"), f"sets {name} to {value!r}; expected text without a NUL byte"


def _target(target: Target, where: Where) -> Iterator[Problem]:
    yield from _broken(target, _TARGET, where)
    yield from _variables(target.env, where)
    yield from _settings(target.settings, where)
    if target.kind == "command" and not target.command:
        yield (*where, "command"), "is empty; expected the program to start and its arguments"
    if target.kind == "reference" and target.command:
        yield (*where, "command"), 'stands beside kind "reference"; expected kind = "command"'


def _settings(settings: Mapping[str, Any], where: Where) -> Iterator[Problem]:
    """They reach the target as JSON, which has neither dates nor infinity."""
    try:
        json.dumps(settings, allow_nan=False)
    except (TypeError, ValueError) as error:
        yield (*where, "settings"), f"cannot be told to the target: {error}; expected texts, finite numbers and tables"


def _switches(study: Study) -> Iterator[Problem]:
    if study.switches and study.target.kind == "reference":
        yield ("switches",), 'stands beside target kind "reference", which has its own; expected kind = "command"'
    for index, switch in enumerate(study.switches):
        where: Where = ("switches", index, "name")
        if not _NAME.fullmatch(switch.name) or switch.name in ("all", "none") or switch.name.startswith("all-"):
            yield where, f"is {switch.name!r}; expected letters, digits, '.', '_' and '-', not all, none or all-..."
        if study.optimizations.count(switch.name) > 1 or switch.name == arms.hidden_name(study.design.baseline):
            yield where, f"{switch.name!r} is used twice; expected a name of its own"
        for name, side in (("on", switch.on), ("off", switch.off)):
            yield from _broken(side, _SIDE, ("switches", index, name))
            yield from _variables(side.env, ("switches", index, name))
        for variable in {**switch.on.env, **switch.off.env}:
            others = [each.name for each in study.switches if variable in {**each.on.env, **each.off.env}]
            if others[0] != switch.name:
                yield ("switches", index), f"sets {variable} like switch {others[0]!r}; expected one that does"


def _places(study: Study) -> Iterator[Problem]:
    """All arms of a burst live at the same time, a twin of the baseline among them: each needs a place to listen at."""
    by_name = {each.name: each for each in study.arms}
    names = [*dict.fromkeys((study.design.baseline, study.design.treatment, *study.design.controls))]
    taken: dict[str, str] = {}
    for name in (*names, study.design.baseline) if study.design.hidden else names:
        arm = by_name.get(name)
        own = arm.target if arm is not None else None
        target = own or study.target
        place = target.ready if target.ready.startswith(("port:", "url:")) else ""
        if not place or PLACEHOLDER in place:
            continue
        if place in taken:
            where: Where = ("arms", study.arms.index(arm), "target", "ready") if arm and own else ("target", "ready")
            others = f"{taken[place]!r} and {name!r}" if name != taken[place] else f"{name!r} and its hidden twin"
            yield where, f"is {place!r} for {others}, which run at the same time; expected {PLACEHOLDER} in it"
            return
        taken[place] = name


def _workload(study: Study, workload: Workload, where: Where, resolve: Resolve) -> Iterator[Problem]:
    yield from _broken(workload, _WORKLOAD, where)
    yield from _settings(workload.settings, where)
    yield from _variables(workload.env, where)
    if [each.name for each in study.workloads].count(workload.name) > 1:
        yield (*where, "name"), f"{workload.name!r} is used twice; expected a name of its own"
    if workload.arrivals == "closed" and (workload.rate or workload.shape):
        field = "rate" if workload.rate else "shape"
        yield (*where, field), 'belongs to open arrivals; expected arrivals = "constant" or "poisson" beside it'
    if workload.segment_seconds and workload.arrivals == "closed":
        yield (*where, "segment_seconds"), "belongs to open arrivals, as in a closed loop a stall hides those behind it"
    if 0 < workload.rate * workload.slice_seconds < ARRIVALS and not workload.is_episode:
        least = ARRIVALS / workload.rate
        yield (*where, "slice_seconds"), f"has fewer than {ARRIVALS} arrivals in it; expected at least {least:.3g} s"
    yield from _episode(workload, where)
    yield from _unknown_arms(study, workload.arms, (*where, "arms"))
    times = [second for second, _ in workload.shape]
    rates = [rate for _, rate in workload.shape]
    longest = max(workload.slice_seconds, workload.segment_seconds, workload.episode_seconds)
    if (highest := max(rates, default=workload.rate)) * longest > MOST_ARRIVALS:
        found = f"has up to {highest:g} arrivals a second, for {longest:g} s"
        yield (*where, "shape" if rates else "rate"), f"{found}; expected at most {MOST_ARRIVALS:,} a stretch"
    if not all(math.isfinite(each) and each >= 0 for each in (*times, *rates)):
        yield (*where, "shape"), "expected finite times and rates, none negative"
    elif any(later <= earlier for earlier, later in pairwise(times)):
        yield (*where, "shape"), "expected times that increase"
    elif workload.shape and not any(rates):
        yield (*where, "shape"), "expected a rate above 0"
    elif workload.shape and not workload.is_episode:
        yield (*where, "shape"), "is longer than a slice, which would see only its beginning; expected episode_seconds"
    yield from _files((workload.file,), (*where, "file"), resolve)


def _episode(workload: Workload, where: Where) -> Iterator[Problem]:
    if not workload.is_episode:
        for field in ("settle_seconds", "settings", "tasks"):
            if getattr(workload, field):
                yield (*where, field), "belongs to an episode; expected episode_seconds beside it"
        return
    for field in ("blocks", "segment_seconds", "warm_tasks"):
        if getattr(workload, field):
            yield (*where, field), "stands beside episode_seconds; expected one of the two"
    if workload.tasks and workload.arrivals != "closed":
        yield (*where, "tasks"), 'belongs to closed arrivals; expected arrivals = "closed"'
    if workload.arrivals != "closed" and not workload.rate and not workload.shape:
        yield (*where, "rate"), "is 0 in an open episode, where no capacity is found; expected a rate or a shape"


def _arm(study: Study, arm: Arm, where: Where, resolve: Resolve) -> Iterator[Problem]:
    yield from _broken(arm, _ARM, where)
    if [each.name for each in study.arms].count(arm.name) > 1:
        yield (*where, "name"), f"{arm.name!r} is used twice; expected a name of its own"
    if study.design.hidden and arm.name == arms.hidden_name(study.design.baseline):
        yield (*where, "name"), f"{arm.name!r} is the baseline's hidden twin; expected a name of its own"
    if arms.parse_cell(arm.name, study.optimizations) is not None:
        yield (*where, "name"), f"{arm.name!r} means a set of optimizations; expected a name of its own"
    yield from _variables(arm.env, where)
    if arm.target:
        yield from _target(arm.target, (*where, "target"))
    target = arm.target or study.target
    known = (*OPTIMIZATIONS, *arms.CONTROLS) if target.kind == "reference" else study.optimizations
    of_ours = target.kind == "reference" or (study.switches and arm.target is None)
    if of_ours and (unknown := set(arm.optimizations) - set(known)):
        yield (*where, "optimizations"), f"names {min(unknown)!r}; expected any of: {', '.join(known)}"
    names = [workload.name for workload in study.workloads]
    if strangers := arm.files.keys() - set(names):
        yield (*where, "files"), f"names {min(strangers)!r}; expected one of: {', '.join(names)}"
    yield from _files((arm.file,) if arm.file else (), (*where, "file"), resolve)
    yield from _files(tuple(arm.files.values()), (*where, "files"), resolve)


def _files(files: Sequence[str], where: Where, resolve: Resolve) -> Iterator[Problem]:
    for file in files:
        try:
            resolve(file)
        except StudyError as error:
            yield where, str(error)


def _design(study: Study) -> Iterator[Problem]:
    design = study.design
    yield from _unknown_arms(study, (design.baseline,), ("design", "baseline"))
    yield from _unknown_arms(study, (design.treatment,), ("design", "treatment"))
    yield from _unknown_arms(study, design.controls, ("design", "controls"))
    if design.baseline == design.treatment:
        yield ("design", "treatment"), f"is {design.treatment!r} like the baseline; expected another arm"
    yield from _factors(study)


def _sweep(study: Study, resolve: Resolve) -> Iterator[Problem]:
    """A workload that a value makes must satisfy what a declared one must."""
    where: Where = ("design", "sweep")
    sweep = study.design.sweep
    if study.design.kind != "sweep":
        if sweep:
            yield where, f'stands beside kind "{study.design.kind}"; expected kind = "sweep"'
        return
    try:
        measured = arms.workloads(study)
    except StudyError as error:
        yield where, str(error)
        return
    names = [each.name for each in measured]
    for variant in measured:
        if variant in study.workloads:
            continue
        if names.count(variant.name) > 1:
            yield where, f"makes {variant.name!r} twice; expected a name of its own for each value"
        for (field, *_), message in _workload(study, variant, (), resolve):
            yield where, f"makes {variant.name!r}, whose {field} {message}"
    for declared in study.workloads:
        if sweep and declared.name == sweep.workload:
            yield from _swept(sweep, declared, where)


def _swept(sweep: Sweep, declared: Workload, where: Where) -> Iterator[Problem]:
    if sweep.parameter == "rate" and declared.shape:
        yield (*where, "parameter"), f"is 'rate', which the shape of {declared.name!r} overrides; expected another"
    if sweep.parameter == "slice_seconds" and declared.is_episode:
        yield (*where, "parameter"), f"is 'slice_seconds', but {declared.name!r} is an episode; expected another"
    if sweep.metric:
        yield from _of_metric(sweep.metric, declared, where)


def _factors(study: Study) -> Iterator[Problem]:
    """The optimizations that a design takes apart."""
    design, known = study.design, study.optimizations
    if design.kind in ("ablation", "phases", "factorial") and len(known) < 2:
        yield ("design", "kind"), f"is {design.kind!r} of one switch; expected on-off, or more of [[switch]]"
    if design.kind == "factorial" and len(known) > arms.MOST_FACTORS:
        found = f"is 'factorial' of {len(known)} switches"
        yield ("design", "kind"), f"{found}; expected at most {arms.MOST_FACTORS} of them, or ablation"
    added = [name for phase in design.phases for name in phase]
    if unknown := [name for name in added if name not in known]:
        yield ("design", "phases"), f"names {unknown[0]!r}; expected any of: {', '.join(known)}"
    elif len(set(added)) < len(added):
        yield ("design", "phases"), "adds one twice; expected each optimization once"
    if design.phases and not all(design.phases):
        yield ("design", "phases"), "has one that adds nothing; expected names in each"


def _unknown_arms(study: Study, names: Sequence[str], where: Where) -> Iterator[Problem]:
    for name in names:
        try:
            arms.resolve_arm(study, name)
        except StudyError as error:
            yield where, str(error)


def _of_metric(name: str, played: Workload | None, where: Where) -> Iterator[Problem]:
    if name not in METRICS:
        yield (*where, "metric"), f"is {name!r}; expected one of: {', '.join(METRICS)}"
    elif played is not None and (lacks := _lacks(METRICS[name], played)):
        yield (*where, "metric"), f"is {name!r}, which {played.name!r} does not tell; expected {lacks}"


def _lacks(of: Metric, workload: Workload) -> str:
    """What the workload would need to tell this metric; empty when it does."""
    if of.after_work:
        return ""
    if workload.is_episode:
        return "" if {"episode", "reading"} & {*of.sources} else "a workload in slices"
    if "slice" in of.sources or (workload.segment_seconds and "segment" in of.sources):
        return ""
    return "segment_seconds or episode_seconds there" if "segment" in of.sources else "episode_seconds there"


def _expectations(study: Study) -> Iterator[Problem]:
    try:
        measured = arms.workloads(study)
    except StudyError:  # told by _design
        measured = study.workloads
    workloads = tuple(each.name for each in measured)
    for index, expectation in enumerate(study.expectations):
        where: Where = ("expectations", index)
        if [each.name for each in study.expectations].count(expectation.name) > 1:
            yield (*where, "name"), f"{expectation.name!r} is used twice; expected a name of its own"
        if expectation.workload not in workloads:
            yield (*where, "workload"), f"is {expectation.workload!r}; expected one of: {', '.join(workloads)}"
        played = next((each for each in measured if each.name == expectation.workload), None)
        yield from _of_metric(expectation.metric, played, where)
        yield from _unknown_arms(study, (expectation.arm,), (*where, "arm"))
        yield from _unknown_arms(study, expectation.against, (*where, "against"))
        if not expectation.against or expectation.arm in expectation.against:
            yield (*where, "against"), f"is {list(expectation.against)}; expected arms other than {expectation.arm!r}"
        bounds = {"at_most": expectation.at_most, "at_least": expectation.at_least}
        given = {field: bound for field, bound in bounds.items() if bound is not None}
        if len(given) != 1:
            yield (*where, "name"), f"{expectation.name!r} has {len(given)} bounds; expected at_most or at_least"
        for field, bound in given.items():
            if not 0 < bound < math.inf:
                yield (*where, field), f"is {bound}; expected a ratio > 0"
