"""Where runs live: names that do not collide, `latest`, and one process at a time that measures."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import runs
from harness.errors import StoreError

NOW = datetime.datetime(2026, 11, 22, 15, 4, 5, tzinfo=datetime.UTC)


def make(root: Path, study: str = "quick", now: datetime.datetime = NOW) -> Path:
    with runs.create(root, study, now) as store:
        return store.folder


def test_a_run_is_named_after_its_time_and_study_and_latest_points_to_it(tmp_path: Path) -> None:
    folder = make(tmp_path / "new" / "runs")
    assert folder.name == "20261122-150405-quick"
    assert os.readlink(folder.parent / "latest") == folder.name
    assert runs.find(folder.parent, "latest") == folder.resolve()


def test_two_runs_of_one_second_do_not_collide(tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path)
    assert second.name == f"{first.name}-2"
    assert runs.find(tmp_path, "latest") == second.resolve()


def test_a_run_is_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    for name in (folder.name, str(folder), f"runs/{folder.name}"):
        assert runs.find(Path("runs"), name) == folder.resolve()


def test_an_unknown_run_names_the_newest(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no run 'nope'; there are none in "):
        runs.find(tmp_path / "runs", "nope")
    folder = make(tmp_path / "runs")
    with pytest.raises(StoreError, match=rf"no run 'nope'; the newest in .* are: {folder.name}$"):
        runs.find(tmp_path / "runs", "nope")


def test_a_discarded_run_leaves_latest_to_the_one_before(tmp_path: Path) -> None:
    first = make(tmp_path)
    second = make(tmp_path, now=NOW + datetime.timedelta(seconds=1))
    assert runs.known(tmp_path) == [first.name, second.name]
    runs.discard(second)
    assert runs.find(tmp_path, "latest") == first.resolve()
    runs.discard(first)
    assert list(tmp_path.iterdir()) == []


HOLDER = """
import sys
from pathlib import Path
from harness import runs
with runs.claimed(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_only_one_process_measures_into_a_run(tmp_path: Path) -> None:
    folder = make(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        assert runs.is_claimed(folder)
        with pytest.raises(StoreError, match=r"is being measured by another process"), runs.claimed(folder):
            pytest.fail("two processes hold one run")
        holder.kill()
    assert not runs.is_claimed(folder)
    with runs.claimed(folder):  # the kernel took the dead process's claim back
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot create run folder .*Not a directory"):
        make(tmp_path / "runs")
