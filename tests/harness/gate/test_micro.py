"""The gate on micro benchmarks: known truths through a made-up worker, and one round of the real ones."""

from __future__ import annotations

import datetime
import io
import random
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as xml

import pytest
from rich.console import Console

from harness.analyse.micro import Case, Reading, Room
from harness.errors import MeasurementVoid, TargetError, UsageError
from harness.execute.micro import ROOMS, Job
from harness.gate import commits
from harness.gate import micro as gate_micro
from harness.gate.commits import PACKAGE, Slots
from harness.gate.revisions import Revision
from harness.gate.rules import Margins, Policy
from harness.gate.runner import Setting
from harness.study.file import ROOT

ROOM = Room("pooling", "", (), (), {}, (Case("take", ("off", "on")), Case("bytes", ("on",), unit="byte")))
QUICK = Policy(min_bursts=15, max_bursts=25, margins=Margins(0.02, 0.05))


def revision(name: str, tree: Path = ROOT) -> Revision:
    return Revision(name, name * 10, tree, sys.executable)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    now, console = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), Console(file=io.StringIO(), width=110)
    files = (("markdown", tmp_path / "gate.md"), ("junit", tmp_path / "gate.xml"))
    return Setting(tmp_path, tmp_path / "runs", "again", "base", "head", console, now, files)


@pytest.fixture
def slots(tmp_path: Path) -> Iterator[Slots]:
    with commits.slots(tmp_path / "cache", revision("one"), revision("two")) as found:
        yield found


