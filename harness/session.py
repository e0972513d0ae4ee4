"""One run as a user meets it: a folder, a display, an end that keeps what was measured, a report, an exit code.

A run in which nothing was measured leaves no folder. One that was ended keeps its rows and gets its report; the error
that ended it has the last word. It can be resumed, unless a process died or failed while it was measured: that run is
INVALID for good.
"""

from __future__ import annotations

import datetime
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import pipeline, runs
from harness.analyse.analysis import analyse
from harness.analyse.records import Analysis, Check
from harness.display import RunDisplay
from harness.errors import INTERRUPTED, BenchError, LoadError, MeasurementVoid, StoreError, StudyError, TargetError
from harness.execute import host, launch
from harness.measure.records import Environment, Measured
from harness.measure.store import Store
from harness.plan import arms, budget
from harness.study.file import ROOT
from harness.study.records import Study

if TYPE_CHECKING:
    from reports.info import RunInfo

CTRL_C = "Ctrl-C"


def start(
    study: Study, path: Path, root: Path, command: str, console: Console, *, strict: bool, now: datetime.datetime
) -> int:
    """Run `study` in a new folder; returns the exit code."""
    budget.forecast(study, arms.layout(study))  # refuse before there is a folder
    path = path.resolve()
    files = launch.digests(study, path)
    with runs.create(root, study.name, now) as store, runs.claimed(store.folder), runs.kept_if_measured(store):
        record(store, study, path.parent, command, now)
        store.put("path", str(path))
        store.put("files", files)
        return _measure(study, store, console, strict=strict)


def record(store: Store, study: Study, directory: Path, command: str, now: datetime.datetime) -> None:
    """Keep what a run is about, before anything is measured."""
    store.put("study", study)
    store.put("directory", str(directory))
    store.put("environment", host.environment(ROOT))
    store.put("command", command)
    store.put("started", now.timestamp())


def resume(folder: Path, console: Console, *, strict: bool) -> int:
    """Go on with an interrupted run; returns the exit code. Raises `StoreError` when it cannot go on."""
    with Store.open(folder) as store, runs.claimed(folder):
        study = store.get("study", Study)
        if maker := store.find("made_by", str):
            raise StoreError(f"{folder.name} was made by `{maker}`, whose programs are gone; measure anew")
        if died := mishap(store):
            raise StoreError(
                f"{folder.name} stays INVALID, it was ended by: {died}; mend the cause and measure anew, as a system"
                " that dies under load is not judged by what it did before"
            )
        if store.find("complete", bool):
            console.out(f"{folder.name} is complete: nothing is measured", highlight=False)
            return exit_code(_report(store, console), strict=strict)
        budget.forecast(study, arms.layout(study))  # refuse before the store is touched
        was, here = store.get("environment", Environment), host.environment(ROOT)
        if differs := _differs(was, here):
            raise StoreError(f"{folder.name} cannot go on here: {differs}; measure anew")
        if changed := _changed(study, store):
            raise StoreError(
                f"{folder.name} cannot go on: since it began these changed or went away: {changed}; put them back or"
                " measure anew"
            )
        notes = list(store.find("notes", tuple[str, ...]) or ())
        if was.revision != here.revision:
            notes.append(f"The run was begun at revision {was.revision[:12]} and resumed at {here.revision[:12]}")
        if here.dirty:
            notes.append("It was resumed with changes of the code that are in no revision")
        store.put("notes", tuple(dict.fromkeys(notes)))
        with runs.kept_if_measured(store):
            return _measure(study, store, console, strict=strict)


def _differs(was: Environment, here: Environment) -> str:
    """What makes rows measured now no sequel to those measured then; empty when nothing does."""
    for name in ("machine", "cpu", "cores", "kernel", "python", "packages", "variables"):
        before, now = getattr(was, name), getattr(here, name)
        if before != now:
            if isinstance(before, dict):
                changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
                before, now = (", ".join(f"{key} {each.get(key)}" for key in changed) for each in (before, now))
            return f"its {name} was {before}, now it is {now}"
    return ""


