"""A duel of two arms as a user meets it: a run folder, a display that shows the word coming, an exit code."""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import pipeline, runs, session
from harness.analyse.analysis import analyse
from harness.analyse.records import Verdict
from harness.analyse.validity import LOAD_LIMIT
from harness.display import RunDisplay
from harness.errors import INTERRUPTED, BenchError, MeasurementVoid, StoreError, UsageError
from harness.gate.rules import EXIT_CODES, GateDecision, MetricDecision, Policy
from harness.gate.two_arms import Duel, DuelSteering, decide, refuse_too_short, values
from harness.measure.records import Measured
from harness.measure.store import Store

if TYPE_CHECKING:
    from reports.gate_view import GateInfo


Files = tuple[tuple[str, Path], ...]
"kind (markdown, junit) and where to"


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a duel takes place: `directory` its programs start in, `runs` the folder of runs, `command` to repeat it.

    `base`, `head` are the arms in the user's words; `notes` sentences for the reader; `files` the reports asked for
    by kind (markdown, junit); `now` the start.
    """

    directory: Path
    runs: Path
    command: str
    base: str
    head: str
    console: Console
    now: datetime.datetime
    files: Files = ()
    notes: tuple[str, ...] = ()


def run(steering: DuelSteering, setting: Setting) -> int:
    """Measure until the word is final or the time is spent; returns the exit code.

    Raises `UsageError` when so little time cannot do, `TargetError` or `LoadError` when a process failed before
    anything was measured, `MeasurementVoid` after.
    """
    study = steering.asked.study
    clear(setting.files)
    refuse_too_short(steering.asked)
    created = runs.create(setting.runs, study.name, setting.now)
    with created as store, runs.claimed(store.folder), runs.kept_if_measured(store):
        session.record(store, study, setting.directory, setting.command, setting.now)
        store.put("made_by", f"synapsed-bench {study.name}")
        store.put("notes", setting.notes)
        try:
            with DuelDisplay(setting.console, steering) as display:
                pipeline.run(study, store, setting.directory, display, steering)
        except (KeyboardInterrupt, BenchError) as error:
            return _ended_early(steering, store, setting, error)
        store.put("complete", True)
        return _conclude(steering, store, setting)


def clear(files: Files, reads: Path | None = None) -> None:
    """Take away reports of an earlier run: whatever happens to this one, they must not speak for it.

    `reads` is the file that the command reads. Raises `UsageError` when a report would replace it or another one, or
    has no folder, `StoreError` when it cannot be replaced.
    """
    places: dict[Path, str] = {}
    for kind, path in files:
        other = places.setdefault(path.resolve(), kind)
        if other != kind and not _is_device(path):
            raise UsageError(f"--{kind} {path}: this is where --{other} is to be written; expected a file for each")
        if reads is not None and path.resolve() == reads.resolve():
            raise UsageError(f"--{kind} {path}: this is the file to be read; expected another one to write")
        if not os.path.isdir(path.absolute().parent):
            raise UsageError(f"{path}: there is no folder {path.parent}; expected one to write the report to")
        try:
            if not _is_device(path):  # /dev/stdout is to be written to, and stays
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: cannot be replaced: {error.strerror or error}") from error


def _is_device(path: Path) -> bool:
    return path.absolute().is_relative_to("/dev")


def _conclude(steering: DuelSteering, store: Store, setting: Setting) -> int:
    from reports import gate_view

    asked, measured = steering.asked, store.measured()
    analysis = analyse(asked.study, measured)
    decision = decide(asked, measured, analysis)
    limits = tuple(f"{each.where}: {each.saw}; {each.remedy}." for each in analysis.checks if each.name == LOAD_LIMIT)
    info = _info(asked, measured, setting, store.find("spent", float) or 0.0, limits)
    word = gate_view.sentence(decision, info)
    setting.console.print(gate_view.on_terminal(decision, info))
    unwritten = None
    try:
        write_views(decision, info, setting.files)  # first: the store's disk may be full, and this another one
    except StoreError as error:
        unwritten = error
    store.put("answer", word)
    store.put("void", decision.reason if decision.outcome == "INVALID" else "")
    page = session.write_report(asked.study, store, measured, session.answered(analysis, store))
    setting.console.out(f"report: {session.shown(page)}", highlight=False)
    if unwritten is not None:
        raise unwritten
    return EXIT_CODES[decision.outcome]


def _info(asked: Duel, measured: Measured, setting: Setting, seconds: float, notes: tuple[str, ...] = ()) -> GateInfo:
    from reports import gate_view

    return gate_view.GateInfo(
        title=asked.study.title,
        base=setting.base,
        head=setting.head,
        command=setting.command,
        started=setting.now.timestamp(),
        seconds=seconds,
        values=values(asked, measured),
        notes=(*setting.notes, *notes),
    )


def write_views(decision: GateDecision, info: GateInfo, files: Files) -> None:
    """Write the reports that were asked for. Raises `StoreError`."""
    from reports import gate_view

    for kind, path in files:
        content = gate_view.as_junit(decision, info) if kind == "junit" else gate_view.as_markdown(decision, info)
        try:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


def _ended_early(steering: DuelSteering, store: Store, setting: Setting, error: KeyboardInterrupt | BenchError) -> int:
    """The reports that were asked for say INVALID and why; an error has the last word."""
    asked, measured = steering.asked, store.measured()
    told = str(error) if isinstance(error, BenchError) else "interrupted before there was a verdict"
    decision = decide(asked, measured, void=told)
    try:
        session.keep_end(store, error)
        write_views(decision, _info(asked, measured, setting, store.find("spent", float) or 0.0), setting.files)
    except StoreError as second:  # the disk is still full, say: the first error counts
        setting.console.out(str(second), highlight=False)
    if not isinstance(error, BenchError):
        setting.console.print("interrupted: no verdict", highlight=False)
        return INTERRUPTED
    if not measured.slices:
        raise error
    raise MeasurementVoid(
        f"{error}; what was measured is kept in {session.shown(store.folder)}", error.fault
    ) from error


class DuelDisplay(RunDisplay):
    """After each burst the estimates, and how much of the evidence for either word is there."""

    def __init__(self, console: Console, steering: DuelSteering) -> None:
        super().__init__(console)
        self._steering = steering

    def burst_done(self, number: int, spent: float, left: float, so_far: Sequence[Verdict]) -> None:
        """Show where the decision stands."""
        decision = self._steering.decision
        super().burst_done(number, spent, left, so_far)
        if decision is None:
            return
        if self._console.is_terminal:
            self._estimates = _table(decision, self._steering.asked.policy)
        else:
            told = "; ".join(line(each, decision, self._steering.asked.policy) for each in decision.metrics)
            self._console.out(f"  {told}", highlight=False)


def line(found: MetricDecision, decision: GateDecision, policy: Policy) -> str:
    """One metric in short: its change so far and the evidence."""
    from reports import gate_view

    fail, passed = evidence(found, decision, policy)
    return f"{found.name} {gate_view.size(found)}, evidence FAIL {fail:.0%} PASS {passed:.0%}"


def evidence(found: MetricDecision, decision: GateDecision, policy: Policy) -> tuple[float, float]:
    """Shares of the log evidence that FAIL and PASS need, from 0 to 1."""
    fail = found.log_e_fail / math.log(len(decision.metrics) / policy.alpha_fail)
    passed = found.log_e_pass / -math.log(policy.alpha_pass)
    return min(1.0, max(0.0, fail)), min(1.0, max(0.0, passed))


def _table(decision: GateDecision, policy: Policy) -> Table:
    from reports import gate_view

    table = Table("metric", "change so far", "for FAIL", "for PASS", "word", box=None, padding=(0, 2, 0, 0))
    for each in decision.metrics:
        fail, passed = evidence(each, decision, policy)
        word = "" if each.outcome == "INCONCLUSIVE" else each.outcome
        table.add_row(each.name, Text(gate_view.loss(each)), f"{fail:.0%}", f"{passed:.0%}", word)
    return table
