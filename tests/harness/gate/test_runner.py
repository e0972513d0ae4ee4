"""A duel that ends badly: the reports that were asked for say so, and none of an earlier run speaks for it."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as xml

import pytest
from msgspec.structs import replace
from rich.console import Console

from harness import pipeline, session
from harness.errors import BenchError, MeasurementVoid, StoreError, TargetError, UsageError
from harness.execute import host
from harness.gate import runner
from harness.gate.rules import Policy
from harness.gate.runner import Setting
from harness.gate.two_arms import DuelSteering, duel
from harness.measure.store import Store
from harness.study.records import Arm, Study, Target, Workload
from tests.harness.analyse.synthetic import a_run

DIED = TargetError("target head (pid 7) died: killed by SIGKILL")


def steering() -> DuelSteering:
    workload = Workload(name="surge", file="surge.py")
    policy = Policy()
    return DuelSteering(
        duel("gate", "head against base", (Arm(name="base"), Arm(name="head")), (workload,), 300, policy)
    )


def test_a_load_process_that_was_the_limit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two programs; a PASS says little about a throughput that Locust decided."""

    def run(study: Study, store: Store, *_: object) -> None:
        measured = a_run(study, {}, 24)
        for burst in measured.bursts:
            store.add_burst(burst)
        for row in measured.slices:
            store.add_slice(replace(row, cpu_load=0.97 * row.seconds, cpu_target=0.2 * row.seconds))

    monkeypatch.setattr(pipeline, "run", run)
    server = Target(kind="command", command=("server",))
    arms = Arm(name="base", target=server), Arm(name="head", target=server)
    asked = duel("ab", "b against a", arms, (Workload(name="surge", file="surge.py"),), 300, Policy())
    runner.run(DuelSteering(asked), setting(tmp_path))
    told = (tmp_path / "gate.md").read_text()
    assert "surge on base: the load process used more than 90% of its core, and the target less" in told
    assert "surge on head: " in told


def setting(folder: Path) -> Setting:
    files = (("markdown", folder / "gate.md"), ("junit", folder / "gate.xml"))
    for _, path in files:
        path.write_text("PASS of yesterday")
    console, now = Console(file=io.StringIO(), width=100), datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    return Setting(folder, folder / "runs", "again", "base", "head", console, now, files)


def ending_with(
    error: BaseException | None, bursts: int, monkeypatch: pytest.MonkeyPatch, shifts: Mapping[str, float] | None = None
) -> None:
    """A measurement that keeps so many bursts, of equal arms but for `shifts`, and then ends so."""

    def run(study: object, store: Store, *_: object) -> None:
        measured = a_run(steering().asked.study, shifts or {}, bursts)
        for burst in measured.bursts:
            store.add_burst(burst)
        for row in measured.slices:
            store.add_slice(row)
        if error is not None:
            raise error

    monkeypatch.setattr(pipeline, "run", run)


