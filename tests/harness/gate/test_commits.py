"""The gate with real processes: two trees of the reference implementation, one of them burning CPU."""

from __future__ import annotations

import datetime
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as xml

import psutil
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from harness import session
from harness.cli.app import app
from harness.errors import StoreError, TargetError, UsageError
from harness.execute.burst import ArmSpec, BurstSpec
from harness.gate import commits, two_arms
from harness.gate.commits import PACKAGE, RevisionSteering, Slots
from harness.gate.revisions import Revision
from harness.gate.rules import Margins, Policy
from harness.gate.runner import Setting
from harness.plan import schedule
from harness.plan.arms import layout
from harness.study.file import ROOT

pytestmark = pytest.mark.timeout(300)  # real bursts, and eight of them on a noisy machine
BURN = """
import threading, time
threading.Thread(target=lambda: [time.sleep(0.001) for _ in iter(lambda: sum(range(50_000)), 0)], daemon=True).start()
"""
SHORT = Policy(alpha_fail=0.01, min_bursts=2, max_bursts=8, margins=Margins(fail=0.2, passing=0.5))
"the slower revision is found after two; what tests beside do to equal arms must not look like a difference"


def a_tree(folder: Path, extra: str = "") -> Path:
    """A tree with our reference implementation; `extra` is run when a node starts."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / PACKAGE, folder / PACKAGE, ignore=ignore)
    main = folder / PACKAGE / "__main__.py"
    main.write_text(main.read_text().replace("\nif __name__", f"{extra}\nif __name__"))
    return folder


def a_revision(name: str, tree: Path, python: str = sys.executable) -> Revision:
    return Revision(name, name * 10, tree, python)


@pytest.fixture
def setting(tmp_path: Path) -> Callable[..., Setting]:
    """A place for a gate, with both reports asked for."""
    files = (("markdown", tmp_path / "gate.md"), ("junit", tmp_path / "gate.xml"))

    def make(files: tuple[tuple[str, Path], ...] = files) -> Setting:
        console = Console(file=io.StringIO(), width=100)
        now = datetime.datetime.now(datetime.UTC)
        return Setting(tmp_path, tmp_path / "runs", "again", "base", "head", console, now, files)

    return make


def printed(setting: Setting) -> str:
    return " ".join(setting.console.file.getvalue().split())  # type: ignore[attr-defined]


def test_a_slower_revision_fails_by_name_and_size(
    tmp_path: Path, setting: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_arms, "WORKLOADS", two_arms.WORKLOADS[:1])
    base, head = a_revision("one", a_tree(tmp_path / "1")), a_revision("two", a_tree(tmp_path / "2", BURN))
    here = setting()
    assert commits.run(base, head, here, cache=tmp_path / "cache", policy=SHORT) == 1, printed(here)
    told = printed(here)
    assert "FAIL: head against base:" in told
    assert "CPU per request" in told.split("FAIL: head against base:")[1]
    assert "two (twotwotwot)" not in told  # a commit that starts with its name is not told twice
    assert "FAIL" in (tmp_path / "gate.md").read_text()
    suite = xml.fromstring((tmp_path / "gate.xml").read_bytes())[0]
    assert int(suite.get("failures", "0")) >= 1
    assert not list((tmp_path / "cache").glob("slot-*"))
    assert not [each for each in psutil.Process().children(recursive=True) if PACKAGE in " ".join(each.cmdline())]
    run = (tmp_path / "runs" / "latest").resolve()
    assert (run / "report.html").is_file()
    with pytest.raises(StoreError, match="made by `synapsed-bench gate`"):
        session.resume(run, here.console, strict=False)


def test_a_revision_that_cannot_start_ends_before_anything_is_kept(
    tmp_path: Path, setting: Callable[..., Setting]
) -> None:
    broken = a_revision("broken", a_tree(tmp_path / "2", "\nraise SystemExit('does not run')\n"))
    base = a_revision("base", a_tree(tmp_path / "1"))
    with pytest.raises(TargetError, match="does not run"):
        commits.run(base, broken, setting(), cache=tmp_path / "cache", policy=SHORT)
    assert not list((tmp_path / "runs").glob("2*"))
    assert not list((tmp_path / "cache").glob("slot-*"))


def test_what_cannot_be_a_revision_of_this_project(tmp_path: Path, setting: Callable[..., Setting]) -> None:
    base = a_revision("base", a_tree(tmp_path / "1"))
    with pytest.raises(UsageError, match="has no reference_impl"):
        commits.run(base, a_revision("empty", tmp_path / "empty"), setting(), cache=tmp_path / "cache")
    broken = a_revision("broken", a_tree(tmp_path / "2"))
    (broken.tree / PACKAGE / "assemble.py").write_text("import nothing_of_that_name")
    with pytest.raises(TargetError, match=r"cannot be run: ModuleNotFoundError: .*nothing_of_that_name"):
        commits.run(base, broken, setting(), cache=tmp_path / "cache")
    moved = a_revision("moved", a_tree(tmp_path / "3"), "/no-such-python")
    with pytest.raises(TargetError, match="moved cannot be run: /no-such-python: No such file or directory"):
        commits.run(base, moved, setting(), cache=tmp_path / "cache")
    with pytest.raises(UsageError, match="there is no folder"):
        commits.run(base, base, setting((("junit", tmp_path / "no" / "x.xml"),)), cache=tmp_path / "cache")


def test_a_time_too_short_for_any_word_is_refused(tmp_path: Path, setting: Callable[..., Setting]) -> None:
    base = a_revision("base", a_tree(tmp_path / "1"))
    with pytest.raises(UsageError, match=r"216 s to measure; expected at least 219 s \(3.7 minutes\), the 24 bursts"):
        commits.run(base, base, setting(), cache=tmp_path / "cache", seconds=60.0 * 3.6)
    two_arms.refuse_too_short(commits.question(base, base, 60.0 * 3.7))
    options = {each.name: each for each in typer.main.get_command(app).commands["gate"].params}  # type: ignore[attr-defined]
    assert "3.7 or more" in options["minutes"].help


def test_a_revisions_code_is_found_from_a_folder_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes the dots out of its path, so with them in ours the code there seemed to be somebody else's."""
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    revision = a_revision("1", ROOT)
    with commits.slots(Path("../cache"), revision, revision) as slots:
        assert all(".." not in path.parts for path in slots.place(("base", "head")).values())


