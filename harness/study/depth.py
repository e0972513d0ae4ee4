"""One study at several depths: `[depth.NAME]` tables say what differs from the study as it stands. Pure.

`keep` names the workloads that are measured at that depth; expectations on others are left out. Tables are merged into
the study's, `workload.NAME` (`expectation.NAME`, `arm.NAME`, `switch.NAME`) into the one of that name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.errors import StudyError, UsageError
from harness.study.place import SINGULAR

Tables = dict[str, Any]


def at(tables: Tables, depth: str | None) -> Tables:
    """The tables of a well-formed study at `depth` (None: as it stands), without its depths.

    Raises `UsageError` for a depth it does not have, `StudyError` for one that names what is not there.
    """
    depths = tables.get("depth", {})
    if not isinstance(depths, dict):
        raise StudyError("depth: expected [depth.NAME] tables")
    tables = {name: value for name, value in tables.items() if name != "depth"}
    if depth is None:
        return tables
    if depth not in depths:
        known = ", ".join(depths) or "none"
        raise UsageError(f"this study has no depth {depth!r}; it has: {known}")
    if not isinstance(depths[depth], dict):
        raise StudyError(f"depth.{depth}: expected a [depth.{depth}] table")
    changes = dict(depths[depth])
    tables["name"] = f"{tables['name']}-{depth}"
    if "keep" in changes:
        tables |= _kept(tables, changes.pop("keep"), depth)
    for plural, singular in SINGULAR.items():
        single = changes.pop(singular, {})
        if not (isinstance(single, dict) and all(isinstance(each, dict) for each in single.values())):
            raise StudyError(f"depth.{depth}.{singular}: expected [depth.{depth}.{singular}.NAME] tables")
        _known(tables, plural, single, depth)
        if single:
            tables[plural] = [_merged(each, single.get(each["name"], {})) for each in tables[plural]]
    return _merged(tables, changes)


def _kept(tables: Tables, keep: Any, depth: str) -> Tables:
    """The workloads that `keep` names, and the expectations but those on others or on what a sweep makes of them."""
    if not isinstance(keep, list):
        raise StudyError(f"depth.{depth}.keep: expected a list of text, the names of workloads")
    _known(tables, "workloads", keep, depth)
    others = [each["name"] for each in tables["workloads"] if each["name"] not in keep]
    return {
        "workloads": [each for each in tables["workloads"] if each["name"] in keep],
        "expectations": [
            each
            for each in tables.get("expectations", ())
            if not any(each["workload"] == name or each["workload"].startswith(f"{name}[") for name in others)
        ],
    }


def _known(tables: Tables, plural: str, names: Iterable[Any], depth: str) -> None:
    there = [each["name"] for each in tables.get(plural, ())]
    for name in names:
        if name not in there:
            known = ", ".join(there) or "none, as there is none"
            raise StudyError(f"depth.{depth} names {SINGULAR[plural]} {name!r}; expected one of: {known}")


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tables:
    """`above` over `below`, tables merged into tables."""
    both = dict(below)
    for name, value in above.items():
        under = both.get(name)
        both[name] = _merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return both
