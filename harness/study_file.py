"""A study file (TOML) into a `Study`. A mistake is one `StudyError`: file, line, key, what was expected."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import msgspec
from msgspec.structs import replace

from harness.errors import StudyError
from harness.plan.arms import cell_name
from harness.study import OPTIMIZATIONS, DesignKind, Study

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ROOT / "scenarios" / "studies"
_TABLES = {"workload": "workloads", "expectation": "expectations", "arm": "arms"}
"""Arrays of tables are written in the singular, [[workload]], and held in the plural."""


def find(name: str) -> Path:
    """The study file that `name` (a bundled study or a path) means. Raises `StudyError` listing what exists."""
    for path in (Path(name), STUDIES / f"{name}.toml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in STUDIES.glob("*.toml")))
    raise StudyError(f"no study {name!r}; expected a study file or one of: {known}")


def load(path: Path) -> Study:
    """The validated study in `path`. Raises `StudyError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read: {error}") from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{path}: not TOML: {error}") from error
    for singular, plural in _TABLES.items():
        if plural in tables:
            raise StudyError(f"{path}:{_line(text, [plural])}: {plural}: expected [[{singular}]] tables")
        if singular in tables:
            tables[plural] = tables.pop(singular)
    try:
        study = msgspec.convert(tables, Study)
    except msgspec.ValidationError as error:
        raise _explain(path, text, error) from error
    _check(path, text, study)
    return study


def adjust(
    study: Study,
    *,
    on: tuple[str, ...] = (),
    off: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    design: str = "",
    seconds: float = 0.0,
    seed: int = -1,
) -> Study:
    """`study` with what the command line changes. Switches choose the treatment; expectations follow it.

    Raises `StudyError` for an unknown optimization, a contradiction, or a value that makes no sense.
    """
    for name in (*on, *off, *only):
        if name not in OPTIMIZATIONS:
            raise StudyError(f"unknown optimization {name!r}; expected one of: {', '.join(OPTIMIZATIONS)}")
    if only and (on or off):
        raise StudyError("--only stands alone; expected it without --on and --off")
    if both := set(on) & set(off):
        raise StudyError(f"{', '.join(sorted(both))} both on and off; expected one of the two")
    if only or on or off:
        enabled = set(only or on) if (only or on) else set(OPTIMIZATIONS) - set(off)
        study = _treat(study, cell_name(enabled))
    if design:
        if design not in get_args(DesignKind):
            raise StudyError(f"unknown design {design!r}; expected one of: {', '.join(get_args(DesignKind))}")
        study = replace(study, design=replace(study.design, kind=design))
    if seconds < 0 or not math.isfinite(seconds):
        raise StudyError(f"--seconds is {seconds}; expected a number > 0")
    if seconds:
        study = replace(study, budget=replace(study.budget, seconds=seconds))
    return replace(study, seed=seed) if seed >= 0 else study


def _treat(study: Study, treatment: str) -> Study:
    before = study.design.treatment
    expectations = tuple(replace(each, arm=treatment) if each.arm == before else each for each in study.expectations)
    return replace(study, design=replace(study.design, treatment=treatment), expectations=expectations)


def resolve(file: str, directory: Path) -> Path:
    """The Locust file `file` of a study: beside the study, or in this project. Raises `StudyError`."""
    for path in (directory / file, ROOT / file):
        if path.is_file():
            return path.resolve()
    raise StudyError(f"no Locust file {file!r} in {directory} or in the project")


def _check(path: Path, text: str, study: Study) -> None:
    """What types cannot say: names that must exist, numbers that must be positive."""

    def wrong(where: list[str | int], message: str) -> StudyError:
        return StudyError(f"{path}:{_line(text, where)}: {_dotted(where)}: {message}")

    if not study.workloads:
        raise wrong(["workloads"], "expected at least one [[workload]]")
    names = [workload.name for workload in study.workloads]
    for index, workload in enumerate(study.workloads):
        here: list[str | int] = ["workloads", index]
        if names.count(workload.name) > 1:
            raise wrong([*here, "name"], f"{workload.name!r} is used twice; expected a name of its own")
        if workload.users < 1:
            raise wrong([*here, "users"], f"is {workload.users}; expected a whole number >= 1")
        if not workload.slice_seconds >= 0.15:
            raise wrong([*here, "slice_seconds"], f"is {workload.slice_seconds}; expected at least 0.15 s")
        if workload.rate < 0:
            raise wrong([*here, "rate"], f"is {workload.rate}; expected requests per second >= 0")
        try:
            resolve(workload.file, path.parent)
        except StudyError as error:
            raise wrong([*here, "file"], str(error)) from error
    for index, expectation in enumerate(study.expectations):
        here = ["expectations", index]
        if expectation.workload not in names:
            raise wrong([*here, "workload"], f"is {expectation.workload!r}; expected one of: {', '.join(names)}")
        if (expectation.at_most is None) == (expectation.at_least is None):
            raise wrong([*here, "name"], f"{expectation.name!r} needs exactly one of at_most, at_least")
        if not (expectation.at_most or expectation.at_least or 0) > 0:
            raise wrong([*here, "name"], f"{expectation.name!r}: expected a ratio > 0")
    if not 0.5 <= study.confidence < 1:
        raise wrong(["confidence"], f"is {study.confidence}; expected 0.5 <= confidence < 1")
    for name in ("seconds", "blocks", "max_bursts"):
        if not getattr(study.budget, name) > 0:
            raise wrong(["budget", name], f"is {getattr(study.budget, name)}; expected a number > 0")


def _explain(path: Path, text: str, error: msgspec.ValidationError) -> StudyError:
    message, _, where = str(error).partition(" - at `")
    steps: list[str | int] = [
        int(step[1:-1]) if step.startswith("[") else step.strip(".")
        for step in re.findall(r"\[\d+\]|\.?[\w-]+", where.rstrip("`").removeprefix("$"))
    ]
    if unknown := re.search(r"unknown field `([^`]+)`", message):
        steps.append(unknown[1])
        message = "unknown key"
    return StudyError(f"{path}:{_line(text, steps)}: {_dotted(steps)}: {message[:1].lower()}{message[1:]}")


def _dotted(steps: list[str | int]) -> str:
    singular = {plural: name for name, plural in _TABLES.items()}
    out = ""
    for step in steps:
        out += f"[{step + 1}]" if isinstance(step, int) else f".{singular.get(step, step)}"
    return out.lstrip(".") or "study"


def _line(text: str, steps: list[Any]) -> int:
    """Line number of the key that `steps` lead to; of its table when the key itself is missing."""
    singular = {plural: name for name, plural in _TABLES.items()}
    lines = text.splitlines()
    start = 0
    for position, step in enumerate(steps):
        if isinstance(step, int):
            continue
        name = re.escape(singular.get(step, step))
        nth = steps[position + 1] if position + 1 < len(steps) and isinstance(steps[position + 1], int) else 0
        pattern = re.compile(rf"\s*(\[+\s*([\w.-]+\.)?{name}\s*\]+|{name}\s*[=.])")
        found = [number for number in range(start, len(lines)) if pattern.match(lines[number])]
        if not found:
            break
        start = found[min(nth, len(found) - 1)]
    return start + 1
