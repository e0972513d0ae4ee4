"""A study file (TOML) into a `Study`. A mistake is one `StudyError`: file, line, key, what was expected."""

from __future__ import annotations

import math
import os
import tomllib
from functools import partial
from pathlib import Path
from typing import get_args

import msgspec
from msgspec.structs import replace

from harness.errors import StudyError, UsageError
from harness.plan.arms import cell_name
from harness.study import place
from harness.study.check import problems
from harness.study.depth import at as at_depth
from harness.study.place import SINGULAR
from harness.study.records import DesignKind, Study

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "scenarios" / "studies"


def find(name: str) -> Path:
    """The study file that `name` (a bundled study or a path) means. Raises `StudyError` listing what exists."""
    for path in (Path(name), STUDIES / f"{name}.toml"):
        if os.path.isfile(path):  # false for what may not be looked at, where `Path.is_file` raises
            return path
    known = ", ".join(sorted(path.stem for path in STUDIES.glob("*.toml")))
    raise StudyError(f"no study {name!r}; expected a study file or one of: {known}")


def load(path: Path, depth: str | None = None) -> Study:
    """The validated study in `path`, at one of its depths if asked. Raises `StudyError`, `UsageError` for no depth."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{path}:{place.syntax(text, error)}") from error
    for plural, singular in SINGULAR.items():
        if plural in tables:
            raise StudyError(f"{path}:{place.line(text, (plural,))}: {plural}: expected [[{singular}]] tables")
        if singular in tables:
            tables[plural] = tables.pop(singular)
    for each in dict.fromkeys((None, depth)):  # as it stands first, so that a depth changes what is well-formed
        try:
            at_each = at_depth(tables, each)
        except StudyError as error:
            raise StudyError(f"{path}: {error}") from error
        try:
            study = msgspec.convert(at_each, Study)
        except msgspec.ValidationError as error:
            where, message = place.explained(error)
            raise StudyError(f"{path}:{place.place(text, where)}: {message}") from error
    study = _by_one_name(study)
    for where, message in problems(study, partial(resolve, directory=path.parent)):
        raise StudyError(f"{path}:{place.place(text, where)}: {message}")
    return study


def _by_one_name(study: Study) -> Study:
    """`study` with `all` for the name of its only switch: by two names that arm would be measured twice."""
    if len(study.switches) != 1:
        return study
    (only,) = study.optimizations

    def usual(*names: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys("all" if name == only else name for name in names))

    design = study.design
    (baseline,), (treatment,) = usual(design.baseline), usual(design.treatment)
    return replace(
        study,
        design=replace(design, baseline=baseline, treatment=treatment, controls=usual(*design.controls)),
        workloads=tuple(replace(each, arms=usual(*each.arms)) for each in study.workloads),
        expectations=tuple(
            replace(each, arm=usual(each.arm)[0], against=usual(*each.against)) for each in study.expectations
        ),
    )


def adjust(
    study: Study,
    *,
    on: tuple[str, ...] = (),
    off: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    design: str | None = None,
    seconds: float | None = None,
    seed: int | None = None,
) -> Study:
    """`study` with what the command line changes. Switches choose the treatment; expectations follow it.

    `on` and `only` mean the same, exactly these; `off` all but these. `all` and `none` are understood. Raises
    `UsageError` for an unknown optimization, two of the three, or a value that makes no sense, by itself or in this
    study.
    """
    known = study.optimizations
    wanted = _switched(_words(on, known), _words(off, known), _words(only, known), known)
    if wanted is not None:
        study = _treat(study, cell_name(wanted, known))
    if design is not None:
        if design not in get_args(DesignKind):
            raise UsageError(f"--design {design!r}; expected one of: {', '.join(get_args(DesignKind))}")
        sweep = study.design.sweep if design == "sweep" else None
        study = replace(study, design=replace(study.design, kind=design, sweep=sweep))
    if seconds is not None:
        if not 0 < seconds < math.inf:
            raise UsageError(f"--seconds {seconds:g}; expected a number of seconds > 0")
        # whoever asks for a time means it: the planner refuses one that can decide nothing, min_bursts would exceed it
        study = replace(study, budget=replace(study.budget, seconds=seconds, min_bursts=1))
    if seed is not None:
        if seed < 0:
            raise UsageError(f"--seed {seed}; expected a whole number >= 0")
        study = replace(study, seed=seed)
    for where, message in problems(study, Path):  # its files were looked for when it was read
        raise UsageError(f"with these flags {'.'.join(map(str, where))} {message}")
    return study


def _words(names: tuple[str, ...], known: tuple[str, ...]) -> set[str] | None:
    """The optimizations that words of the command line mean; None when there are none."""
    found: set[str] = set()
    for name in names:
        if name not in (*known, "all", "none"):
            raise UsageError(f"unknown optimization {name!r}; expected one of: {', '.join(known)}, all, none")
        found |= set(known) if name == "all" else {name} - {"none"}
    return found if names else None


def _switched(
    on: set[str] | None, off: set[str] | None, only: set[str] | None, known: tuple[str, ...]
) -> set[str] | None:
    given = [name for name, names in (("--on", on), ("--off", off), ("--only", only)) if names is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} each say the whole treatment; expected one of them")
    if off is not None:
        return set(known) - off
    return on if on is not None else only


def _treat(study: Study, treatment: str) -> Study:
    design = study.design
    if treatment == design.baseline:
        raise UsageError(f"these switches make the treatment {treatment!r}, which is the baseline; expected another")
    expectations = tuple(
        replace(each, arm=treatment) if each.arm == design.treatment else each for each in study.expectations
    )
    return replace(study, design=replace(design, treatment=treatment), expectations=expectations)


def resolve(file: str, directory: Path) -> Path:
    """The Locust file `file` of a study: beside the study, or in this project. Raises `StudyError`."""
    for path in (directory / file, ROOT / file):
        if os.path.isfile(path):
            return path.resolve()
    raise StudyError(f"no Locust file {file!r} in {directory} or in the project")
