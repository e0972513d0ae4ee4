"""The regression gate: two revisions of this project, built side by side and measured interleaved in one job.

Laws. The network layer lives on both ends, so both ends of an arm run that revision's `reference_impl`, in an
environment from that revision's lock. Harness and workload come from the running checkout, the same for both arms:
what is compared is the layer, not how it is measured. Every arm sees its code under another path in every burst,
because paths bias too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from msgspec.structs import replace

from harness.errors import StoreError, TargetError, UsageError
from harness.execute import burst
from harness.gate import runner, two_arms
from harness.gate.revisions import Revision
from harness.gate.rules import Policy
from harness.gate.runner import Setting
from harness.plan import schedule
from harness.plan.arms import hidden_name
from harness.study.records import OPTIMIZATIONS, Arm, Target

BASE, HEAD = "base", "head"
PACKAGE = "reference_impl"
PEERS = 8
"as many as the workload asks for"
SETTINGS = {"pooling": {"max_idle_total": 128}}
"as in the quick study (docs/baselines.md)"
SECONDS = 300.0


def run(
    base: Revision, head: Revision, setting: Setting, *, cache: Path, seconds: float = SECONDS,
    policy: Policy = two_arms.POLICY,
) -> int:  # fmt: skip
    """Measure `head` against `base`; returns the exit code. `cache` holds the links to their code meanwhile."""
    asked = question(base, head, seconds, policy)
    with slots(cache, base, head) as places:
        return runner.run(RevisionSteering(asked, places), setting)


def refuse_too_short(seconds: float, policy: Policy = two_arms.POLICY) -> None:
    """`UsageError` when so little time cannot do, whatever the revisions: they need not be there yet."""
    arms = Arm(name=BASE), Arm(name=HEAD)
    two_arms.refuse_too_short(two_arms.duel("gate", "", arms, two_arms.WORKLOADS, seconds, policy))


@contextmanager
def slots(cache: Path, base: Revision, head: Revision) -> Iterator[Slots]:
    """Where the arms see their code. Raises `TargetError` when a revision's Python does not find it there, `StoreError`
    when there can be no such place.
    """
    with Slots(cache, {BASE: base.tree, HEAD: head.tree, hidden_name(BASE): base.tree}) as places:
        for revision in (base, head):
            places.check(revision)
        yield places


def question(
    base: Revision, head: Revision, seconds: float = SECONDS, policy: Policy = two_arms.POLICY
) -> two_arms.Duel:
    """What is asked of the two revisions. Raises `UsageError` when one is none of this project."""
    arms = _arm(BASE, base), _arm(HEAD, head)
    return two_arms.duel("gate", f"{head} against {base}", arms, two_arms.WORKLOADS, seconds, policy)


class RevisionSteering(two_arms.DuelSteering):
    """Besides deciding, gives every arm of a burst the directory it sees its code in."""

    def __init__(self, asked: two_arms.Duel, slots: Slots) -> None:
        super().__init__(asked)
        self._slots = slots

    def processes(self, planned: schedule.BurstPlan, processes: burst.BurstSpec) -> burst.BurstSpec:
        """The same processes with this burst's directories on their path."""
        paths = self._slots.assign(planned)
        arms = (replace(each, env={**each.env, "PYTHONPATH": str(paths[each.name])}) for each in processes.arms)
        return replace(processes, arms=tuple(arms))


class Slots:
    """Directories of equal length, each linking to the code of the arm it is assigned to. Use as a context manager."""

    def __init__(self, cache: Path, trees: Mapping[str, Path]) -> None:
        self._trees = trees
        self._paths = tuple(cache.resolve() / f"slot-{os.getpid()}-{number}" for number in range(len(trees)))

    def __enter__(self) -> Slots:
        cache = self._paths[0].parent
        try:
            for stale in cache.glob("slot-*-*"):
                if not psutil.pid_exists(int(stale.name.split("-")[1])):  # of a gate that was killed
                    shutil.rmtree(stale)
            for path in self._paths:
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a cache that was filled before and is read-only now, say
            raise StoreError(f"{cache}: no folders for arms can be made there: {error.strerror or error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._paths:
            (path / PACKAGE).unlink(missing_ok=True)
            path.rmdir()

    def assign(self, planned: schedule.BurstPlan) -> Mapping[str, Path]:
        """Directory by arm: in the burst's random order of starts, or its reverse when it is `swapped`."""
        return self.place(planned.arms[::-1] if planned.swapped else planned.arms)

    def place(self, names: Sequence[str]) -> Mapping[str, Path]:
        """Directory by arm, in this order."""
        assigned = dict(zip(names, self._paths, strict=False))
        for name, path in assigned.items():
            self._link(path, self._trees[name])
        return assigned

    def check(self, revision: Revision) -> None:
        """Raise `TargetError` unless the revision's Python finds the revision's code here."""
        path = self._paths[0]
        self._link(path, revision.tree)
        ask = f"import {PACKAGE}.assemble as found; print(found.__file__)"
        try:
            done = subprocess.run(
                [revision.python, "-P", "-c", ask],
                env={**os.environ, "PYTHONPATH": str(path)}, capture_output=True, text=True, check=False,
            )  # fmt: skip
        except OSError as error:
            raise TargetError(f"{revision} cannot be run: {revision.python}: {error.strerror or error}") from error
        if done.returncode or Path(done.stdout.strip()).parent != path / PACKAGE:
            said = (done.stderr.strip().splitlines() or [f"it imports {done.stdout.strip()}"])[-1]
            raise TargetError(f"{revision} cannot be run: {said}")

    @staticmethod
    def _link(path: Path, tree: Path) -> None:
        link = path / PACKAGE
        link.unlink(missing_ok=True)
        link.symlink_to(tree / PACKAGE)


def _arm(name: str, revision: Revision) -> Arm:
    if not (revision.tree / PACKAGE).is_dir():
        raise UsageError(f"{revision} has no {PACKAGE}; expected a revision of this project")
    command = (revision.python, "-P", "-m", PACKAGE, "--peers", str(PEERS))
    target = Target(kind="command", command=command, settings=SETTINGS)
    return Arm(name=name, optimizations=OPTIMIZATIONS, target=target, interpreter=revision.python)
