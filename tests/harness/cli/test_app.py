"""The command line as its user meets it: what it says, where it says it, and the exit code."""

from __future__ import annotations

import datetime
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import typer

import reports
from harness import runs, session
from harness.analyse.analysis import analyse
from harness.cli import app
from harness.errors import BenchError, LoadError, StoreError, StudyError, TargetError
from harness.execute import host
from harness.measure.metrics import METRICS
from harness.measure.store import FILE, Store
from harness.plan import arms
from harness.plan.budget import forecast
from harness.study import file as study_file
from harness.study.file import ROOT, STUDIES
from harness.study.records import OPTIMIZATIONS, Budget, Expectation, Study
from tests.harness.analyse.synthetic import a_run, a_study

MET = Expectation(name="met", claim="x2", workload="surge", metric="throughput", at_least=2.0)
MISSED = Expectation(name="missed", claim="x9", workload="surge", metric="throughput", at_least=9.0)
UNSEEN = Expectation(name="unseen", claim="x0.5", workload="surge", metric="cache_misses_per_request", at_most=0.5)
OPEN = Expectation(name="open", claim="x4", workload="surge", metric="throughput", at_least=4.0)
COMMANDS = tuple(typer.main.get_command(app.app).commands)  # type: ignore[attr-defined]


class Answer(NamedTuple):
    """Exit code and what was said on the two streams."""

    code: int
    out: str
    err: str


Bench = Callable[..., Answer]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Bench]:
    """Runs a command line in this process, in an empty folder; nothing may end in a traceback."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["synapsed-bench", *arguments])
        with pytest.raises(SystemExit) as ended:
            app.main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        code = ended.value.code
        return Answer(code if isinstance(code, int) else 0, out, err)

    yield call
    signal.signal(signal.SIGTERM, before)


def refused(answer: Answer, fault: str) -> str:
    """The one line of an error of the user's, checked for its form."""
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    start = f"synapsed-bench: {fault}: "
    assert line.startswith(start)
    return line.removeprefix(start)


def made_up(
    root: Path,
    *expectations: Expectation,
    bursts: int = 12,
    complete: bool = True,
    segment_seconds: float = 0.0,
    shift: float = 0.25,
) -> Path:
    """A run under `root` whose rows say that a request of `all` takes a quarter of the time, or `shift`."""
    study = a_study(*expectations)
    workload = msgspec.structs.replace(study.workloads[0], segment_seconds=segment_seconds)
    study = msgspec.structs.replace(study, workloads=(workload,), budget=Budget(min_bursts=7, max_bursts=bursts))
    with runs.create(root, study.name, datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)) as store:
        for key, value in (
            ("study", study),
            ("directory", str(ROOT)),
            ("environment", host.environment(ROOT)),
            ("command", "synapsed-bench run made-up"),
            ("started", 1e9),
            ("rates", {}),
            ("spent", 30.0),
            ("complete", complete),
        ):
            store.put(key, value)
        fill(store, study, bursts, shift)
        return store.folder


def fill(store: Store, study: Study, bursts: int, shift: float = 0.25) -> None:
    measured = a_run(study, {"all": shift}, bursts)
    for burst in measured.bursts:
        store.add_burst(burst)
    for row in measured.slices:
        store.add_slice(row)
    for reading in measured.readings:
        store.add_reading(reading)


def test_help_lists_every_command_and_each_explains_itself(bench: Bench) -> None:
    answer = bench("--help")
    assert answer.code == 0
    assert {"run", "report", "compare", "export", "gate", "ab", "judge", "micro", "doctor"} <= {*COMMANDS}
    assert all(f" {command} " in answer.out for command in COMMANDS)
    for command in COMMANDS:
        explained = bench(command, "--help")
        assert explained.code == 0
        assert "usage" in explained.out.lower()
    assert "--resume" in bench("run", "--help").out
    assert "--peers" in bench("serve", "--help").out


def test_the_version_is_the_packages(bench: Bench) -> None:
    assert bench("--version") == (0, f"synapsed-bench {metadata.version('synapsed-bench')}\n", "")
    assert "Which of these optimizations pays" in bench("--help").out


