"""From a study's design to its arms, to who is compared with whom, and to the sets of arms that live side by
side.

Two arms can be compared only if they share a burst, so each comparison is packed into a set of at most
MAX_ARMS arms whose processes are started together; the sets then take turns. An episode is a burst of its own,
so each episode workload has sets of its own. A factorial design compares each cell with its complement
(fold-over), which cancels every two-way interaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product
from math import isfinite, prod
from typing import Literal

import msgspec

from harness.errors import StudyError
from harness.study.records import Arm, Study, Sweep, Workload

MAX_ARMS = 4
"arms alive at once: each has two processes, and the pairs of a block must stay adjacent in time"
CLOSE_EVERY = 4
CONTROLS = ("first-day-reuse",)
PHASES = (("pooling", "cleanup"), ("rate_limit", "circuit_breaker"), ("buffer_pool",), ("metrics",))
"the plan's order of work"
MOST_FACTORS = 6
"of a factorial design: 64 cells"
_COUNTS = ("users", "tasks")
"fields of a workload that a sweep may set and that are whole numbers"
Role = Literal["treatment", "control", "a/a", "single", "without", "step", "other"]
"why two arms are compared"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Arm `b` is compared with arm `a`."""

    a: str
    b: str
    role: Role


@dataclass(frozen=True, slots=True)
class BurstKind:
    """Arms that live together in a burst; `playing` are the workloads with those of the arms that play each."""

    arms: tuple[str, ...]
    playing: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything a design implies. `arms` in display order, `hidden` names those not shown (the A/A twin).

    `on` are the comparisons of each workload. `sets` are the arms of one burst of slices each; `foldover` the
    pairs (cell, complement) of a factorial design, which live in the sets from number `foldover_from` on. `rounds`
    take turns: the bursts of each, which are each set and each set of each episode workload; those that answer no
    expectation in one round of `budget.table_every`.
    """

    optimizations: tuple[str, ...]
    arms: tuple[Arm, ...]
    hidden: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    on: Mapping[str, tuple[Comparison, ...]]
    sets: tuple[tuple[str, ...], ...]
    rounds: tuple[tuple[BurstKind, ...], ...]
    foldover: tuple[tuple[str, str], ...] = ()
    foldover_from: int = 0

    @property
    def kinds(self) -> tuple[BurstKind, ...]:
        """Of the bursts of all rounds in turn, after which they begin anew."""
        return tuple(each for one in self.rounds for each in one)


def hidden_name(baseline: str) -> str:
    """Name of the hidden twin of the baseline."""
    return f"{baseline}-again"


def cell_name(enabled: Iterable[str], optimizations: Sequence[str]) -> str:
    """Name of the arm with exactly these of the optimizations on: none, all, a single name, all-x, or names joined
    by +.
    """
    on = [name for name in optimizations if name in set(enabled)]
    if len(on) == len(optimizations):
        return "all"
    if len(on) > 1 and len(on) == len(optimizations) - 1:
        return "all-" + next(name for name in optimizations if name not in on)
    return "+".join(on) or "none"


def parse_cell(name: str, optimizations: Sequence[str]) -> tuple[str, ...] | None:
    """The optimizations that an arm of this name has on (the inverse of `cell_name`), or None for another
    name.
    """
    if name == "none":
        return ()
    if name == "all":
        return tuple(optimizations)
    if name.startswith("all-") and name[4:] in optimizations:
        return tuple(each for each in optimizations if each != name[4:])
    parts = name.split("+")
    if all(part in optimizations for part in parts):
        return tuple(each for each in optimizations if each in parts)
    return None


def phases(study: Study) -> tuple[tuple[str, ...], ...]:
    """What a phases design adds step by step."""
    if study.design.phases:
        return study.design.phases
    return tuple((name,) for name in study.optimizations) if study.switches else PHASES


def resolve_arm(study: Study, name: str) -> Arm:
    """The arm of that name: declared in the study, a set of optimizations, or a control; else StudyError."""
    for arm in study.arms:
        if arm.name == name:
            return arm
    cell = parse_cell(name, study.optimizations)
    if cell is not None:
        usual = cell_name(cell, study.optimizations)
        if name != usual:  # by two names an arm would be measured twice
            raise StudyError(f"{name!r} is the arm {usual!r}; expected that name")
        return Arm(name=name, optimizations=cell)
    controls = () if study.switches else CONTROLS
    if name in controls:
        return Arm(name=name, optimizations=(name,))
    known = ", ".join((*(arm.name for arm in study.arms), "none", "all", *study.optimizations, *controls))
    raise StudyError(f"unknown arm {name!r}; expected one of {known}, or optimizations joined by +")


def layout(study: Study) -> Layout:
    """Arms, comparisons and process sets of the study's design."""
    comparisons = _with_expected(study, tuple(_comparisons(study)))
    folds = foldover_pairs(study.optimizations, study.design.fractions) if study.design.kind == "factorial" else ()
    foldover = tuple(folds)
    on = {each.name: tuple(_on(study, each, comparisons)) for each in workloads(study)}
    sliced = [each for each in workloads(study) if not each.is_episode]
    in_sets = [each for each in comparisons if any(each in on[one.name] for one in sliced)]
    sets = pack(_pairs(_asked_first(study, sliced, in_sets)))
    everywhere = [each.name for each in sliced if not each.arms]
    folded = tuple(_pairs_of_pairs(foldover)) if everywhere else ()
    hidden = hidden_name(study.design.baseline)
    names = dict.fromkeys(name for each in comparisons for name in (each.a, each.b))
    names.update(dict.fromkeys(name for pair in foldover for name in pair))
    if study.design.hidden:
        names.pop(hidden, None)
    treatment = study.design.treatment
    shown = [*(name for name in names if name != treatment), treatment]
    arms = [resolve_arm(study, name) for name in shown]
    if study.design.hidden:
        arms.append(msgspec.structs.replace(resolve_arm(study, study.design.baseline), name=hidden))
    kinds = (
        *_interleaved([_of_slices(arms, sliced, on) for arms in sets], folded, everywhere),
        *(
            BurstKind(arms, ((each.name, arms),))
            for each in workloads(study)
            if each.is_episode
            for arms in pack(_pairs(on[each.name]))
        ),
    )
    return Layout(
        optimizations=study.optimizations,
        arms=tuple(arms),
        hidden=(hidden,) if study.design.hidden else (),
        comparisons=comparisons,
        on=on,
        sets=(*sets, *folded),
        rounds=tuple(_rounds(study, kinds)),
        foldover=foldover,
        foldover_from=len(sets),
    )