def _changed(study: Study, store: Store) -> str:
    """What would be played or started now and is not what it was when the run began: study, Locust files, programs."""
    was = store.find("files", dict[str, str])
    if was is None:
        return ""
    try:
        now = launch.digests(study, Path(store.get("path", str)))
    except StudyError:  # a Locust file went away, and no other stands in its place
        now = {name: launch.digest(Path(name)) for name in was}
    return ", ".join(shown(Path(name)) for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name))


def report(folder: Path, console: Console) -> None:
    """Judge the stored rows and write the report again."""
    with Store.read(folder) as store:
        _report(store, console)


def judged(folder: Path) -> Analysis:
    """A run's rows, judged. Raises `StoreError` when nothing was measured."""
    with Store.read(folder) as store:
        return _judged(*stored(store), store)


def _judged(study: Study, measured: Measured, store: Store) -> Analysis:
    return answered(analyse(study, measured, mishap=mishap(store)), store)


def answered(analysis: Analysis, store: Store) -> Analysis:
    """The analysis with another answer than its own, where the run had one: the gate's word, kept as "answer".

    What makes that word INVALID is kept as "void", and voids the analysis too.
    """
    void = store.find("void", str)
    if void and analysis.valid:
        failed = Check("gate", "invalid", "run", void, "the gate can trust its own measurement", "measure again")
        analysis = msgspec.structs.replace(analysis, valid=False, checks=(*analysis.checks, failed))
    word = store.find("answer", str)
    return msgspec.structs.replace(analysis, answer=word) if word else analysis


def stored(store: Store) -> tuple[Study, Measured]:
    """A run's study as its rows may be judged, and the rows. Raises `StoreError` when nothing was measured."""
    measured = store.measured()
    if not measured.slices:
        raise StoreError(f"{store.folder.name} holds no measurement yet")
    return _as_it_ended(store.get("study", Study), store), measured


def _as_it_ended(study: Study, store: Store) -> Study:
    """Who ends a run before its time may have looked at it first: then only intervals that allow for that will do."""
    if store.find("complete", bool):
        return study
    return msgspec.structs.replace(study, budget=msgspec.structs.replace(study.budget, stop_early=True))


def show_plan(study: Study, console: Console) -> None:
    """What a study would do, how long it takes, what it can prove."""
    layout = arms.layout(study)
    expected = budget.forecast(study, layout)
    console.print(
        f"{study.title}\narms: {', '.join(arm.name for arm in layout.arms)}\n"
        f"workloads: {', '.join(each.name for each in arms.workloads(study))}\n"
        f"{expected.bursts} bursts of about {expected.burst_seconds:.0f} s: {expected.seconds / 60:.1f} min",
        highlight=False,
        markup=False,
    )
    times = Counter(layout.kinds)
    console.print(f"bursts of {_rounds(len(layout.rounds))}, in which every pair meets:", highlight=False)
    for number, kind in enumerate(times, 1):
        together: dict[tuple[str, ...], list[str]] = {}
        for workload, names in kind.playing:
            together.setdefault(tuple(sorted(names)), []).append(workload)
        told = "; ".join(f"{', '.join(played)} on {', '.join(names)}" for names, played in together.items())
        often = f"{times[kind]} times " if times[kind] > 1 else ""
        console.print(f"  {number}: {often}{told}", highlight=False, markup=False)
    if not expected.proofs:
        console.print("no expectations: estimates without verdicts", highlight=False)
        return
    table = Table("question", "against", "bursts", "needed", "interval expected")
    for proof in expected.proofs:
        cells = (proof.expectation, proof.against, str(proof.bursts), str(proof.needed))
        table.add_row(*map(Text, cells), f"± {proof.resolution:.1%} of the ratio")
    console.print(table)


def _rounds(count: int) -> str:
    return "a round" if count == 1 else f"{count} rounds"


def _measure(study: Study, store: Store, console: Console, *, strict: bool) -> int:
    directory = Path(store.get("directory", str))
    for name, value in (("complete", False), ("ended_by", ""), ("under_load", False)):
        store.put(name, value)
    try:
        with RunDisplay(console) as display:
            pipeline.run(study, store, directory, display)
        store.put("complete", True)
    except (KeyboardInterrupt, BenchError) as error:
        return _ended_early(store, console, error)
    return exit_code(_report(store, console), strict=strict)


