"""Seeded faults: what goes wrong, and at which event, decided before it happens.

Laws. (1) A decision is a pure function of the seed, the rule and the event's number, so both arms of a comparison
meet the same faults, in whatever order their connections come. (2) Faults are real: bytes are flipped, sockets
reset, CPU burnt; nothing sleeps in place of work. (3) Without rules nothing of this is loaded into a node's path:
the sessions that play faults are another class (`faulty.py`); a link's are played by `relay.py`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from reference_impl import settings as check
from reference_impl.settings import SettingsError

Player = Literal["node", "link"]
Event = Literal["connection", "message"]

KINDS: Mapping[str, tuple[Event, Event | None, tuple[str, ...], tuple[str, ...]]] = {
    # kind: what a node counts, what a link counts, the fields it needs one of, the fields it may have besides
    "refuse": ("connection", "connection", (), ()),
    "silent": ("connection", "connection", (), ()),
    "reset": ("message", "connection", (), ("at",)),
    "corrupt": ("message", "connection", (), ("at",)),
    "delay": ("message", "connection", ("seconds",), ()),
    "throttle": ("message", "connection", ("rate",), ()),
    "busy": ("message", None, ("seconds", "iterations"), ()),
    "crash": ("message", "connection", ("seconds",), ()),
}
TIMED = frozenset({"delay", "throttle", "crash"})
LINK_SPAN = 16 * 1024
_AMOUNTS = ("seconds", "iterations", "rate", "at")


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule of a script.

    kind: refuse (a connection), silent (accept and never say a word), reset (in the middle of an answer), corrupt (one
        byte of it), delay, throttle, busy, crash (every connection dies, nobody listens, and it comes back).
    share: of the events concerned, 0 to 1, which ones being the seed's choice. Default 1, all.
    first, count: the events concerned by number, from 0; count 0, the default, means all from `first` on. A node counts
        connections for refuse and silent, requests for the rest; a link counts connections.
    seconds: delay: added round trip; busy: CPU time per request; crash: time away.
    iterations: busy: the same as an exact amount of work, alike on every machine.
    rate: throttle: bytes per second towards the dialer.
    at: reset and corrupt: position of the byte in the answer, on a link in the stream towards the dialer; default -1
        lets the seed choose (on a link within the first 16 KiB).
    """

    kind: str
    share: float = 1.0
    first: int = 0
    count: int = 0
    seconds: float = 0.0
    iterations: int = 0
    rate: float = 0.0
    at: int = -1

    def __post_init__(self) -> None:
        owner = "fault"
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise SettingsError(f"{owner}.kind is {self.kind!r}; expected one of: {', '.join(KINDS)}")
        check.not_negative(owner, "share", self.share)
        if self.share > 1:
            raise SettingsError(f"{owner}.share is {self.share!r}; expected a number from 0 to 1")
        for name, least in (("first", 0), ("count", 0), ("at", -1)):
            check.count(owner, name, getattr(self, name), least=least)
        check.count(owner, "iterations", self.iterations, least=0, most=check.INT_MAX)
        check.not_negative(owner, "seconds", self.seconds)
        check.not_negative(owner, "rate", self.rate)
        self._check_amounts()

    def _check_amounts(self) -> None:
        _, _, needed, allowed = KINDS[self.kind]
        given = [name for name in _AMOUNTS if getattr(self, name) not in (0, -1) or (name == "at" and self.at == 0)]
        for name in given:
            if name not in needed + allowed:
                value = getattr(self, name)
                raise SettingsError(f"fault.{name} is {value!r}; {self.kind} has no such setting; expected it left out")
        if needed and sum(name in given for name in needed) != 1:
            values = ", ".join(f"fault.{name} is {getattr(self, name)!r}" for name in needed)
            raise SettingsError(f"{values}; expected {' or '.join(needed)} > 0 for {self.kind}")

    def concerns(self, number: int) -> bool:
        """Whether event `number` is in the rule's range."""
        return number >= self.first and (not self.count or number < self.first + self.count)


@dataclass(frozen=True, slots=True)
class Hit:
    """A fault that strikes; `where`, from 0 to 1, is the seed's choice of a position."""

    fault: Fault
    where: float

    def position(self, size: int) -> int:
        """The byte of `size` that it strikes."""
        return min(self.fault.at if self.fault.at >= 0 else int(self.where * size), max(size - 1, 0))