def _interleaved(
    own: Sequence[BurstKind], folded: Sequence[tuple[str, ...]], everywhere: Sequence[str]
) -> Iterator[BurstKind]:
    """The comparisons' own sets of a round; before every CLOSE_EVERY folded ones again, so that the whole, measured
    separately, is known as well as the sum of its parts. On folded ones the workloads that name no arms are played.
    """
    if not folded:
        yield from own
    for index, arms in enumerate(folded):
        if index % CLOSE_EVERY == 0:
            yield from own
        yield BurstKind(arms, tuple((name, arms) for name in everywhere))


def _rounds(study: Study, kinds: Sequence[BurstKind]) -> Iterator[tuple[BurstKind, ...]]:
    """Every kind that answers an expectation in each round, the others dealt out over `budget.table_every` rounds."""
    asked = {name: expected_on(study, name) for name in {each.workload for each in study.expectations}}
    answers = [any(_meets(arms, asked.get(name, ())) for name, arms in each.playing) for each in kinds]
    others = [index for index, answering in enumerate(answers) if not answering]
    turns = min(study.budget.table_every, max(1, len(others))) if any(answers) else 1
    for turn in range(turns):
        dealt = others[turn::turns]
        yield tuple(each for index, each in enumerate(kinds) if answers[index] or index in dealt)


def _meets(arms: Sequence[str], pairs: Iterable[tuple[str, str]]) -> bool:
    return any(set(pair) <= set(arms) for pair in pairs)


