"""`synapsed-bench micro`: the order of its workers, and a small run from command to files."""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import re
import resource
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyperf
import pytest
from rich.console import Console

from harness import micro
from harness.analyse.micro import Case, Room
from harness.cli import app
from harness.errors import MeasurementVoid, StoreError, TargetError
from harness.execute import host
from harness.execute import micro as execute
from harness.execute.micro import Job
from tests.reports.sample import ENVIRONMENT

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
POOL = Room(
    "pool", "", ("peer", "absent"), ("absent",), {"tuned": {"A": "1"}},
    (Case("take", ("off", "tuned", "on", "peer", "absent")), Case("bytes", ("on",), unit="byte")),
)  # fmt: skip
GUARD = Room("guard", "", (), (), {}, (Case("make", ("off", "on")),))


def wish(**changes: Any) -> micro.Wish:
    return dataclasses.replace(micro.Wish(rooms=(), peers=True, threads=8, seconds=None, seed=3), **changes)


def planned(wanted: micro.Wish, ticks: Iterator[float]) -> list[Job]:
    return list(micro.jobs(wanted, [POOL, GUARD], lambda: next(ticks)))


def test_without_a_time_there_are_rounds_enough_for_an_interval() -> None:
    jobs = planned(wish(), count(0.0, 1000.0))
    assert {each.round for each in jobs} == set(range(micro.LEAST_ROUNDS))


def test_every_round_has_each_variant_once_in_an_order_of_its_own() -> None:
    jobs = [each for each in planned(wish(), count(0.0, 1000.0)) if not each.memory]
    rounds = [[(each.room, each.variant) for each in jobs if each.round == number] for number in range(7)]
    everything = {("pool", name) for name in ("off", "tuned", "on", "peer")} | {("guard", "off"), ("guard", "on")}
    assert all(len(each) == 6 and set(each) == everything for each in rounds)
    assert len({tuple(each) for each in rounds}) > 3


def test_the_seed_fixes_the_order() -> None:
    def order(seed: int) -> list[Job]:
        return planned(wish(seed=seed), count(0.0, 1000.0))

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_memory_is_counted_once() -> None:
    jobs = [each for each in planned(wish(), count(0.0, 1000.0)) if each.memory]
    assert [(each.room, each.variant, each.round) for each in jobs] == [("pool", "on", 0)]


def test_a_variants_environment_reaches_its_workers() -> None:
    jobs = planned(wish(), count(0.0, 1000.0))
    assert all(each.env == ({"A": "1"} if each.variant == "tuned" else {}) for each in jobs)


def test_peers_are_left_out_unless_asked_for() -> None:
    assert micro.chosen(POOL, peers=False) == ["off", "tuned", "on"]
    assert micro.chosen(POOL, peers=True) == ["off", "tuned", "on", "peer"]


def test_a_given_time_decides_how_many_rounds() -> None:
    ticks = count(0.0, 1.0)
    assert max(each.round for each in planned(wish(seconds=1.0), count(0.0, 1000.0))) == 0
    assert max(each.round for each in planned(wish(seconds=60.0), ticks)) > micro.LEAST_ROUNDS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("runs")
    screen = Console(file=io.StringIO(), width=80)
    wanted = wish(rooms=("cleanup",), peers=False, seconds=1.0)
    assert micro.start(wanted, root, "synapsed-bench micro cleanup", screen, NOW) == 0
    (folder,) = root.iterdir()
    assert isinstance(screen.file, io.StringIO)
    return folder, screen.file.getvalue()


def test_a_run_leaves_standard_pyperf_files(run: tuple[Path, str]) -> None:
    folder, _ = run
    assert folder.name == "20260102-030405-micro"
    assert {each.name for each in (folder / "pyperf").iterdir()} == {"cleanup-off.json", "cleanup-on.json"}
    off, on = (pyperf.BenchmarkSuite.load(str(folder / "pyperf" / f"cleanup-{name}.json")) for name in ("off", "on"))
    assert off.get_benchmark_names() == on.get_benchmark_names()


def test_a_run_leaves_a_summary_and_a_page(run: tuple[Path, str]) -> None:
    folder, _ = run
    summary = json.loads((folder / "summary.json").read_bytes())
    assert summary["schema"] == "synapsed-bench/micro/1"
    assert [each["case"] for each in summary["cases"]] == [
        "guard: make, use, release", "guard: released by an OSError", "guard: one further use",
    ]  # fmt: skip
    assert "guard: make, use, release" in (folder / "report.html").read_text()


