"""Two programs without a study file: any Locust file, any server, judged by the gate.

A command is split into words like a shell would, and never given to one. {port} in it becomes a port of its own for
every start, to which the Locust host of that arm is set. Without it a program must choose its own: a twin of the first
runs beside it.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from harness.errors import TargetError, UsageError
from harness.execute.ports import LOOPBACK
from harness.gate import runner, two_arms
from harness.gate.rules import Policy
from harness.gate.runner import Setting
from harness.plan.arms import hidden_name
from harness.study.check import MOST_ARRIVALS, says_when_ready
from harness.study.records import PLACEHOLDER, Arm, Target, Workload

A, B = "a", "b"
POLICY = Policy()
SLICE_SECONDS = 0.1
ARRIVALS = 30
"that a slice of an open workload should have: a median of fewer says little, and none at all voids the pair"
LONGEST_SLICE = 3.0


@dataclass(frozen=True, slots=True)
class Ask:
    """What is compared. `ready` says how a program shows that it is: line, port, port:HOST:PORT, url:URL,
    pattern:REGEX; empty = port when the command has {port}, else line. `rate` 0 = closed. `request` empty = all.
    `awake`: the cores of both ends are kept from sleeping.
    """

    file: Path
    a: str
    b: str
    ready: str = ""
    users: int = 16
    rate: float = 0.0
    seconds: float = 300.0
    request: str = ""
    max_error_ratio: float = 0.0
    awake: bool = False


def run(ask: Ask, setting: Setting, policy: Policy = POLICY) -> int:
    """Measure until decided; returns the exit code. Raises `UsageError` for what cannot be run."""
    steering = two_arms.DuelSteering(duel(ask, policy))
    try:
        return runner.run(steering, setting)
    except TargetError as error:
        if PLACEHOLDER in ask.a or isinstance(error.__cause__, OSError):  # which says why: it was not even started
            raise
        raise TargetError(
            f"{error}; {A}, {B} and {hidden_name(A)} (a twin of {A}, the same command) run at the same time: port taken"
            f" by the twin? use {PLACEHOLDER} in its place"
        ) from error


def duel(ask: Ask, policy: Policy = POLICY) -> two_arms.Duel:
    """The study that the question amounts to. Raises `UsageError`."""
    if not os.path.isfile(ask.file):
        raise UsageError(f"-f {ask.file}: there is no such Locust file")
    a, b = target(ask.a, ask.ready, "--a"), target(ask.b, ask.ready, "--b")
    seconds = max(SLICE_SECONDS, ARRIVALS / ask.rate) if ask.rate else SLICE_SECONDS
    least, most = ARRIVALS / LONGEST_SLICE, MOST_ARRIVALS / SLICE_SECONDS
    if ask.rate and not least <= ask.rate <= most:
        raise UsageError(f"--rate {ask.rate:g}; expected 0, or from {least:g} to {most:,.0f} arrivals a second")
    workload = Workload(
        name=ask.file.stem,
        file=str(ask.file.resolve()),
        arrivals="poisson" if ask.rate else "closed",
        users=ask.users,
        rate=ask.rate,
        slice_seconds=seconds,
        awake=ask.awake,
        request=ask.request,
        max_error_ratio=ask.max_error_ratio,
        silent_tasks=True,
    )
    title = f"{shlex.join(b.command)} against {shlex.join(a.command)}"
    arms = Arm(name=A, target=a), Arm(name=B, target=b)
    return two_arms.duel("ab", title, arms, (workload,), ask.seconds, policy)


def target(command: str, ready: str, flag: str) -> Target:
    """The program that `command` (the value of `flag`) starts. Raises `UsageError`."""
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise UsageError(f"{flag} {command!r}: {str(error).lower()}; expected words as for a shell") from error
    if not words:
        raise UsageError(f"{flag} is empty; expected a program and its arguments")
    placed = any(PLACEHOLDER in word for word in words)
    return Target(kind="command", command=words, ready=_ready(ready or ("port" if placed else "line"), placed))


def _ready(ready: str, placed: bool) -> str:
    kind, _, value = ready.partition(":")
    if value and (kind == "port" or (kind == "url" and value[0] != "/")) and PLACEHOLDER not in value:
        raise UsageError(
            f"--ready {ready!r} is one place for all, but a, b and a twin of a run at the same time; expected"
            f" {PLACEHOLDER} in it and in the command, or a command that prints where it listens (line, pattern)"
        )
    if ready == "port" and not placed:
        raise UsageError(f"--ready port needs {PLACEHOLDER} in the command; expected it there")
    if ready == "port":
        return f"port:{LOOPBACK}:{PLACEHOLDER}"
    if kind == "url" and value.startswith("/"):
        return f"url:http://{LOOPBACK}:{PLACEHOLDER}{value}"
    if says_when_ready(ready):
        return ready
    raise UsageError(f"--ready {ready!r}; expected line, port, port:HOST:PORT, url:URL, url:/PATH or pattern:REGEX")
