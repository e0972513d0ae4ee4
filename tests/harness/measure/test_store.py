"""The store: what was committed is there, whatever happens to the writer; what it cannot read it refuses."""

from __future__ import annotations

import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import StoreError
from harness.measure.records import ArmReading, Burst, Latencies, Measured, Memory, Sample, Slice, Unanswered
from harness.measure.store import FILE, Store
from harness.study.records import Study

COUNTS = st.integers(0, 2**40)
SECONDS = st.floats(0, 1e9)
NAMES = st.text(max_size=20)
SAMPLES = st.lists(st.floats(0, 1e6, width=32), max_size=30).map(lambda each: np.array(each, "<f4").tobytes())
GAUGES = st.dictionaries(NAMES, st.floats(allow_nan=False), max_size=3)
MEMORY = st.builds(Memory, COUNTS, COUNTS, COUNTS, COUNTS)
SLICES = st.builds(
    Slice,
    burst=st.integers(0, 1000),
    block=COUNTS,
    position=st.integers(0, 3),
    workload=NAMES,
    arm=NAMES,
    kind=st.sampled_from(["slice", "segment", "episode"]),
    began=SECONDS,
    planned=SECONDS,
    seconds=SECONDS,
    started=COUNTS,
    answered=COUNTS,
    rejected=COUNTS,
    failed=st.dictionaries(NAMES, COUNTS, max_size=3),
    cancelled=COUNTS,
    cpu_target=SECONDS,
    cpu_load=SECONDS,
    page_faults=COUNTS,
    lag_max=SECONDS,
    latencies=st.lists(st.builds(Latencies, NAMES, SAMPLES, SAMPLES), max_size=3).map(tuple),
    rate=SECONDS,
    arrivals=COUNTS,
    tasks=COUNTS,
    unanswered=st.lists(st.builds(Unanswered, NAMES, COUNTS, COUNTS, SECONDS), max_size=3).map(tuple),
    surplus=COUNTS,
    cache_misses=st.none() | SECONDS,
    said=st.dictionaries(NAMES, NAMES, max_size=3),
)
MOMENTS = st.builds(
    Sample,
    burst=st.integers(0, 1000),
    arm=NAMES,
    workload=NAMES,
    at=SECONDS,
    target=MEMORY,
    load=MEMORY,
    gauges=GAUGES,
)
READINGS = st.builds(
    ArmReading,
    burst=st.integers(0, 1000),
    arm=NAMES,
    requests=COUNTS,
    target_idle=MEMORY,
    target_after=MEMORY,
    load_idle=MEMORY,
    load_after=MEMORY,
    gauges=GAUGES,
    load_gauges=GAUGES,
    workload=NAMES,
)
BURSTS = st.builds(
    Burst,
    number=st.integers(0, 1000),
    arms=st.lists(NAMES, max_size=4).map(tuple),
    began=SECONDS,
    complete=st.booleans(),
    note=NAMES,
    playing=st.lists(st.tuples(NAMES, st.lists(NAMES, max_size=2).map(tuple)), max_size=2).map(tuple),
    others=st.none() | SECONDS,
    stolen=st.none() | SECONDS,
)
ROW = Slice(
    *(0, 0, 0, "surge", "none", "slice", 1.0, 0.2, 0.2, 3, 3, 0, {}, 0, 0.1, 0.1, 5, 0.0),
    latencies=(Latencies("request", np.zeros(5000, "<f4").tobytes()),),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "run") as created:
        yield created


def fresh(paths: pytest.TempPathFactory) -> Store:
    return Store.create(paths.mktemp("run") / "run")