def _asked_first(study: Study, sliced: Sequence[Workload], comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those of the whole, then what expectations ask, then what only fills the table: so that sets of the last kind
    hold no question.
    """
    asked = {pair for each in sliced for pair in expected_on(study, each.name)}

    def rank(each: Comparison) -> int:
        if each.role in ("treatment", "a/a", "control"):
            return 0
        return 1 if (each.a, each.b) in asked else 2

    return sorted(comparisons, key=rank)


def expected_on(study: Study, workload: str) -> set[tuple[str, str]]:
    """The pairs (against, arm) that expectations compare on a workload."""
    return {(against, each.arm) for each in study.expectations if each.workload == workload for against in each.against}


def _on(study: Study, workload: Workload, comparisons: Sequence[Comparison]) -> Iterator[Comparison]:
    """Those that `workload` is measured for: the design's, as far as it admits their arms, and what is expected
    on it.
    """
    expected = expected_on(study, workload.name)
    for each in comparisons:
        admitted = not workload.arms or {each.a, each.b} <= set(workload.arms)
        if (each.a, each.b) in expected or (admitted and each.role != "other"):
            yield each


def _pairs(comparisons: Iterable[Comparison]) -> Iterator[tuple[str, str]]:
    return ((each.a, each.b) for each in comparisons)


def _of_slices(
    arms: tuple[str, ...], sliced: Sequence[Workload], on: Mapping[str, tuple[Comparison, ...]]
) -> BurstKind:
    """A burst of slices: on each workload the arms that something there is compared with."""
    playing = []
    for workload in sliced:
        needed = {name for pair in _pairs(on[workload.name]) if set(pair) <= set(arms) for name in pair}
        if needed:
            playing.append((workload.name, tuple(name for name in arms if name in needed)))
    return BurstKind(arms, tuple(playing))


def _comparisons(study: Study) -> Iterator[Comparison]:
    design = study.design
    yield Comparison(design.baseline, design.treatment, "treatment")
    if design.hidden:
        yield Comparison(design.baseline, hidden_name(design.baseline), "a/a")
    for control in design.controls:
        yield Comparison(control, design.treatment, "control")
    if design.kind == "ablation":
        for flag in study.optimizations:
            yield Comparison("all", cell_name({*study.optimizations} - {flag}, study.optimizations), "without")
        for flag in study.optimizations:
            yield Comparison("none", flag, "single")
    elif design.kind == "phases":
        yield from (Comparison(before, after, "step") for _, before, after in steps(study))


def steps(study: Study) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(what is added, the arm before, the arm after) of each phase."""
    enabled: set[str] = set()
    for added in phases(study):
        before = cell_name(enabled, study.optimizations)
        enabled |= set(added)
        yield added, before, cell_name(enabled, study.optimizations)


def _with_expected(study: Study, own: tuple[Comparison, ...]) -> tuple[Comparison, ...]:
    """The design's own comparisons, and what the expectations compare beyond them."""
    pairs = {(each.a, each.b): each for each in reversed(own)}
    for expectation in study.expectations:
        for against in expectation.against:
            pairs.setdefault((against, expectation.arm), Comparison(against, expectation.arm, "other"))
    return (*own, *(each for each in pairs.values() if each.role == "other"))


def pack(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """Sets of at most MAX_ARMS arms so that each pair shares at least one set; greedy, in the order given."""
    sets: list[dict[str, None]] = []
    for pair in pairs:
        home = next((each for each in sets if set(pair) <= each.keys()), None) or next(
            (each for each in sets if each.keys() & set(pair) and len(each.keys() | set(pair)) <= MAX_ARMS),
            None,
        )
        if home is None:
            home = {}
            sets.append(home)
        home.update(dict.fromkeys(pair))
    return tuple(tuple(each) for each in sets)


def fraction(six: Sequence[str], e_sign: int, f_sign: int) -> tuple[frozenset[str], ...]:
    """The 16 cells of the fraction of 2^(6-2)_IV with generators e = e_sign * abc and f = f_sign * bcd."""
    cells = []
    for a, b, c, d in product((-1, 1), repeat=4):
        levels = (a, b, c, d, e_sign * prod((a, b, c)), f_sign * prod((b, c, d)))
        cells.append(frozenset(name for name, level in zip(six, levels, strict=True) if level > 0))
    return tuple(cells)


def foldover_pairs(optimizations: Sequence[str], fractions: int) -> Iterator[tuple[str, str]]:
    """(cell, complement) names of a factorial design: of six optimizations the first `fractions` (1-4) quarters, 8
    pairs each; of fewer, all cells.
    """
    signs = ((1, 1), (-1, -1), (1, -1), (-1, 1))[:fractions]
    if len(optimizations) == MOST_FACTORS:
        cells = [cell for e_sign, f_sign in signs for cell in fraction(optimizations, e_sign, f_sign)]
    else:
        every = (combinations(optimizations, size) for size in range(len(optimizations) + 1))
        cells = [frozenset(cell) for cell in chain.from_iterable(every)]
    for cell in cells:
        if optimizations[0] not in cell:
            yield cell_name(cell, optimizations), cell_name({*optimizations} - cell, optimizations)


def _pairs_of_pairs(pairs: tuple[tuple[str, str], ...]) -> Iterator[tuple[str, ...]]:
    for first in range(0, len(pairs), 2):
        yield tuple(name for pair in pairs[first : first + 2] for name in pair)


def workloads(study: Study) -> tuple[Workload, ...]:
    """The study's workloads; the one a sweep names becomes one variant per value: `name[parameter=value]`.

    Raises `StudyError` for a sweep without sense, or with values that its parameter cannot have.
    """
    sweep = study.design.sweep
    if study.design.kind != "sweep":
        return study.workloads
    if sweep is None or not sweep.values:
        raise StudyError("a sweep needs [design.sweep] with workload, parameter and values")
    if sweep.workload not in {each.name for each in study.workloads}:
        raise StudyError(f"sweep over unknown workload {sweep.workload!r}")
    swept: list[Workload] = []
    for each in study.workloads:
        swept += [_variant(each, sweep, value) for value in sweep.values] if each.name == sweep.workload else [each]
    return tuple(swept)


def blocks_of(study: Study, workload: Workload) -> int:
    """How many adjacent groups of slices a burst has of `workload`."""
    return workload.blocks or study.budget.blocks


def declared_name(study: Study, workload: Workload) -> str:
    """What the study file calls a workload of the run: a variant of a sweep goes by the name of what it varies."""
    sweep = study.design.sweep
    return workload.name if workload in study.workloads or sweep is None else sweep.workload


def variant_name(sweep: Sweep, value: float | str) -> str:
    """Name of the swept workload at one value."""
    return f"{sweep.workload}[{sweep.parameter}={_text(value)}]"


def _text(value: float | str) -> str:
    """As a study file says it: a whole number without a point, for files that read it with `int`."""
    if isinstance(value, str):
        return value
    return str(int(value)) if float(value).is_integer() else repr(value)


def _variant(workload: Workload, sweep: Sweep, value: float | str) -> Workload:
    name = variant_name(sweep, value)
    if not isinstance(value, str) and not isfinite(value):
        raise StudyError(f"sweep over {sweep.parameter} needs finite numbers, not {value}")
    if sweep.parameter not in (*_COUNTS, "rate", "slice_seconds"):
        env = {**workload.env, sweep.parameter: _text(value)}
        return msgspec.structs.replace(workload, name=name, env=env)
    if isinstance(value, str):
        raise StudyError(f"sweep over {sweep.parameter} needs numbers, not {value!r}")
    if sweep.parameter in _COUNTS and not float(value).is_integer():
        raise StudyError(f"sweep over {sweep.parameter} needs whole numbers, not {value}")
    typed: float | int = int(value) if sweep.parameter in _COUNTS else value
    return msgspec.structs.replace(workload, name=name, **{sweep.parameter: typed})
