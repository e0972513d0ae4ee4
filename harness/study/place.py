"""Where in a study file a mistake is: the line of a key, the key as a person writes it, what may stand there."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from harness.study.records import Study

SINGULAR: Mapping[str, str] = {
    "workloads": "workload",
    "expectations": "expectation",
    "arms": "arm",
    "switches": "switch",
}
"""Arrays of tables are written in the singular, [[workload]], and held in the plural."""
_WORDS: Mapping[object, str] = {str: "text", int: "whole number", float: "number", bool: "true or false"}
_FOUND = {
    "int": "a whole number",
    "float": "a number",
    "str": "text in quotes",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
"""What msgspec calls what stands in a file, and what that is."""
Where = tuple[str | int, ...]
"""Keys and places in arrays that lead to a value, such as ("workloads", 0, "users")."""


def place(text: str, where: Where) -> str:
    """LINE: KEY of the value that `where` leads to, such as `12: workload[1].users`."""
    first = tuple(SINGULAR.get(str(step), step) for step in where[:1])
    dotted = "".join(f"[{step + 1}]" if isinstance(step, int) else f".{step}" for step in (*first, *where[1:]))
    return f"{line(text, where)}: {dotted.lstrip('.') or 'study'}"


def syntax(text: str, error: tomllib.TOMLDecodeError) -> str:
    """LINE: what is wrong, for a file that is not TOML."""
    message, _, at = str(error).partition(" (at ")
    found = re.match(r"line (\d+)", at)
    number = found[1] if found else str(max(1, len(text.splitlines())))
    return f"{number}: not TOML: {message[:1].lower()}{message[1:]}"


def explained(error: msgspec.ValidationError) -> tuple[Where, str]:
    """Where a study breaks its types, and a sentence with what was expected."""
    message, _, at = str(error).partition(" - at `")
    path = re.findall(r"\[[\d.]+\]|[\w-]+", at)
    where: Where = tuple(int(step[1:-1]) if step.startswith("[") else step for step in path if step != "[...]")
    if unknown := re.search(r"unknown field `([^`]+)`", message):
        known = (written(_type_at(path), field) for field in _type_at(path).__struct_fields__)
        return (*where, unknown[1]), f"unknown key; expected one of: {', '.join(known)}"
    if missing := re.search(r"missing required field `([^`]+)`", message):
        name = missing[1]
        return where, f"expected at least one [[{SINGULAR[name]}]]" if name in SINGULAR else f"expected a key {name!r}"
    expected = type_words(_type_at(path))
    if expected == "tables":
        expected = f"[[{SINGULAR[path[-1]]}]] tables"
    elif expected.startswith(("whole number", "number", "list", "table")):
        expected = f"a {expected}"
    if path[-1:] == ["[...]"]:
        expected = f"{expected} in each of its keys"
    if choice := re.search(r"enum value (.*)", message):
        return where, f"is {choice[1]}; expected {expected}"
    if found := re.search(r"got `(\w+)`", message):
        return where, f"expected {expected}, got {_FOUND.get(found[1], f'a {found[1]}')}"
    return where, f"{message[:1].lower()}{message[1:]}".replace("`array`", "a list")


def _type_at(path: Sequence[str]) -> Any:
    """The type that a study has at a path: keys, [number] in a list, [...] in a table of any keys."""
    kind: Any = Study
    for step in path:
        if step.startswith("["):
            kind = get_args(kind)[-1 if step == "[...]" else 0]
        else:
            kind = get_type_hints(_not_none(kind))[step]
    return _not_none(kind)


def _not_none(kind: Any) -> Any:
    """The type of what is given, where nothing may be."""
    return get_args(kind)[0] if type(None) in get_args(kind) else kind


def type_words(kind: Any) -> str:
    """A type in a study as a person says it; tables have headings of their own."""
    kind = _not_none(kind)
    within = get_args(kind)
    if kind in _WORDS:
        return _WORDS[kind]
    if get_origin(kind) is Literal:
        return " or ".join(f'"{value}"' for value in within)
    if get_origin(kind) is tuple:
        return "tables" if hasattr(within[0], "__struct_fields__") else f"list of {type_words(within[0])}"
    return " or ".join(map(type_words, within)) if get_origin(kind) is UnionType else "table"


def written(record: type[msgspec.Struct], field: str) -> str:
    """How a person writes the key of a field: arrays of tables, which only the study itself has, in the singular."""
    return SINGULAR.get(field, field) if record is Study else field


def line(text: str, where: Where) -> int:
    """Line number of the key that `where` leads to; of its table when the key itself is missing."""
    lines = text.splitlines()
    first, end, found = 0, len(lines), 0
    for position, step in enumerate(where):
        if isinstance(step, int):
            continue
        name = "|".join(map(re.escape, dict.fromkeys((SINGULAR.get(step, step), step))))
        nth = next((each for each in where[position + 1 : position + 2] if isinstance(each, int)), 0)
        tables = _matching(lines, range(first, end), rf"\s*\[+\s*([\w.-]+\.)?(?:{name})\s*\]+")
        keys = _matching(lines, range(first, end), rf"\s*(?:{name})\s*[=.]")
        if tables and not (keys and keys[0] < tables[0]):
            found = tables[min(nth, len(tables) - 1)]
            first, end = found + 1, _end_of_table(lines, found, end)
        elif keys:
            found = first = keys[0]
        else:
            break
    return found + 1


def _matching(lines: Sequence[str], numbers: range, pattern: str) -> list[int]:
    return [number for number in numbers if re.match(pattern, lines[number])]


def _end_of_table(lines: Sequence[str], header: int, end: int) -> int:
    """Where the table that begins at `header` ends: at the next one that is not nested in it."""
    name = re.escape(lines[header].partition("#")[0].strip().strip("[] "))
    others = _matching(lines, range(header + 1, end), rf"\s*\[+\s*(?!{name}\.)[\w.\"-]+\s*\]+")
    return others[0] if others else end
