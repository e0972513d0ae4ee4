"""Stored runs on the command line: exported values are what `judge` reads, and two runs are held side by side."""

from __future__ import annotations

import csv
import ctypes
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from harness import runs, session
from harness.analyse.analysis import analyse
from harness.errors import TargetError
from harness.measure.store import FILE, Store
from harness.study.file import ROOT
from harness.study.records import Expectation
from reports import frames
from tests.harness.analyse.synthetic import a_run, a_study
from tests.harness.cli.test_app import MET, MISSED, Bench, bench, made_up, refused

__all__ = ["bench"]


def test_exported_values_are_those_that_were_judged(bench: Bench, tmp_path: Path) -> None:
    folder = made_up(tmp_path / "runs", MET)
    answer = bench("export", folder.name, "--workload", "surge")
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert (answer.code, answer.err) == (0, "")
    assert tuple(rows[0]) == frames.VALUES
    with Store.open(folder) as store:
        slices = {(row.burst, row.block, row.arm): row for row in store.measured().slices if row.workload == "surge"}
    found = {
        (int(r["burst"]), int(r["pair"]), r["arm"]): float(r["value"]) for r in rows if r["metric"] == "throughput"
    }
    assert found == pytest.approx({key: row.answered / row.seconds for key, row in slices.items()})
    assert {row["request"] for row in rows if row["metric"] == "latency_p50"} == {"request"}


def test_what_is_exported_can_be_judged(bench: Bench, tmp_path: Path) -> None:
    made_up(tmp_path / "runs", MET)
    assert bench("export", "--workload", "surge", "-o", "pairs.csv").code == 0
    judged = bench(
        "judge", "pairs.csv", "--a", "none", "--b", "all", "--expect", "throughput>=2", "--json", "found.json"
    )
    assert judged.code == 0
    own = analyse(a_study(MET), a_run(a_study(MET), {"all": 0.25}, 12)).verdicts[0]
    (found,) = json.loads((tmp_path / "found.json").read_text())["verdicts"]
    assert own.contrast
    assert own.contrast.estimate
    assert found["estimate"]["ratio"] == pytest.approx(own.contrast.estimate.ratio)


def test_no_errors_are_judged_alike_wherever(bench: Bench, tmp_path: Path) -> None:
    """Both arms have none, one of them of four times as many requests."""
    made_up(tmp_path / "runs", MET)
    assert bench("export", "--workload", "surge", "-o", "pairs.csv").code == 0
    judged = bench(
        "judge", "pairs.csv", "--a", "none", "--b", "all", "--expect", "error_ratio<=0.9", "--json", "found.json"
    )
    (found,) = json.loads((tmp_path / "found.json").read_text())["verdicts"]
    assert (judged.code, found["outcome"]) == (1, "MISSED")
    assert (found["estimate"]["low"], found["estimate"]["high"]) == (1.0, 1.0)