def test_a_cache_in_which_nothing_can_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    revision = a_revision("1", ROOT)
    told = "cache: no folders for arms can be made there: "
    with pytest.raises(StoreError, match=told), commits.slots(tmp_path / "cache", revision, revision):
        pass


def test_every_arm_sees_its_own_code_under_changing_paths(tmp_path: Path) -> None:
    names = ("base", "head", "base-again")
    trees = {name: tmp_path / f"tree-{name}" for name in names}
    for tree in trees.values():
        (tree / PACKAGE).mkdir(parents=True)
    seen: dict[str, set[Path]] = {name: set() for name in names}
    gone = subprocess.Popen((sys.executable, "-c", ""))
    gone.wait()
    (tmp_path / f"slot-{gone.pid}-0" / PACKAGE).mkdir(parents=True)  # of a gate that was killed
    (tmp_path / f"slot-{os.getpid()}-1").mkdir()
    with Slots(tmp_path, trees) as slots:
        asked = commits.question(a_revision("1", trees["base"]), a_revision("2", trees["head"]))
        steering = RevisionSteering(asked, slots)
        for number in range(12):
            planned = schedule.burst(asked.study, layout(asked.study), number)
            plan = BurstSpec(number, tuple(ArmSpec(name, ("x",), env={"KEPT": "1"}) for name in planned.arms), ())
            for arm in steering.processes(planned, plan).arms:
                path = Path(arm.env["PYTHONPATH"])
                assert (path / PACKAGE).resolve() == trees[arm.name] / PACKAGE
                assert arm.env["KEPT"] == "1"
                seen[arm.name].add(path)
    assert all(len(paths) == 3 for paths in seen.values())
    assert len({len(str(path)) for paths in seen.values() for path in paths}) == 1
    assert not [each for each in os.listdir(tmp_path) if each.startswith("slot-")]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--base", "no-such-branch"), "'no-such-branch' is no revision"),
        (("--base", "HEAD", "--head", "no-such-branch"), "'no-such-branch' is no revision"),
        (("--base", "HEAD", "--minutes", "0.5"), "30 s to measure; expected at least 219 s"),
        (("--base", "HEAD", "--micro", "kitchen"), "unknown room 'kitchen'"),
        (("--base", "HEAD", "--micro", "cleanup", "--minutes", "0"), "0 s to measure; expected at least "),
    ],
)
def test_the_command_tells_what_is_wrong_before_it_makes_anything(
    tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    result = CliRunner().invoke(app, ["gate", *arguments, "--runs", str(tmp_path)])
    assert isinstance(result.exception, UsageError)
    assert told in str(result.exception)
    assert not list(tmp_path.iterdir())