def test_a_run_shows_its_tables(run: tuple[Path, str]) -> None:
    folder, said = run
    assert "guard: make, use, release" in " ".join(said.split())
    assert said.startswith("round 1 begins; as many as fit into 1 s")
    assert "NOT MEASURED" in said  # the goal is against a peer that was not asked for
    few = r"(1 round is|\d rounds are) too few to bound an interval: ask for more --seconds, or for none and have 7"
    assert re.search(few, said), "as many as a machine gets done in a second"
    assert folder.name in said.replace("\n", "")
    whole = ("report:", "compare:")
    assert all(len(line) <= 80 for line in said.splitlines() if not line.startswith(whole) and not re.match(few, line))


def test_runs_of_the_same_second_do_not_mix(run: tuple[Path, str]) -> None:
    folder, _ = run
    with micro.folder_for(folder.parent, NOW) as second:
        assert second.name == "20260102-030405-micro-2"
    assert not second.exists(), "nothing was kept in it"


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro, "measure", lambda job: pytest.fail("measured"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be made: Not a directory"):
        micro.start(wish(rooms=("cleanup",)), tmp_path / "file", "", Console(file=io.StringIO()), NOW)


def test_an_unknown_room_ends_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app.main(["micro", "kitchen", "--runs", str(tmp_path)])
    assert ended.value.code == 2
    assert "unknown room 'kitchen'; expected some of: pooling, cleanup" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Job] = []

    def measure_once(job: Job) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(job)
        return execute.measure(job)

    monkeypatch.setattr(micro, "measure", measure_once)
    screen = Console(file=io.StringIO())
    assert micro.start(wish(rooms=("cleanup",), peers=False), tmp_path, "", screen, NOW) == 130
    (folder,) = tmp_path.iterdir()
    assert [each.stem for each in (folder / "pyperf").iterdir()] == [f"cleanup-{done[0].variant}"]


def test_a_worker_that_fails_voids_the_rest_and_keeps_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Job] = []

    def measure_once(job: Job) -> Any:
        if done:
            raise TargetError("the worker of cleanup, on measured nothing: killed")
        done.append(job)
        return execute.measure(job)

    monkeypatch.setattr(micro, "measure", measure_once)
    screen = Console(file=io.StringIO(), width=200)
    with pytest.raises(MeasurementVoid, match=r"measured nothing: killed; what was measured until then is kept in"):
        micro.start(wish(rooms=("cleanup",), peers=False), tmp_path, "", screen, NOW)
    (folder,) = tmp_path.iterdir()
    assert (folder / "report.html").is_file()
    with pytest.raises(TargetError):  # nothing is kept where nothing was measured
        micro.start(wish(rooms=("cleanup",), peers=False), tmp_path / "empty", "", screen, NOW)
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.fixture
def files_of_4_kib(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files of this process and its children grow to 4 KiB at most; git, which would die of that, is not asked."""
    monkeypatch.setattr(host, "environment", lambda root: ENVIRONMENT)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("files_of_4_kib")
def test_what_finds_no_room_destroys_nothing_and_is_what_the_user_is_told(tmp_path: Path) -> None:
    """One worker's file has room; two workers' has none, nor has the report."""
    screen = Console(file=io.StringIO(), width=200)
    with pytest.raises(MeasurementVoid, match=r"cleanup-o\w+\.json cannot be written: .*is kept in") as ended:
        micro.start(wish(rooms=("cleanup",), peers=False), tmp_path, "", screen, NOW)
    assert ended.value.fault == "store"
    (folder,) = tmp_path.iterdir()
    kept = [pyperf.BenchmarkSuite.load(str(each)) for each in (folder / "pyperf").iterdir()]
    assert [each.get_benchmarks()[0].get_nrun() for each in kept] == [1, 1]


def test_an_interrupt_before_the_first_reading_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(job: Job) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(micro, "measure", interrupted)
    screen = Console(file=io.StringIO())
    assert micro.start(wish(rooms=("cleanup",)), tmp_path, "", screen, NOW) == 130
    assert list(tmp_path.iterdir()) == []