def test_help_does_not_wait_for_what_it_does_not_need() -> None:
    program = (
        "import sys\nfrom harness.cli import app\n"
        "try: app.main(['run', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'scipy', 'statsmodels', 'pandas', 'matplotlib', 'locust', 'gevent', 'psutil', 'jinja2'}\n"
        "sys.stderr.write(', '.join(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Run a study" in done.stdout


def test_the_planning_of_a_run_loads_no_statsmodels_and_no_charts() -> None:
    program = (
        "import sys\nfrom harness import session\n"
        "heavy = {'statsmodels', 'pandas', 'matplotlib', 'locust', 'gevent', 'jinja2'}\n"
        "sys.stderr.write(', '.join(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("bogus",), "bogus"),
        (("run", "--bogus"), "--bogus"),
        (("run", "--seconds", "soon"), "--seconds"),
        (("web", "--port", "0"), "--port"),
    ],
)
def test_a_usage_error_is_exit_2(bench: Bench, arguments: tuple[str, ...], named: str) -> None:
    answer = bench(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("Usage: synapsed-bench ")
    assert named in answer.err


def test_a_word_that_no_report_could_tell_is_one_line(bench: Bench, tmp_path: Path) -> None:
    answer = bench("ab", "-f", __file__, "--a", "./old-\udcff --port {port}", "--b", "./new --port {port}")
    assert "'./old-\\udcff --port {port}' is not UTF-8; expected" in refused(answer, "usage")
    assert "'\\udcff' is not UTF-8" in refused(bench("serve", "--seed", "\udcff"), "usage")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("studies", "quick"),
        ("workloads", "scenarios/load/surge.py"),
        ("optimizations", "circuit_breaker"),
        ("metrics", "cpu_per_request"),
    ],
)
def test_list(bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str, expected: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    answer = bench("list", what)
    assert (answer.code, answer.err) == (0, "")
    assert expected in answer.out


@pytest.mark.parametrize("columns", ["80", "40"])
def test_what_is_listed_can_be_typed_however_narrow_the_terminal(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    listed = {
        "metrics": METRICS,
        "studies": {path.stem for path in STUDIES.glob("*.toml")},
        "workloads": {"contention"},
    }
    for what, names in listed.items():
        said = bench("list", what).out
        assert [name for name in names if f" {name} " not in said] == []


def test_a_listed_study_lasts_as_long_as_its_forecast_says(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fewest bursts that can decide it may need longer than its budget says."""
    monkeypatch.setenv("COLUMNS", "200")
    study = study_file.load(STUDIES / "phases.toml")
    lasts = forecast(study, arms.layout(study)).lasts
    assert lasts > study.budget.seconds
    (line,) = (line for line in bench("list", "studies").out.splitlines() if " phases " in line)
    assert f" {lasts / 60:.0f} min " in line


def test_list_names_every_optimization_and_what_can_be_listed(bench: Bench) -> None:
    assert all(name in bench("list", "optimizations").out for name in OPTIMIZATIONS)
    said = refused(bench("list", "everything"), "usage")
    assert said == "cannot list 'everything'; expected one of: studies, workloads, optimizations, metrics"


def test_dry_run_shows_the_plan_and_measures_nothing(bench: Bench, tmp_path: Path) -> None:
    answer = bench("run", "--dry-run")
    assert (answer.code, answer.err) == (0, "")
    assert "arms: none, first-day-reuse, all" in answer.out
    assert "workloads: surge, steady, dial" in answer.out
    assert "bursts of about" in answer.out
    assert "interval expected" in answer.out
    assert " 1: surge, steady, dial on all, first-day-reuse, none, none-again" in answer.out
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_shown_as_it_is(bench: Bench, tmp_path: Path) -> None:
    text = (STUDIES / "quick.toml").read_text()
    (tmp_path / "mine.toml").write_text(
        text.replace('name = "connection latency"', 'name = "p50 [cold/warm] of [/api]"')
    )
    answer = bench("run", "mine.toml", "--dry-run")
    assert (answer.code, answer.err) == (0, "")
    assert "[cold/warm]" in answer.out


def test_dry_run_follows_the_switches(bench: Bench) -> None:
    answer = bench("run", "quick", "--dry-run", "--only", "pooling,metrics", "--seconds", "500")
    assert "arms: none, first-day-reuse, pooling+metrics" in answer.out


@pytest.mark.parametrize(
    ("arguments", "fault", "expected"),
    [
        (("run", "nope"), "study", "no study 'nope'; expected a study file or one of: "),
        (("run", "--on", "poling"), "usage", "unknown optimization 'poling'; expected one of: pooling, "),
        (("run", "--on", ","), "usage", "--on names nothing"),
        (("run", "--on", "pooling", "--only", "metrics"), "usage", "--on and --only each say the whole treatment"),
        (("run", "--design", "fractal"), "usage", "--design 'fractal'; expected one of: on-off, "),
        (("run", "--seconds", "-5"), "usage", "--seconds -5; expected"),
        (("run", "--seconds", "1"), "study", "'connection latency' against 'none' gets 1 bursts, but 8 are the fewest"),
        (("run", "--resume", "nope"), "store", "no run 'nope'; there are none in runs"),
        (("run", "quick", "--resume", "x"), "usage", "--resume goes on with the run's own study"),
        (("run", "--resume", "x", "--dry-run"), "usage", "--resume goes on with the run's own study"),
        (("report",), "store", "no run 'latest'; there are none in runs"),
        (("report", "nope", "--runs", "elsewhere"), "store", "no run 'nope'; there are none in elsewhere"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    bench: Bench, tmp_path: Path, arguments: tuple[str, ...], fault: str, expected: str
) -> None:
    assert expected in refused(bench(*arguments), fault)
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_study_is_one_line_with_its_place(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('name = "mine"\ntitle = "t"\n\n[[workload]]\nname = "w"\nusers = "many"\n')
    said = refused(bench("run", "mine.toml"), "study")
    assert said == "mine.toml:6: workload[1].users: expected a whole number, got text in quotes"
    assert not (tmp_path / "runs").exists()


def test_a_stored_run_is_judged_again(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    folder = made_up(tmp_path / "runs", MET)
    answer = bench("report", "--open")
    assert (answer.code, answer.err) == (0, "")
    assert "MET" in answer.out
    assert f"report: runs/{folder.name}/report.html\n" in answer.out
    assert opened == [(folder / "report.html").as_uri()]
    assert msgspec.json.decode((folder / "summary.json").read_bytes())["verdicts"][0]["outcome"] == "MET"


def test_a_run_of_another_schema_is_refused(bench: Bench, tmp_path: Path) -> None:
    folder = made_up(tmp_path / "runs")
    with closing(sqlite3.connect(folder / FILE)) as connection:
        connection.execute("pragma user_version = 99")
    assert "schema version 99" in refused(bench("report"), "store")
    assert "schema version 99" in refused(bench("run", "--resume", folder.name), "store")


def test_a_run_without_rows_has_nothing_to_report(bench: Bench, tmp_path: Path) -> None:
    made_up(tmp_path / "runs", bursts=0)
    assert "holds no measurement yet" in refused(bench("report"), "store")


def test_a_run_cannot_go_on_on_another_machine(bench: Bench, tmp_path: Path) -> None:
    folder = made_up(tmp_path / "runs", complete=False)
    with Store.open(folder) as store:
        store.put("environment", msgspec.structs.replace(host.environment(ROOT), cpu="Abacus 3000"))
    assert "cannot go on here: its cpu was Abacus 3000, now it is " in refused(
        bench("run", "--resume", "latest"), "store"
    )


def test_a_run_does_not_go_on_with_other_packages(bench: Bench, tmp_path: Path) -> None:
    folder = made_up(tmp_path / "runs", complete=False)
    here = host.environment(ROOT)
    with Store.open(folder) as store:
        store.put("environment", msgspec.structs.replace(here, packages={**here.packages, "locust": "0.1"}))
    said = refused(bench("run", "--resume", "latest"), "store")
    assert f"its packages was locust 0.1, now it is locust {here.packages['locust']}" in said


def test_a_resumed_run_says_that_the_revision_changed(bench: Bench, tmp_path: Path) -> None:
    folder = made_up(tmp_path / "runs", complete=False)
    with Store.open(folder) as store:
        store.put("environment", msgspec.structs.replace(host.environment(ROOT), revision="0" * 40))
    assert bench("run", "--resume", "latest").err == ""
    assert "begun at revision 000000000000 and resumed at " in (folder / "report.html").read_text()


@pytest.mark.parametrize("dirty", [False, True])
def test_a_resumed_run_says_that_code_was_changed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dirty: bool
) -> None:
    folder, here = made_up(tmp_path / "runs", complete=False), host.environment(ROOT)
    with Store.open(folder) as store:
        store.put("environment", msgspec.structs.replace(here, dirty=False))
    monkeypatch.setattr(host, "environment", lambda _: msgspec.structs.replace(here, dirty=dirty))
    assert bench("run", "--resume", "latest").err == ""
    assert ("resumed with changes of the code that are in no revision" in (folder / "report.html").read_text()) is dirty


@pytest.mark.parametrize("command", [("report",), ("run", "--resume"), ("run",)])
def test_a_name_too_long_for_a_file_is_one_line(bench: Bench, command: tuple[str, ...]) -> None:
    assert "no " in refused(bench(*command, "x" * 300), "study" if command == ("run",) else "store")


@pytest.mark.parametrize("stderr", [False, True])
def test_a_reader_that_left_takes_no_command_away(stderr: bool) -> None:
    code = f"import sys; from harness.cli.output import Output; out = Output(stderr={stderr})"
    code += "; [out.print('x' * 9999) for _ in range(9)]; sys.exit(3)"
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as closed:
        ends = (
            {"stdout": subprocess.PIPE, "stderr": closed} if stderr else {"stdout": closed, "stderr": subprocess.PIPE}
        )
        done = subprocess.run([sys.executable, "-c", code], text=True, check=False, cwd=ROOT, **ends)  # type: ignore[call-overload]
    assert (done.returncode, done.stdout or "", done.stderr or "") == (3, "", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full is Linux's")
def test_nor_does_a_disk_that_is_full() -> None:
    code = "import sys; from harness.cli.output import Output; out = Output()"
    code += "; [out.print('x' * 9999) for _ in range(9)]; sys.exit(3)"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], text=True, check=False, cwd=ROOT, stdout=full, stderr=subprocess.PIPE
        )
    told = "standard output: No space left on device; going on without it\n"
    assert (done.returncode, done.stderr) == (3, told)


@pytest.mark.parametrize(("complete", "method"), [(True, "signed rank"), (False, "sequential")])
def test_who_ends_a_run_early_gets_intervals_that_allow_for_it(
    bench: Bench, tmp_path: Path, complete: bool, method: str
) -> None:
    """Whoever may stop when the numbers please him may not use intervals of a fixed length."""
    folder = made_up(tmp_path / "runs", MET, complete=complete)
    assert bench("report", "latest").code == 0
    summary = msgspec.json.decode((folder / "summary.json").read_bytes())
    assert {each["estimate"]["method"] for each in summary["verdicts"]} == {method}
    assert ("hold whenever one stops" in (folder / "report.html").read_text()) is not complete


def test_a_run_in_which_a_process_died_is_invalid_for_good(bench: Bench, tmp_path: Path) -> None:
    """What was mended since is another program: rows of both would be mixed."""
    folder = made_up(tmp_path / "runs", MET, complete=False)
    with Store.open(folder) as store:
        store.put("under_load", True)
        session.keep_end(store, TargetError("target all (pid 7) died: exit code 1"))
        before = store.measured()
    said = refused(bench("run", "--resume", "latest"), "store")
    assert said.startswith(f"{folder.name} stays INVALID, it was ended by: target all (pid 7) died: exit code 1; mend ")
    with Store.read(folder) as store:
        assert store.measured() == before
    told = " ".join(bench("report").out.replace("│", " ").split())
    assert "processes (run): target all (pid 7) died: exit code 1; bound: none dies or fails" in told
    assert "mend the cause and measure anew" in told
    assert "--resume" not in told


@pytest.mark.parametrize("error", [TargetError("cannot start ./server"), LoadError("no users"), StudyError("no file")])
def test_a_failed_attempt_to_go_on_leaves_the_run_valid_and_to_be_resumed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BenchError
) -> None:
    folder = made_up(tmp_path / "runs", MET, complete=False)
    with Store.open(folder) as store:
        session.keep_end(store, KeyboardInterrupt())
        before = store.measured()
    monkeypatch.setattr(session, "pipeline", _Ends(0, error))
    for _ in range(2):
        answer = bench("run", "--resume", "latest")
        assert (answer.code, answer.err) == (2, f"synapsed-bench: {error.fault}: {error}\n")
        assert f"go on with: synapsed-bench run --resume runs/{folder.name}" in answer.out
    assert "INVALID" not in bench("report").out
    with Store.read(folder) as store:
        assert store.measured() == before


def test_what_dies_in_the_first_stretch_after_a_resume_voids_the_run(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(tmp_path / "runs", MET, complete=False)
    monkeypatch.setattr(session, "pipeline", _Ends(0, TargetError("target all died"), under_load=True))
    assert bench("run", "--resume", "latest").code == 4
    assert "INVALID" in bench("report").out
    assert "stays INVALID" in refused(bench("run", "--resume", "latest"), "store")


def test_what_fails_to_start_in_a_later_burst_voids_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text(STUDY)
    monkeypatch.setattr(session, "pipeline", _Ends(2, TargetError("its port is taken")))
    answer = bench("run", "mine.toml")
    assert (answer.code, answer.err) == (2, "synapsed-bench: target: its port is taken\n")
    assert "go on with: synapsed-bench run --resume" in answer.out
    assert "INVALID" not in bench("report").out


def test_a_study_that_cannot_go_on_is_told_before_the_run_is_touched(bench: Bench, tmp_path: Path) -> None:
    folder = made_up(tmp_path / "runs", MET, bursts=2, complete=False)
    before = (folder / FILE).read_bytes()
    assert "'met' against 'none' gets 2 bursts, but 6 are the fewest" in refused(
        bench("run", "--resume", "latest"), "study"
    )
    assert (folder / FILE).read_bytes() == before


def test_a_complete_run_is_not_measured_again(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "pipeline", _Ends(1, AssertionError("it is measured")))
    folder = made_up(tmp_path / "runs", MET)
    answer = bench("run", "--resume", "latest")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"{folder.name} is complete: nothing is measured\n")
    assert answer.out.endswith(f"report: runs/{folder.name}/report.html\n")


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    ("expectations", "strict", "code"),
    [
        ((MET,), (), 0),
        ((MET,), ("--strict",), 0),
        ((MET, MISSED), ("--strict",), 1),
        ((OPEN,), ("--strict",), 3),
        ((MET, UNSEEN), ("--strict",), 0),
        ((UNSEEN,), ("--strict",), 3),
        ((), ("--strict",), 3),
        ((), (), 0),
    ],
)
def test_exit_codes_of_a_run_whose_bursts_are_all_there(
    bench: Bench,
    tmp_path: Path,
    expectations: tuple[Expectation, ...],
    strict: tuple[str, ...],
    code: int,
    complete: bool,
) -> None:
    folder = made_up(tmp_path / "runs", *expectations, complete=complete)
    answer = bench("run", "--resume", str(folder), *strict)
    assert (answer.code, answer.err) == (code, "")
    assert (folder / "report.html").exists()


def test_an_invalid_run_is_exit_4(bench: Bench, tmp_path: Path) -> None:
    folder = made_up(tmp_path / "runs", MET)
    with Store.open(folder) as store:
        rows = store.measured().slices
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as connection:
        for number, row in enumerate(rows, 1):  # half of the requests failed on every arm
            failed = msgspec.structs.replace(row, started=2 * row.answered, failed={"refused": row.answered})
            connection.execute("update slice set row = ? where id = ?", (msgspec.msgpack.encode(failed), number))
    answer = bench("run", "--resume", "latest", "--strict")
    assert answer.code == 4
    assert "INVALID" in answer.out


class _Ends:
    """Stands in for the pipeline: measures `bursts`, then ends as told: in the next one, or as it starts."""

    def __init__(self, bursts: int, error: BaseException, *, under_load: bool = False) -> None:
        self.bursts, self.error, self.under_load = bursts, error, under_load

    def run(self, study: Study, store: Store, *_: Any) -> None:
        assert arms.layout(study)
        fill(store, study, self.bursts)
        store.put("under_load", self.under_load)
        raise self.error


STUDY = """
name = "mine"
title = "t"
[budget]
min_bursts = 2
[[workload]]
name = "surge"
file = "scenarios/load/surge.py"
"""


@pytest.mark.parametrize(
    ("bursts", "error", "code", "said"),
    [
        (0, TargetError("target all died"), 2, "synapsed-bench: target: target all died\n"),
        (0, KeyboardInterrupt(), 130, ""),
        (2, LoadError("load died"), 4, "synapsed-bench: load: load died; what was measured is kept in runs/"),
        (2, StudyError("no file"), 4, "synapsed-bench: study: no file; what was measured is kept in runs/"),
        (2, StoreError("disk\n is full"), 4, "synapsed-bench: store: disk is full; what was measured is kept in runs/"),
        (2, KeyboardInterrupt(), 130, ""),
    ],
)
def test_however_a_run_ends_what_was_measured_is_kept(
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bursts: int,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    monkeypatch.setattr(session, "pipeline", _Ends(bursts, error, under_load=bursts > 0))
    (tmp_path / "mine.toml").write_text(STUDY)
    answer = bench("run", "mine.toml")
    assert answer.code == code
    assert answer.err.startswith(said)
    assert answer.err.count("\n") == (1 if said else 0)
    kept = list((tmp_path / "runs").iterdir())
    if not bursts:
        assert kept == []
        return
    folder = (tmp_path / "runs" / "latest").resolve()
    goes_on = isinstance(error, KeyboardInterrupt | StoreError | StudyError)
    assert (f"go on with: synapsed-bench run --resume runs/{folder.name}" in answer.out) is goes_on
    assert f"The run was ended by: {' '.join(str(error).split()) or 'Ctrl-C'}" in " ".join(
        (folder / "report.html").read_text().split()
    )
    summary = msgspec.json.decode((folder / "summary.json").read_bytes())
    assert summary["complete"] is False
    assert summary["valid"] is goes_on  # a system that died is not judged
    again = bench("report", "latest")
    assert ("INVALID" in again.out) is not summary["valid"]


@pytest.mark.parametrize("edited", ["mine.toml", "locustfile.py", "server.py"])
def test_a_run_does_not_go_on_with_another_load_or_program(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edited: str
) -> None:
    target = '[target]\nkind = "command"\ncommand = ["python", "server.py"]\n[[workload]]'
    study = STUDY.replace("[[workload]]", target).replace("scenarios/load/surge.py", "locustfile.py")
    (tmp_path / "mine.toml").write_text(study)
    for name in ("locustfile.py", "server.py"):
        (tmp_path / name).write_text("# as it was")
    monkeypatch.setattr(session, "pipeline", _Ends(2, KeyboardInterrupt()))
    assert bench("run", "mine.toml").code == 130
    folder, was = (tmp_path / "runs" / "latest").resolve(), (tmp_path / edited).read_bytes()
    before = (folder / FILE).read_bytes()
    monkeypatch.setattr(session, "pipeline", _Completes(0, AssertionError()))
    for becomes in (was + b"\n# edited", None):
        (tmp_path / edited).unlink()
        if becomes is not None:
            (tmp_path / edited).write_bytes(becomes)
        said = refused(bench("run", "--resume", "latest"), "store")
        assert f"cannot go on: since it began these changed or went away: {edited}; put them back or measure" in said
        assert (folder / FILE).read_bytes() == before
    (tmp_path / edited).write_bytes(was)
    assert bench("run", "--resume", "latest").err == ""


class _IsTerminated(_Ends):
    """As CI ends a job: by a signal, in the middle."""

    def run(self, study: Study, store: Store, *_: Any) -> None:
        fill(store, study, self.bursts)
        signal.raise_signal(signal.SIGTERM)


def test_sigterm_ends_a_run_as_ctrl_c_does(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "pipeline", _IsTerminated(2, AssertionError("nothing was raised")))
    (tmp_path / "mine.toml").write_text(STUDY)
    answer = bench("run", "mine.toml")
    assert answer.code == 130
    assert "go on with: synapsed-bench run --resume" in answer.out
    assert (tmp_path / "runs" / "latest" / "report.html").is_file()


class _Completes(_Ends):
    """Measures to the end."""

    def run(self, study: Study, store: Store, *_: Any) -> Any:
        fill(store, study, self.bursts)
        return analyse(study, store.measured())


def test_a_full_disk_takes_the_report_and_not_the_word(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session, "pipeline", _Completes(2, AssertionError()))
    monkeypatch.setattr(reports, "write", full)
    (tmp_path / "mine.toml").write_text(STUDY)
    answer = bench("run", "mine.toml")
    assert answer.code == 2
    assert "surge" in answer.out
    assert "the report cannot be written to runs/" in answer.err


@pytest.mark.parametrize("bursts", [0, 2])
def test_a_bug_of_ours_is_never_the_exit_code_of_a_verdict_and_leaves_no_empty_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bursts: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "pipeline", _Ends(bursts, ValueError("off by one")))
    (tmp_path / "mine.toml").write_text(STUDY)
    with pytest.raises(SystemExit) as ended:
        app.main(("run", "mine.toml"))
    told = capsys.readouterr().err
    assert ended.value.code == 4
    assert "Traceback" in told  # for the bug report
    assert told.splitlines()[-1].startswith("synapsed-bench: a bug of ours: ValueError: off by one; ")
    assert os.path.lexists(tmp_path / "runs" / "latest") is (bursts > 0)


def test_a_report_that_cannot_be_written_does_not_hide_why_the_run_ended(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session, "pipeline", _Ends(2, TargetError("target all died"), under_load=True))
    monkeypatch.setattr(reports, "write", full)
    (tmp_path / "mine.toml").write_text(STUDY)
    answer = bench("run", "mine.toml")
    assert answer.code == 4
    assert answer.err.startswith("synapsed-bench: target: target all died; what was measured is kept in runs/")
    assert "No space left on device" in answer.out


def test_a_report_that_cannot_be_written_is_one_line(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    folder = made_up(tmp_path / "runs")
    monkeypatch.setattr(reports, "write", full)
    said = refused(bench("report"), "store")
    assert said == f"the report cannot be written to runs/{folder.name}: No space left on device"


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield str(other.getsockname()[1])


def test_a_taken_port_is_one_line_for_the_web_ui(bench: Bench, taken: str) -> None:
    said = refused(bench("web", "--port", taken), "usage")
    assert said == f"cannot listen on 127.0.0.1:{taken}: Address already in use; choose another with --port"


def test_the_web_ui_can_listen_on_an_address_of_ipv6(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 on this machine")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        port = str(other.getsockname()[1])
        said = refused(bench("web", "--host", "::1", "--port", port), "usage")
        assert said == f"cannot listen on [::1]:{port}: Address already in use; choose another with --port"
    became: list[list[str]] = []

    def execv(_: str, words: list[str]) -> None:
        became.append(words)
        raise SystemExit(0)  # as this process would be Locust now

    monkeypatch.setattr(os, "execv", execv)
    assert bench("web", "--host", "::1", "--port", port).code == 0
    assert became[0][became[0].index("--web-host") + 1] == "::1"


def test_an_address_that_is_not_ours_is_one_line_for_the_web_ui(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(bench("web", "--host", "192.0.2.1"), "usage")
    assert said == "cannot listen on 192.0.2.1:8089: Cannot assign requested address; choose another with --host"
    said = refused(bench("web", "--host", "a" * 70), "usage")  # longer than a name can be
    assert said.startswith(f"cannot listen on {'a' * 70}:8089: ")
    assert said.endswith("; choose another with --host")

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    said = refused(bench("web", "--host", "nowhere"), "usage")
    assert said == "cannot listen on nowhere:8089: Name or service not known; choose another with --host"


def test_a_taken_port_is_one_line_for_a_node(bench: Bench, taken: str) -> None:
    answer = bench("serve", "--port", taken)
    assert answer.code == 2
    assert answer.err.startswith(f"serve: cannot listen on 127.0.0.1:{taken}: ")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--on", "poling"), "unknown optimization 'poling'; expected one of: pooling"),
        (("--port", "70000"), "--port is 70000; expected 0 to 65535"),
        (("--port", "-1"), "--port is -1; expected 0 to 65535"),
        (("--port", "65535", "--peers", "2"), "--peers is 2: 2 ports from 65535 on; expected none beyond 65535"),
        (("--peers", "40000", "--transports", "tcp,tls"), "--peers is 40000: 80000 ports from 1 on; expected none "),
        (("--metrics-port", "70000"), "ExpositionSettings.port is 70000; expected a whole number from 0 to 65535"),
        (("--host", "a..b"), "--host is 'a..b'; expected an address or a name"),
        (("--host", ""), "--host is ''; expected an address or a name"),
        (("--settings", '{"node":{"backlog":99999999999}}'), "node.backlog is 99999999999; expected a whole number"),
        (("--settings", '{"buffer_pool":{"small_buffers":1%s}}' % ("0" * 30)), "buffer_pool.small_buffers is 1000"),
        (("--settings", '{"faults":{"rules":[{"kind":[]}]}}'), "faults.rules[0].kind is []; expected one of: refuse"),
        (("--settings", "9" * 5000), "Exceeds the limit (4300 digits)"),
        (("--settings", "[" * 100_000), "maximum recursion depth exceeded"),
    ],
)
def test_wrong_arguments_of_a_node_are_one_line(bench: Bench, arguments: tuple[str, ...], said: str) -> None:
    answer = bench("serve", *arguments)
    assert answer.code == 2
    assert answer.err.startswith(f"serve: {said}")
    assert answer.err.count("\n") == 1
