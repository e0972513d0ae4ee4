"""One run as a user meets it: a folder, a display, an end that keeps what was measured, a report, an exit code."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

import reports
from harness import pipeline, runs
from harness.analyse.analysis import analyse
from harness.analyse.records import Analysis
from harness.display import RunDisplay
from harness.errors import BenchError, MeasurementVoid, StoreError
from harness.execute import host
from harness.measure.records import Environment
from harness.measure.store import Store
from harness.plan import arms, budget
from harness.study import Study
from harness.study_file import ROOT
from reports.info import RunInfo

INTERRUPTED = 130


def start(
    study: Study, path: Path, root: Path, command: str, console: Console, *, strict: bool, now: datetime.datetime
) -> int:
    """Run `study` in a new folder; returns the exit code."""
    budget.forecast(study, arms.layout(study))  # refuse before there is a folder
    with runs.create(root, study.name, now) as store:
        store.put("study", study)
        store.put("directory", str(path.resolve().parent))
        store.put("environment", host.environment(ROOT))
        store.put("command", command)
        store.put("started", now.timestamp())
        return _measure(study, store, console, strict=strict)


def resume(folder: Path, console: Console, *, strict: bool) -> int:
    """Go on with an interrupted run; returns the exit code."""
    with Store.open(folder) as store:
        study = store.get("study", Study)
        was = store.get("environment", Environment)
        here = host.environment(ROOT)
        if (was.cpu, was.cores, was.kernel) != (here.cpu, here.cores, here.kernel):
            raise StoreError(f"{folder.name} was measured on another machine ({was.cpu}); a run cannot go on elsewhere")
        return _measure(study, store, console, strict=strict)


def report(folder: Path, console: Console) -> None:
    """Judge the stored rows and write the report again."""
    with Store.open(folder) as store:
        study = store.get("study", Study)
        _write(study, store, analyse(study, store.measured()), console)


def show_plan(study: Study, console: Console) -> None:
    """What a study would do, how long it takes, what it can prove."""
    layout = arms.layout(study)
    expected = budget.forecast(study, layout)
    console.print(
        f"{study.title}\narms: {', '.join(arm.name for arm in layout.arms)}\n"
        f"{expected.bursts} bursts of about {expected.burst_seconds:.0f} s: {expected.seconds / 60:.1f} min",
        highlight=False,
    )
    table = Table("question", "against", "bursts", "needed", "interval expected")
    for proof in expected.proofs:
        table.add_row(
            proof.expectation,
            proof.against,
            str(proof.bursts),
            str(proof.needed),
            f"± {proof.resolution:.1%} of the ratio",
        )
    console.print(table)


def _measure(study: Study, store: Store, console: Console, *, strict: bool) -> int:
    directory = Path(store.get("directory", str))
    store.put("complete", False)
    try:
        with RunDisplay(console, study.budget.seconds) as display:
            analysis = pipeline.run(study, store, directory, display)
        store.put("complete", True)
    except (KeyboardInterrupt, BenchError) as error:
        return _ended_early(study, store, console, error)
    _write(study, store, analysis, console)
    return exit_code(analysis, strict=strict)


def _ended_early(study: Study, store: Store, console: Console, error: BaseException) -> int:
    """Report what was measured before `error`, then let the error have the last word."""
    measured = store.measured()
    if measured.slices:
        store.put("ended_by", str(error) or "Ctrl-C")
        _write(study, store, analyse(study, measured), console)
    console.print(f"go on with: synapsed-bench run --resume {store.folder.name}", highlight=False, soft_wrap=True)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if measured.slices:
        raise MeasurementVoid(f"{error}; what was measured is kept in {store.folder}") from error
    raise error


def _write(study: Study, store: Store, analysis: Analysis, console: Console) -> None:
    complete = store.find("complete", bool) or False
    ended_by = store.find("ended_by", str)
    store.put("ended", store.find("ended", float) or time.time())
    info = RunInfo(
        run=store.folder.name,
        started=store.get("started", float),
        ended=store.get("ended", float),
        command=store.get("command", str),
        seed=study.seed,
        complete=complete,
        notes=() if complete or not ended_by else (f"The run was ended by: {ended_by}",),
    )
    written = reports.write(store.folder, study, analysis, store.get("environment", Environment), info)
    console.print(reports.terminal(analysis))
    console.print(f"report: {written.html}", highlight=False, soft_wrap=True)


def exit_code(analysis: Analysis, *, strict: bool) -> int:
    """0 valid (strict: and everything met), 1 missed, 3 undecided, 4 invalid."""
    if not analysis.valid:
        return 4
    outcomes = {verdict.outcome for verdict in analysis.verdicts}
    if strict and "MISSED" in outcomes:
        return 1
    return 3 if strict and "INCONCLUSIVE" in outcomes else 0