@pytest.mark.parametrize(("bursts", "kind"), [(0, TargetError), (20, MeasurementVoid)])
def test_a_dead_process_is_invalid_in_every_report(
    bursts: int, kind: type[BenchError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending_with(DIED, bursts, monkeypatch)
    with pytest.raises(kind, match="killed by SIGKILL"):
        runner.run(steering(), setting(tmp_path))
    told = (tmp_path / "gate.md").read_text()
    assert "INVALID: target head (pid 7) died: killed by SIGKILL" in told
    assert "PASS" not in told
    suite = xml.fromstring((tmp_path / "gate.xml").read_bytes())[0]
    assert suite.get("errors") == suite.get("tests") != "0"
    assert len(list((tmp_path / "runs").glob("2026*"))) == (bursts > 0)


@pytest.mark.parametrize("bursts", [0, 20])
def test_ctrl_c_is_no_verdict_either(bursts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ending_with(KeyboardInterrupt(), bursts, monkeypatch)
    assert runner.run(steering(), setting(tmp_path)) == 130
    assert "INVALID: interrupted before there was a verdict" in (tmp_path / "gate.md").read_text()


def test_a_bug_of_ours_before_the_first_slice_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ending_with(ZeroDivisionError(), 0, monkeypatch)
    with pytest.raises(ZeroDivisionError):
        runner.run(steering(), setting(tmp_path))
    assert not list((tmp_path / "runs").iterdir())


def test_what_ends_before_the_first_burst_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(host, "environment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.run(steering(), setting(tmp_path))
    assert not list((tmp_path / "runs").iterdir())


def test_the_report_is_headed_by_the_word_and_so_it_is_when_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending_with(None, 20, monkeypatch)
    assert runner.run(steering(), setting(tmp_path)) == 0
    (folder,) = (tmp_path / "runs").glob("2026*")
    pages = [folder / name for name in ("report.html", "summary.json")]
    written = [page.read_bytes() for page in pages]
    word = "PASS: no metric of head lost its margin against base: "
    assert json.loads(written[1])["answer"].startswith(word)
    assert f">{word}" in written[0].decode()
    console = Console(file=io.StringIO(), width=100)
    session.report(folder, console)
    assert [page.read_bytes() for page in pages] == written
    assert word in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_gate_that_cannot_trust_itself_is_invalid_in_its_run_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending_with(None, 60, monkeypatch, {"base-again": 1.028})  # beyond the gate's 1 %, within a study's 3 %
    assert runner.run(steering(), setting(tmp_path)) == 4
    (folder,) = (tmp_path / "runs").glob("2026*")

    def invalid() -> bool:
        summary, page = json.loads((folder / "summary.json").read_bytes()), (folder / "report.html").read_text()
        failed = [each["name"] for each in summary["checks"] if each["status"] == "invalid"]
        return not summary["valid"] and failed == ["gate"] and "<strong>INVALID.</strong>" in page

    assert invalid()
    session.report(folder, Console(file=io.StringIO(), width=100))
    assert invalid()


def test_a_report_is_not_written_over_what_is_read(tmp_path: Path) -> None:
    read = tmp_path / "pairs.csv"
    read.write_text("burst,pair")
    with pytest.raises(UsageError, match=r"--json .*pairs.csv: this is the file to be read; expected another"):
        runner.clear((("json", read),), read)
    assert read.read_text() == "burst,pair"


def test_two_reports_do_not_share_a_file(tmp_path: Path) -> None:
    file, link = tmp_path / "gate", tmp_path / "link"
    file.write_text("kept")
    link.symlink_to(file)
    with pytest.raises(UsageError, match=r"--junit .*link: this is where --markdown is to be written; expected a file"):
        runner.clear((("markdown", file), ("junit", link)))
    runner.clear((("markdown", Path("/dev/stdout")), ("junit", Path("/dev/stdout"))))


def test_a_device_to_be_written_to_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[Path] = []
    monkeypatch.setattr(Path, "unlink", lambda path, **_: removed.append(path))
    runner.clear((("markdown", Path("/dev/stdout")), ("junit", Path("gate.xml"))))
    assert removed == [Path("gate.xml")]


def test_a_report_behind_a_link_does_not_speak_for_a_later_run(tmp_path: Path) -> None:
    link, target = tmp_path / "out", tmp_path / "target"
    target.write_text("PASS of yesterday")
    link.symlink_to(target)
    runner.clear((("markdown", link),))
    assert not link.exists()


def test_a_report_that_cannot_be_written_does_not_hide_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("no space left on device")

    ending_with(DIED, 20, monkeypatch)
    monkeypatch.setattr(runner, "write_views", full)
    here = setting(tmp_path)
    with pytest.raises(MeasurementVoid, match="killed by SIGKILL"):
        runner.run(steering(), here)
    assert "no space left on device" in here.console.file.getvalue()  # type: ignore[attr-defined]
    assert not (tmp_path / "gate.md").exists()


def test_a_report_that_cannot_be_written_does_not_lose_the_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("no space left on device")

    ending_with(None, 60, monkeypatch, {"base-again": 1.028})
    monkeypatch.setattr(runner, "write_views", full)
    with pytest.raises(StoreError, match="no space left on device"):
        runner.run(steering(), setting(tmp_path))
    (folder,) = (tmp_path / "runs").glob("2026*")
    summary = json.loads((folder / "summary.json").read_bytes())
    assert not summary["valid"]
    assert summary["answer"].startswith("INVALID: ")


def test_what_cannot_be_replaced_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="folder: cannot be replaced"):
        runner.clear((("junit", tmp_path / "folder"),))
    with pytest.raises(UsageError, match="there is no folder"):
        runner.clear((("junit", tmp_path / "no" / "x.xml"),))
