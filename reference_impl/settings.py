"""Checks shared by every settings record: a bad value is refused at construction, by name."""

from __future__ import annotations

import math

INT_MAX = 2**31 - 1
"the most that the system and libraries in C take of what they count"


class SettingsError(ValueError):
    """A setting outside what is allowed; the message names setting, value and the allowed range."""


def positive(owner: str, name: str, value: float) -> None:
    """Refuse anything but a finite number > 0."""
    if not _is_number(value) or not math.isfinite(value) or value <= 0:
        raise SettingsError(f"{owner}.{name} is {value!r}; expected a finite number > 0")


def not_negative(owner: str, name: str, value: float) -> None:
    """Refuse anything but a finite number >= 0."""
    if not _is_number(value) or not math.isfinite(value) or value < 0:
        raise SettingsError(f"{owner}.{name} is {value!r}; expected a finite number >= 0")


def count(owner: str, name: str, value: int, *, least: int = 1, most: float = math.inf) -> None:
    """Refuse anything but an int >= `least` and <= `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        bounds = f">= {least}" if most == math.inf else f"from {least} to {most}"
        raise SettingsError(f"{owner}.{name} is {value!r}; expected a whole number {bounds}")


def ordered(owner: str, smaller: str, low: float, larger: str, high: float) -> None:
    """Refuse `low` > `high`: two settings that contradict each other."""
    if low > high:
        raise SettingsError(
            f"{owner}.{smaller} is {low!r}, more than {owner}.{larger} = {high!r}; expected at most that"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