@settings(max_examples=40)
@given(
    bursts=st.lists(BURSTS, max_size=3, unique_by=lambda each: each.number),
    slices=st.lists(SLICES, max_size=4),
    readings=st.lists(READINGS, max_size=3, unique_by=lambda each: (each.burst, each.arm)),
    samples=st.lists(MOMENTS, max_size=3),
)
def test_rows_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory,
    bursts: list[Burst],
    slices: list[Slice],
    readings: list[ArmReading],
    samples: list[Sample],
) -> None:
    with fresh(tmp_path_factory) as store:
        for burst in bursts:
            store.add_burst(burst)
        for row in slices:
            store.add_slice(row)
        for reading in readings:
            store.add_reading(reading)
        for sample in samples:
            store.add_sample(sample)
        folder = store.folder
        assert store.complete_bursts() == sum(burst.complete for burst in bursts)
        assert store.next_burst() == 1 + max((burst.number for burst in bursts), default=-1)
    with Store.open(folder) as reopened:
        middle = reopened.next_burst() // 2
        early = Measured(
            tuple(each for each in reopened.measured().bursts if each.number < middle),
            tuple(each for each in slices if each.burst < middle),
            tuple(each for each in reopened.measured().readings if each.burst < middle),
            tuple(each for each in samples if each.burst < middle),
        )
        # As a run makes them: burst after burst.
        in_order = all(each.burst < middle for each in slices[: len(early.slices)])
        if in_order and all(each.burst < middle for each in samples[: len(early.samples)]):
            assert early + reopened.measured(since=middle) == reopened.measured()
        assert reopened.measured() == Measured(
            bursts=tuple(sorted(bursts, key=lambda each: each.number)),
            slices=tuple(slices),
            readings=tuple(sorted(readings, key=lambda each: each.burst)),
            samples=tuple(samples),
        )


def test_no_field_of_a_row_is_left_out_above() -> None:
    """What the strategies do not make would be tested by its default alone."""
    for strategy, kind in ((SLICES, Slice), (READINGS, ArmReading), (BURSTS, Burst), (MOMENTS, Sample)):
        made = repr(strategy)
        assert [name for name in kind.__struct_fields__ if f"{name}=" not in made] == []


@settings(max_examples=20)
@given(value=st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists, max_leaves=9))
def test_facts_come_back_and_the_last_one_counts(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    with fresh(tmp_path_factory) as store:
        store.put("fact", {"old": 1})
        store.put("fact", {"new": value})
        assert store.get("fact", dict[str, object]) == {"new": value}


def test_a_burst_is_replaced_by_its_newer_state(store: Store) -> None:
    began = Burst(4, ("none", "all"), 1.0, complete=False, note="interrupted")
    store.add_burst(began)
    done = msgspec.structs.replace(began, complete=True, note="")
    store.add_burst(done)
    assert store.measured().bursts == (done,)
    assert (store.next_burst(), store.complete_bursts()) == (5, 1)


def test_a_missing_fact(store: Store) -> None:
    assert store.find("rates", dict[str, float]) is None
    with pytest.raises(StoreError, match=r"has no rates: it ended before anything could be measured"):
        store.get("rates", dict[str, float])


def test_a_fact_of_another_shape_is_refused(store: Store) -> None:
    store.put("study", {"name": 5})
    with pytest.raises(StoreError, match=r"Expected `str`, got `int`"):
        store.get("study", Study)


def test_a_closed_run_is_one_file_that_can_be_copied(store: Store, tmp_path: Path) -> None:
    store.add_slice(ROW)
    store.close()
    assert [path.name for path in store.folder.iterdir()] == [FILE]
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    (copy / FILE).write_bytes((store.folder / FILE).read_bytes())
    with Store.open(copy) as reopened:
        assert reopened.measured().slices == (ROW,)
    store._connection = sqlite3.connect(":memory:")  # the fixture closes once more


ROW_BYTES = msgspec.msgpack.encode(ROW).hex()
WRITER = """
import sys
from pathlib import Path
import msgspec
from harness.measure.records import Slice
from harness.measure.store import Store
ROW = msgspec.msgpack.decode(bytes.fromhex(sys.argv[2]), type=Slice)
with Store.create(Path(sys.argv[1])) as store:
    number = 0
    while True:
        store.add_slice(msgspec.structs.replace(ROW, block=number))
        print(number, flush=True)  # committed: from here on it must not be lost
        number += 1
"""


def test_a_writer_killed_in_mid_write_loses_nothing_committed(tmp_path: Path) -> None:
    for kill_after in (1, 60):
        folder = tmp_path / str(kill_after)
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), ROW_BYTES], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            told = [int(writer.stdout.readline()) for _ in range(kill_after)]
            writer.send_signal(signal.SIGKILL)
            told += map(int, writer.stdout.read().split())
        with Store.open(folder) as store:
            kept = [row.block for row in store.measured().slices]
            assert kept[: len(told)] == told
            assert len(kept) - len(told) in (0, 1)  # committed, but killed before it could say so
            store.add_slice(ROW)
            assert len(store.measured().slices) == len(kept) + 1


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_is_read_without_a_change_to_its_folder(store: Store, tmp_path: Path, killed: bool) -> None:
    store.add_slice(ROW)
    if not killed:
        store.close()
    copy = tmp_path / "50% of #1?"
    shutil.copytree(store.folder, copy)  # with the log that a killed writer leaves
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert (f"{FILE}-wal" in before) is killed
    with Store.read(copy) as reader:
        assert reader.measured().slices == (ROW,)
        with pytest.raises(StoreError, match="attempt to write a readonly database"):
            reader.add_slice(ROW)
    assert {path.name for path in copy.iterdir()} == before.keys()
    assert (copy / FILE).read_bytes() == before[FILE]
    if not killed:
        store._connection = sqlite3.connect(":memory:")  # the fixture closes once more


