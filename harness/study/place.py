"""Where in a study file a mistake is: the line of a key, the key as a person writes it, what may stand there."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

import msgspec

from harness.study.records import Study

SINGULAR: Mapping[str, str] = {
    "workloads": "workload",
    "expectations": "expectation",
    "arms": "arm",
    "switches": "switch",
}
"""Arrays of tables are written in the singular, [[workload]], and held in the plural."""
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text in quotes",
    "bool": "true or false",
    "array": "an array",
    "object": "a table",
    "null": "nothing",
}
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
    where: Where = tuple(
        int(step[1:-1]) if step.startswith("[") else step
        for step in re.findall(r"\[\d+\]|[\w-]+", at.rstrip("`").replace("[...]", ""))
    )
    if unknown := re.search(r"unknown field `([^`]+)`", message):
        return (*where, unknown[1]), f"unknown key; expected one of: {', '.join(_keys(where))}"
    if missing := re.search(r"missing required field `([^`]+)`", message):
        name = missing[1]
        return where, f"expected at least one [[{SINGULAR[name]}]]" if name in SINGULAR else f"expected a key {name!r}"
    for jargon, words in _TYPES.items():
        message = message.replace(f"`{jargon}`", words)
    return where, f"{message[:1].lower()}{message[1:]}"


def _keys(where: Where) -> list[str]:
    """The keys that the table at `where` may have."""
    kind: Any = Study
    for step in where:
        if isinstance(step, str):
            hint = get_type_hints(kind)[step]
            kind = next(each for each in (hint, *get_args(hint)) if hasattr(each, "__struct_fields__"))
    return [written(kind, field) for field in kind.__struct_fields__]


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