@dataclass(frozen=True, slots=True)
class Script:
    """A fault script. `seed`: any whole number, the same for the same faults. `rules`: tables of `Fault`'s fields.

    Raises `SettingsError` naming the rule, the setting, its value and what is allowed.
    """

    seed: int = 0
    rules: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise SettingsError(f"faults.seed is {self.seed!r}; expected a whole number")
        if not isinstance(self.rules, (list, tuple)):
            raise SettingsError(f"faults.rules is {self.rules!r}; expected a list of tables")
        object.__setattr__(self, "rules", tuple(_rule(number, rule) for number, rule in enumerate(self.rules)))

    def decide(self, player: Player, event: Event, number: int) -> tuple[Hit, ...]:
        """What strikes event `number` (from 0), in the order of the rules."""
        return tuple(
            Hit(rule, where)
            for index, rule in enumerate(self.rules)
            if KINDS[rule.kind][player == "link"] == event and rule.concerns(number)
            for chance, where in [_draws(self.seed, index, number)]
            if chance < rule.share
        )

    def check_for(self, player: Player) -> None:
        """Refuse rules that `player` cannot play."""
        for number, rule in enumerate(self.rules):
            if KINDS[rule.kind][player == "link"] is None:
                able = ", ".join(kind for kind, row in KINDS.items() if row[player == "link"])
                raise SettingsError(f"faults.rules[{number}].kind is {rule.kind!r}; a {player} plays: {able}")


def _rule(number: int, given: Fault | Mapping[str, Any]) -> Fault:
    if isinstance(given, Fault):
        return given
    known = [field.name for field in fields(Fault)]
    if not isinstance(given, Mapping) or "kind" not in given:
        raise SettingsError(f"faults.rules[{number}] is {given!r}; expected a table with a kind: {', '.join(KINDS)}")
    for name in given:
        if name not in known:
            raise SettingsError(f"unknown setting faults.rules[{number}].{name}; expected one of: {', '.join(known)}")
    try:
        return Fault(**given)
    except SettingsError as error:
        raise SettingsError(str(error).replace("fault.", f"faults.rules[{number}].")) from None


def _draws(seed: int, rule: int, number: int) -> tuple[float, float]:
    """Two independent numbers in [0, 1) that belong to this event of this rule."""
    digest = hashlib.blake2b(b"%d/%d/%d" % (seed, rule, number), digest_size=16).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53, (int.from_bytes(digest[8:], "big") >> 11) / 2**53


@dataclass(frozen=True, slots=True)
class Spoilt:
    """What becomes of an answer: `data` goes out after `seconds`, at `rate` bytes per second (0: at once), and with
    `reset` the connection ends right behind it.
    """

    data: bytes
    seconds: float
    rate: float
    reset: bool


def spoil(data: bytes, hits: tuple[Hit, ...]) -> Spoilt:
    """An answer's bytes under the faults that struck it. Pure."""
    changed = bytearray(data)
    stop, rate, seconds = len(data), 0.0, 0.0
    for hit in hits:
        kind, at = hit.fault.kind, hit.position(len(data))
        if kind == "corrupt" and data:
            changed[at] ^= 0xFF
        elif kind == "reset":
            stop = min(stop, at)
        elif kind == "delay":
            seconds += hit.fault.seconds
        elif kind == "throttle":
            rate = min(rate or hit.fault.rate, hit.fault.rate)
    return Spoilt(bytes(changed[:stop]), seconds, rate, any(hit.fault.kind == "reset" for hit in hits))


def burn(iterations: int) -> None:
    """Real work on the CPU: HMAC-SHA256, `iterations` times."""
    hashlib.pbkdf2_hmac("sha256", b"busy", b"", iterations)


def calibrate(clock: Callable[[], float] = time.thread_time, tries: int = 7, sample: int = 2000) -> float:
    """CPU seconds per iteration of `burn` on this machine: the best of `tries`, since noise only ever adds."""
    best = float("inf")
    for _ in range(tries):
        began = clock()
        burn(sample)
        best = min(best, clock() - began)
    return max(best / sample, 1e-9)