def _ended_early(store: Store, console: Console, error: KeyboardInterrupt | BenchError) -> int:
    """Report what was measured before `error`, then let the error have the last word."""
    interrupted = isinstance(error, KeyboardInterrupt)
    if not store.slices():
        if interrupted:
            return INTERRUPTED
        raise error
    try:
        keep_end(store, error)
        _report(store, console)
    except StoreError as second:  # the disk is still full, say: the rows are there, and the first error counts
        console.out(str(second), highlight=False)
    if not mishap(store):
        go_on = f"go on with: synapsed-bench run --resume {shlex.quote(shown(store.folder))}"
        console.out(go_on, highlight=False)
    if not isinstance(error, BenchError):
        return INTERRUPTED
    if not store.find("under_load", bool):
        raise error
    raise MeasurementVoid(f"{error}; what was measured is kept in {shown(store.folder)}", error.fault) from error


def keep_end(store: Store, error: KeyboardInterrupt | BenchError) -> None:
    """Keep what ended the measuring; whose fault it was only under load: what fails to start voids no row."""
    under_load = store.find("under_load", bool)
    store.put("ended_by", str(error) if isinstance(error, BenchError) else CTRL_C)
    store.put("fault", error.fault if under_load and isinstance(error, BenchError) else "")


def mishap(store: Store) -> str:
    """How the process that ended the run died or failed; nothing else, such as Ctrl-C or a full disk, voids a row."""
    failed = store.find("fault", str) in (TargetError.fault, LoadError.fault)
    return store.get("ended_by", str) if failed else ""


def _report(store: Store, console: Console) -> Analysis:
    """Judge the rows, and say the result before it is written: a full disk must not take it away."""
    from reports import terminal

    study, measured = stored(store)
    analysis = _judged(study, measured, store)
    console.print(terminal.result(study, analysis, _info(study, store, measured)))
    console.print("writing the report", highlight=False)  # which may take a while: each estimate is drawn
    page = write_report(study, store, measured, analysis)
    console.out(f"report: {shown(page)}", highlight=False)
    return analysis


def _info(study: Study, store: Store, measured: Measured) -> RunInfo:
    from reports.info import RunInfo

    last = measured.slices[-1]
    complete = store.find("complete", bool) or False
    notes = store.find("notes", tuple[str, ...]) or ()
    ended_by = store.find("ended_by", str)
    running = not complete and not ended_by and runs.is_claimed(store.folder)
    if not complete:
        told = f"The run was ended by: {ended_by or 'its process, which was killed'}. "
        notes = (
            *notes,
            f"{'' if running else told}Intervals of comparisons hold whenever one stops, so they are wider; those of"
            " flags in an attribution and of slopes are as if it had ended by itself",
        )
    return RunInfo(
        run=store.folder.name,
        started=store.get("started", float),
        ended=last.began + last.seconds,
        command=store.get("command", str),
        seed=study.seed,
        complete=complete,
        running=running,
        notes=notes,
    )


def write_report(study: Study, store: Store, measured: Measured, analysis: Analysis) -> Path:
    """Write report.html and summary.json of a run that has slices; returns the page. Raises `StoreError`."""
    import reports

    environment, info = store.get("environment", Environment), _info(study, store, measured)
    try:
        return reports.write(store.folder, study, analysis, environment, info)
    except OSError as error:
        raise StoreError(f"the report cannot be written to {shown(store.folder)}: {error.strerror or error}") from error


def shown(path: Path) -> str:
    """`path` as seen from the current folder when it lies in it."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def exit_code(analysis: Analysis, *, strict: bool) -> int:
    """0 valid (strict: and something met, the rest not measurable), 1 missed, 3 undecided, 4 invalid."""
    if not analysis.valid:
        return 4
    outcomes = {verdict.outcome for verdict in analysis.verdicts}
    if not strict:
        return 0
    if "MISSED" in outcomes:
        return 1
    return 0 if "MET" in outcomes and "INCONCLUSIVE" not in outcomes else 3