@contextmanager
def costing(costs: Callable[[str, int], float], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers that cost so much by arm and round, a little noise aside."""
    noise = random.Random(1)

    def read(arm: str, number: int) -> list[Reading]:
        return [Reading("pooling", "take", "on", number, 1e-7 * costs(arm, number) * noise.lognormvariate(0.0, 0.005))]

    arms: list[str] = []
    real = gate_micro.jobs

    def told(*arguments: Any) -> Iterator[tuple[Job, str]]:
        for job, arm in real(*arguments):
            arms.append(arm)
            yield job, arm

    monkeypatch.setattr(gate_micro, "jobs", told)
    monkeypatch.setattr(gate_micro, "catalogue", lambda *_: ROOM)
    monkeypatch.setattr(gate_micro, "measure", lambda job: job)
    monkeypatch.setattr(gate_micro, "readings", lambda _, job: read(arms[-1], job.round))
    monkeypatch.setattr(gate_micro, "merge", lambda suites, name, suite: suites.setdefault(name, suite))
    monkeypatch.setattr(gate_micro, "keep", lambda suite, path: path.write_text("{}"))
    yield


@pytest.mark.parametrize(
    ("factors", "code", "told"),
    [
        ({}, 0, "PASS: no metric of head lost its margin against base: pooling: take"),
        ({"head": 1.1}, 1, "FAIL: head against base: pooling: take"),
        ({"base-again": 1.1}, 4, "INVALID: equal arms differ"),
    ],
)
def test_the_word(
    factors: dict[str, float], code: int, told: str, setting: Setting, slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    with costing(lambda arm, _: factors.get(arm, 1.0), monkeypatch):
        found = gate_micro.run(
            revision("one"), revision("two"), setting, slots=slots, rooms=("pooling",), seconds=1e9, policy=QUICK
        )
    assert found == code
    assert told in " ".join(setting.console.file.getvalue().split())  # type: ignore[attr-defined]
    suite = xml.fromstring(dict(setting.files)["junit"].read_bytes())[0]
    assert int(suite.get("failures", "0")) == (code == 1)
    assert int(suite.get("errors", "0")) == 2 * (code == 4)
    assert "the evidence is exact" in dict(setting.files)["markdown"].read_text()
    assert " µs |" in re.sub(r"\s", " ", dict(setting.files)["markdown"].read_text())


def test_time_spent_ends_it_undecided(setting: Setting, slots: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    with costing(lambda arm, _: 1.0, monkeypatch):
        assert gate_micro.run(
            revision("one"), revision("two"), setting,
            slots=slots, rooms=("pooling",), seconds=5.0, policy=QUICK, clock=lambda: float(next(ticks)),
        ) == 3  # fmt: skip
    assert "not decided: pooling: take" in dict(setting.files)["markdown"].read_text()


@pytest.mark.parametrize(
    ("error", "number", "raised"),
    [(TargetError("worker died"), 0, TargetError), (TargetError("worker died"), 2, MeasurementVoid)],
)
def test_a_worker_that_fails(
    error: Exception, number: int, raised: type[Exception],
    setting: Setting, slots: Slots, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def costs(_: str, at: int) -> float:
        if at == number:
            raise error
        return 1.0

    with costing(costs, monkeypatch), pytest.raises(raised, match="worker died"):
        gate_micro.run(
            revision("one"), revision("two"), setting, slots=slots, rooms=("pooling",), seconds=1e9, policy=QUICK
        )
    assert "INVALID: worker died" in dict(setting.files)["markdown"].read_text()


def test_ctrl_c_is_no_verdict(setting: Setting, slots: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    def costs(_: str, at: int) -> float:
        if at == 5:
            raise KeyboardInterrupt
        return 1.0

    with costing(costs, monkeypatch):
        code = gate_micro.run(
            revision("one"), revision("two"), setting, slots=slots, rooms=("pooling",), seconds=1e9, policy=QUICK
        )
    assert code == 130
    assert "INVALID: interrupted before there was a verdict" in dict(setting.files)["markdown"].read_text()


def test_a_time_too_short_for_any_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter((0.0, 2.0, 3.0, 5.0))
    told = r"89 s to measure; expected at least 90 s \(1.5 minutes\), the 15 rounds of about 6.0 s before any word"
    with costing(lambda *_: 1.0, monkeypatch):
        with pytest.raises(UsageError, match=told):
            gate_micro.refuse_too_short(("pooling",), 89.0, clock=lambda: next(ticks))
        gate_micro.refuse_too_short(("pooling",), 90.0, clock=lambda: next(ticks))


def test_rooms_by_name_each_once_or_all_and_none_that_is_unknown() -> None:
    assert gate_micro.chosen(()) == ()
    assert gate_micro.chosen(("pooling", "calm", "pooling")) == ("pooling", "calm")
    assert gate_micro.chosen(("calm", "all")) == ROOMS
    with pytest.raises(UsageError, match="unknown room 'kitchen'; expected all or some of: pooling"):
        gate_micro.chosen(("all", "kitchen"))


def test_real_workers_measure_each_arms_own_code(tmp_path: Path, setting: Setting) -> None:
    """The head's code says where it was imported from; the case it breaks is told as that revision's."""
    tree = tmp_path / "tree"
    (tree / PACKAGE).mkdir(parents=True)
    for path in (ROOT / PACKAGE).rglob("*.py"):
        copy = tree / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    base, head = revision("one"), revision("two", tree)
    once = Policy(min_bursts=1, max_bursts=1)
    with commits.slots(tmp_path / "cache", base, head) as slots:
        assert gate_micro.run(base, head, setting, slots=slots, rooms=("cleanup",), seconds=1e9, policy=once) == 3
        assert "cleanup: " in dict(setting.files)["markdown"].read_text()
        (tree / PACKAGE / "cleanup.py").write_text("raise SystemExit('no such room here')")
        with pytest.raises(TargetError, match=r"cleanup cannot say what it measures: .*no such room here"):
            gate_micro.run(base, head, setting, slots=slots, rooms=("cleanup",), seconds=1e9, policy=once)
    kept = sorted(path.name for path in (tmp_path / "runs").rglob("*.json"))
    assert kept == ["cleanup-base-again.json", "cleanup-base.json", "cleanup-head.json"]


def test_the_order_is_random_and_the_same_for_all_arms() -> None:
    rooms = (ROOM, Room("cleanup", "", (), (), {}, (Case("make", ("on",)),)))
    suite = gate_micro.Suite({arm: revision(arm) for arm in gate_micro.ARMS}, rooms)
    places: Any = SimpleNamespace(place=lambda names: {name: Path(name) for name in names})
    rounds = [list(gate_micro.jobs(suite, places, number, random.Random(number))) for number in range(8)]
    assert len({tuple(arm for _, arm in each) for each in rounds}) > 1
    for each in rounds:
        for first in (0, 3):
            part = each[first : first + 3]
            assert {arm for _, arm in part} == set(gate_micro.ARMS)
            assert len({(job.room, job.seed) for job, _ in part}) == 1