def test_json_lines_and_readings_are_exported_too(bench: Bench, tmp_path: Path) -> None:
    made_up(tmp_path / "runs")
    rows = [json.loads(line) for line in bench("export", "latest", "--format", "json").out.splitlines()]
    assert {"slice", "reading"} <= {row["source"] for row in rows}
    assert all(row["unit"] == "B" for row in rows if row["metric"] == "target_memory")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "--format", "xlsx"), "--format 'xlsx'; expected one of: csv, json"),
        (("export", "--workload", "bulk"), "--workload 'bulk'; expected one of: surge"),
    ],
)
def test_a_wrong_word_is_one_line(bench: Bench, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    made_up(tmp_path / "runs")
    assert refused(bench(*arguments), "usage") == said


def test_an_export_does_not_replace_the_run_it_reads(bench: Bench, tmp_path: Path) -> None:
    folder = made_up(tmp_path / "runs")
    told = refused(bench("export", "-o", str(folder / FILE)), "usage")
    assert "this is the run to be read; expected another file to write" in told
    assert bench("export").code == 0


def test_an_export_that_cannot_be_written_is_one_line(bench: Bench, tmp_path: Path) -> None:
    made_up(tmp_path / "runs")
    assert "no/x.csv: cannot be written: No such file" in refused(bench("export", "-o", "no/x.csv"), "store")


def test_two_runs_of_one_study_agree(bench: Bench, tmp_path: Path) -> None:
    first, second = made_up(tmp_path / "runs", MET, MISSED), made_up(tmp_path / "runs", MET, MISSED)
    assert first != second
    answer = bench("compare", first.name, second.name)
    assert answer.code == 0
    assert answer.out.count("yes") == 2
    assert "agree: their intervals overlap" in " ".join(answer.out.split())


def test_a_contradiction_is_exit_1_and_shown(bench: Bench, tmp_path: Path) -> None:
    first, second = made_up(tmp_path / "runs", MET), made_up(tmp_path / "runs", MET, shift=0.9)
    answer = bench("compare", first.name, second.name)
    assert answer.code == 1
    assert "MISSED" in answer.out
    assert " no" in answer.out


def test_what_was_asked_otherwise_is_no_contradiction(bench: Bench, tmp_path: Path) -> None:
    otherwise = Expectation(**{**msgspec.structs.asdict(MET), "at_least": 8.0})  # MET and MISSED, and both are right
    first, second = made_up(tmp_path / "runs", MET), made_up(tmp_path / "runs", otherwise)
    answer = bench("compare", first.name, second.name)
    assert answer.code == 0
    assert "MISSED" not in answer.out


def test_an_invalid_run_contradicts_nothing(bench: Bench, tmp_path: Path) -> None:
    first = made_up(tmp_path / "runs", MET)
    second = made_up(tmp_path / "runs", MET, shift=0.9, complete=False)
    with Store.open(second) as store:
        store.put("under_load", True)
        session.keep_end(store, TargetError("target all (pid 7) died"))
    answer = bench("compare", first.name, second.name)
    assert answer.code == 0
    assert "The second run is INVALID: its verdicts count for nothing." in answer.out


def test_runs_without_anything_in_common_are_one_line(bench: Bench, tmp_path: Path) -> None:
    first, second = made_up(tmp_path / "runs", bursts=3), made_up(tmp_path / "runs", bursts=3)
    said = refused(bench("compare", first.name, second.name), "usage")
    assert "share no expectation and no estimate with an interval" in said


def test_estimates_apart_are_told() -> None:
    study = a_study(MET)
    one, other = (analyse(study, a_run(study, {"all": shift}, 12, sd_pair=0.01)) for shift in (0.25, 0.5))
    both = frames.estimates(one, other)
    apart = both[~both["agree"]]
    assert set(both["role"]) >= {"treatment", "a/a"}
    assert "throughput" in set(apart["metric"])
    assert "a/a" not in set(apart["role"])


def test_segments_are_exported_apart_from_what_can_be_judged(bench: Bench, tmp_path: Path) -> None:
    made_up(tmp_path / "runs", MET, segment_seconds=1.0)

    def sources(*flags: str) -> set[str]:
        return {json.loads(line)["source"] for line in bench("export", "--format", "json", *flags).out.splitlines()}

    assert {"slice", "segment"} <= sources()
    assert "segment" not in sources("--workload", "surge")
    assert sources("--workload", "surge", "--segments") == {"segment"}


def test_a_report_of_a_run_in_progress_does_not_say_that_it_was_killed(bench: Bench, tmp_path: Path) -> None:
    folder = made_up(tmp_path / "runs", MET, complete=False)
    with runs.claimed(folder):
        answer = bench("report")
        assert "STILL RUNNING" in answer.out
        assert "INTERRUPTED" not in answer.out
        page = (folder / "report.html").read_text()
        assert "<title>still running: " in page
        assert "was being measured when this was written" in page
        assert "killed" not in page
    assert "INTERRUPTED" in bench("report").out
    page = (folder / "report.html").read_text()
    assert "its process, which was killed" in page
    assert "still running" not in page


def _bound_by_permissions() -> None:
    """Root may write anywhere unless it gives that up for good (PR_CAPBSET_DROP of CAP_DAC_OVERRIDE)."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("report", "."), 2, "synapsed-bench: store: the report cannot be written to .: Permission denied\n"),
        (("compare", ".", "."), 0, ""),
        (("export", ".", "-o", "../values.csv"), 0, ""),
    ],
)
def test_a_run_in_a_read_only_folder_can_be_read(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    folder = made_up(tmp_path / "runs", MET)
    (folder / FILE).chmod(0o444)
    folder.chmod(0o555)
    done = subprocess.run(
        (sys.executable, "-m", "harness.cli", *arguments),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        preexec_fn=_bound_by_permissions,
        check=False,
    )
    folder.chmod(0o755)  # for whoever clears it away
    assert (done.returncode, done.stderr) == (code, said)
    if arguments[0] == "export":
        assert "throughput" in (folder.parent / "values.csv").read_text()
    else:
        assert "MET" in done.stdout
