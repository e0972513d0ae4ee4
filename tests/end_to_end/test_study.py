"""A real study in seconds through real processes: undisturbed, and with every mishap it must survive."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from harness.measure.records import Measured
from harness.measure.store import FILE, Store
from tests.processes import Command, Ended, bench, command, run, wait_for

STUDY = """
name = "tiny"
title = "Do they pay, in seconds?"
seed = 7
confidence = 0.5  # three bursts suffice to decide one question

[target]
peers = 8

[design]
hidden = false

[budget]
seconds = 1  # as many bursts as the question needs, and no more
blocks = 3
min_bursts = 3
max_bursts = 3
memory_requests = 16

[[workload]]
name = "surge"
file = "scenarios/load/surge.py"
users = 2
slice_seconds = 0.15

[[expectation]]
name = "throughput"
claim = "more of it"
workload = "surge"
metric = "throughput"
at_least = 1.05
"""
SHORT = STUDY.partition("[[expectation]]")[0].replace("_bursts = 3", "_bursts = 1")
"""Without a question to decide, one burst will do."""
TARGET, LOAD = "reference_impl", "harness.execute.worker"
pytestmark = pytest.mark.timeout(300)
"""Each fixture is a sequence of real runs; on a loaded machine these take their time."""


def _folder(cwd: Path) -> Path:
    (only,) = (path for path in (cwd / "runs").iterdir() if not path.is_symlink())
    return only


def _measured(folder: Path) -> Measured:
    with Store.open(folder) as store:
        return store.measured()


def _slices(cwd: Path) -> int:
    """How many slices the run under `cwd` holds by now, seen from outside."""
    try:
        with closing(sqlite3.connect(f"file:{_folder(cwd) / FILE}?mode=ro", uri=True)) as connection:
            (count,) = connection.execute("select count(*) from slice").fetchone()
    except (ValueError, OSError, sqlite3.Error):  # not there yet
        return 0
    return int(count)


def _conserved(measured: Measured) -> bool:
    return all(
        row.started == row.answered + row.rejected + row.failures + row.cancelled and row.answered > 0
        for row in measured.slices
    )


class Finished(NamedTuple):
    """A run from start to end."""

    ended: Ended
    folder: Path
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    cwd = tmp_path_factory.mktemp("undisturbed")
    (cwd / "tiny.toml").write_text(STUDY)
    ended = run(*bench("run", "tiny.toml"), cwd=cwd)
    folder = _folder(cwd)
    return Finished(ended, folder, json.loads((folder / "summary.json").read_bytes()))


def test_a_study_ends_with_a_verdict_a_table_and_a_report(undisturbed: Finished) -> None:
    ended, folder, summary = undisturbed
    assert ended.code == (0 if summary["valid"] else 4), ended
    assert ended.err == ""
    assert "burst 3 done" in ended.out
    assert f"report: runs/{folder.name}/report.html\n" in ended.out
    (verdict,) = summary["verdicts"]
    assert verdict["outcome"] in (("MET", "MISSED") if summary["valid"] else ("INCONCLUSIVE",))
    assert verdict["outcome"] in ended.out
    page = (folder / "report.html").read_text()
    assert verdict["sentence"][:40] in page.replace("&#39;", "'")
    assert (folder.parent / "latest").resolve() == folder


def test_every_request_is_counted_once(undisturbed: Finished) -> None:
    measured = _measured(undisturbed.folder)
    assert _conserved(measured)
    assert [burst.complete for burst in measured.bursts] == [True] * 3
    assert len(measured.slices) == 3 * 3 * 2
    assert {(row.burst, row.arm) for row in measured.readings} == {
        (n, arm) for n in range(3) for arm in ("none", "all")
    }
    for row in measured.slices:
        assert sum(each.service_seconds().size for each in row.latencies) == row.answered


def test_reporting_again_gives_the_same_bytes(undisturbed: Finished) -> None:
    files = [undisturbed.folder / name for name in ("report.html", "summary.json")]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    assert run(*bench("report"), cwd=undisturbed.folder.parent.parent).code == 0
    assert [file.read_bytes() for file in files] == before


class Mishap(NamedTuple):
    """What one mishap left: how the command ended, and the rows before and after."""

    ended: Ended
    before: Measured
    after: Measured
    reported: bool


class Mishaps(NamedTuple):
    """One run that meets those it survives, one after the other, each time resumed."""

    interrupted: Mishap
    harness_killed: Mishap
    finished: Mishap
    folder: Path


NOTHING = Measured((), (), ())


def _kill(started: Command, part: str) -> None:
    """SIGKILL a process of the kind `part` again and again until the harness has noticed: one that was about to be
    ended anyway is no mishap."""

    def noticed() -> bool:
        for process in started.descendants(part)[:1]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        return not started.alive()

    wait_for(noticed, started.said)


def _under_load(cwd: Path, arguments: tuple[str, ...], disturb: Any, before: Measured = NOTHING) -> Mishap:
    """Disturb the command once it has measured two slices more than `before`."""
    with command(*bench(*arguments), cwd=cwd) as started:
        wait_for(lambda: _slices(cwd) >= len(before.slices) + 2 or not started.alive(), started.said)
        disturb(started)
        ended = started.ended()
    folder = _folder(cwd)
    report = folder / "report.html"
    found = Mishap(ended, before, _measured(folder), report.exists())
    report.unlink(missing_ok=True)
    return found


RUN, AGAIN = ("run", "tiny.toml"), ("run", "--resume", "latest")


@pytest.fixture(scope="module")
def mishaps(tmp_path_factory: pytest.TempPathFactory) -> Mishaps:
    cwd = tmp_path_factory.mktemp("mishaps")
    (cwd / "tiny.toml").write_text(SHORT)
    interrupted = _under_load(cwd, RUN, lambda started: started.process.send_signal(signal.SIGINT))
    killed = _under_load(
        cwd, AGAIN, lambda started: started.process.send_signal(signal.SIGKILL), before=interrupted.after
    )
    finished = _under_load(cwd, AGAIN, lambda started: None, before=killed.after)
    return Mishaps(interrupted, killed, finished, _folder(cwd))


@pytest.mark.parametrize(
    ("part", "whose"), [(TARGET, "target: target "), (LOAD, "load: load process ")], ids=["target", "load"]
)
def test_a_killed_process_is_one_line_that_says_whose_it_was_and_the_run_is_over(
    tmp_path: Path, part: str, whose: str
) -> None:
    (tmp_path / "tiny.toml").write_text(SHORT)
    mishap = _under_load(tmp_path, RUN, lambda started: _kill(started, part))
    folder = _folder(tmp_path)
    assert mishap.ended.code == 4
    (line,) = mishap.ended.err.splitlines()
    assert line.startswith(f"synapsed-bench: {whose}")
    assert "killed by SIGKILL" in line
    assert line.endswith(f"what was measured is kept in runs/{folder.name}")
    assert "peer_id" not in line
    assert "Traceback" not in mishap.ended.out
    assert mishap.reported
    assert _conserved(mishap.after)
    again = run(*bench(*AGAIN), cwd=tmp_path)
    assert again.code == 2
    assert again.err.startswith(f"synapsed-bench: store: {folder.name} stays INVALID, it was ended by: ")
    assert _measured(folder) == mishap.after


def test_ctrl_c_writes_the_report_and_exits_130(mishaps: Mishaps) -> None:
    assert mishaps.interrupted.ended.code == 130
    assert mishaps.interrupted.ended.err == ""
    assert mishaps.interrupted.reported
    assert f"go on with: synapsed-bench run --resume runs/{mishaps.folder.name}" in mishaps.interrupted.ended.out


def test_a_killed_harness_leaves_rows_and_no_process(mishaps: Mishaps) -> None:
    assert mishaps.harness_killed.ended.code == -signal.SIGKILL
    assert not mishaps.harness_killed.reported
    assert len(mishaps.harness_killed.after.slices) > len(mishaps.harness_killed.before.slices)


def test_no_mishap_loses_a_row(mishaps: Mishaps) -> None:
    stages = mishaps[:-1]
    for stage in stages:
        assert isinstance(stage, Mishap)
        assert stage.after.slices[: len(stage.before.slices)] == stage.before.slices
        assert len(stage.after.slices) >= len(stage.before.slices) + 2
        assert _conserved(stage.after)


def test_the_resumed_run_finishes_and_its_report_has_every_pair(mishaps: Mishaps) -> None:
    finished = mishaps.finished
    summary = json.loads((mishaps.folder / "summary.json").read_bytes())
    assert finished.ended.code == (0 if summary["valid"] else 4), finished.ended
    assert finished.reported
    assert [burst.complete for burst in finished.after.bursts] == [False] * 2 + [True]
    blocks = [(row.burst, row.block) for row in finished.after.slices]
    pairs = sum(blocks.count(each) == 2 for each in set(blocks))
    assert pairs >= 2 + 3
    (throughput,) = (each for each in summary["contrasts"] if each["metric"] == "throughput")
    assert (throughput["estimate"]["pairs"], throughput["unusable"]) == (pairs, 0)
    assert summary["complete"] is True
    assert summary["interrupted"] == 2


def test_a_target_that_dies_before_the_first_slice_is_exit_2_and_leaves_no_run(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SHORT)
    with command(*bench("run", "tiny.toml"), cwd=tmp_path) as started:
        wait_for(lambda: bool(started.descendants(TARGET)), started.said)
        for process in started.descendants(TARGET):
            process.send_signal(signal.SIGKILL)
        ended = started.ended()
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert line.startswith("synapsed-bench: target: target ")
    assert "killed by SIGKILL" in line
    assert list((tmp_path / "runs").iterdir()) == []


def test_settings_that_the_target_refuses_are_told_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SHORT.replace("peers = 8", "peers = 8\nsettings.node.bogus = 1"))
    ended = run(*bench("run", "tiny.toml"), cwd=tmp_path)
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert "unknown setting node.bogus; expected one of: " in line