def test_a_reader_sees_what_a_writer_has_committed_and_leaves_it_alone(store: Store) -> None:
    store.add_slice(ROW)
    with Store.read(store.folder) as reader:
        store.add_slice(ROW)
        assert reader.measured().slices == (ROW, ROW)
    store.add_slice(ROW)
    assert store.measured().slices == (ROW, ROW, ROW)


def test_another_schema_version_is_refused(store: Store) -> None:
    store._connection.execute("pragma user_version = 99")
    with pytest.raises(StoreError, match=r"written with schema version 99; this program reads version \d+\. Use"):
        Store.open(store.folder)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is no run: it has no run\.sqlite"):
        Store.open(tmp_path)
    (tmp_path / FILE).touch()
    for reach in (Store.open, Store.read):
        with pytest.raises(StoreError, match=r"is no run: its run\.sqlite holds none"):
            reach(tmp_path)
    (tmp_path / FILE).write_text("this is not a database, whatever its name says")
    with pytest.raises(StoreError, match=r"file is not a database"):
        Store.open(tmp_path)


def test_a_row_that_was_damaged_is_refused(store: Store) -> None:
    store.add_slice(ROW)
    store._connection.execute("update slice set row = x'01'")
    with pytest.raises(StoreError, match=r"Expected `object`, got `int`"):
        store.measured()


def test_a_run_is_never_written_over(store: Store) -> None:
    with pytest.raises(StoreError, match=r"cannot create run folder .*exists"):
        Store.create(store.folder)


def test_a_full_disk_is_a_store_error_and_keeps_what_was_committed(store: Store) -> None:
    store.add_slice(ROW)
    (pages,) = store._connection.execute("pragma page_count").fetchone()
    store._connection.execute(f"pragma max_page_count = {pages + 1}")
    with pytest.raises(StoreError, match=r"database or disk is full"):
        store.add_slice(ROW)
    assert store.measured().slices == (ROW,)
    store._connection.execute("pragma max_page_count = 100000")
    store.add_slice(ROW)
    assert store.measured().slices == (ROW, ROW)


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))


def test_a_file_that_may_not_grow_is_a_store_error(tmp_path: Path) -> None:
    program = WRITER.replace("with Store", "import harness.errors\ntry:\n  with Store").replace("\n    ", "\n      ")
    program += "except harness.errors.StoreError as error:\n  sys.exit(f'store error: {error}')\n"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run"), ROW_BYTES],
        capture_output=True,
        text=True,
        preexec_fn=_limited,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("store error: ")
    with Store.open(tmp_path / "run") as store:
        assert [row.block for row in store.measured().slices] == [int(number) for number in done.stdout.split()]


def test_a_disk_too_full_to_fold_the_log_is_no_error_and_takes_no_row(tmp_path: Path) -> None:
    """It would replace the error that really ended the run, or a good end."""
    store = Store.create(tmp_path / "run")
    store.add_slice(ROW)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((store.folder / FILE).stat().st_size, hard))
    try:
        store.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(StoreError, match="closed database"):
        store.measured()
    with Store.read(store.folder) as reader:
        assert reader.measured().slices == (ROW,)
