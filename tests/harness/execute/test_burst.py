"""A whole burst on two arms: rows in order, equal work, and certain ends."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from harness.errors import LoadError, TargetError
from harness.execute import burst as bursts
from harness.execute import host
from harness.execute.burst import ArmSpec, BlockSpec, BurstSpec, Step
from harness.execute.counters import LINUX
from harness.execute.load import LoadProcess
from harness.execute.wire import OpenSlice, Samples, SliceResult, Work
from harness.measure.records import ArmReading, Sample, Slice
from harness.study.records import Workload
from tests.harness.execute.conftest import CLIENT, SERVER, START_HELPER, write


@pytest.fixture
def plan(tmp_path: Path) -> BurstSpec:
    """Two arms of the line server, a closed and an open workload."""
    command = (sys.executable, "-u", write(tmp_path, "server.py", SERVER))
    client = write(tmp_path, "client.py", CLIENT)
    return BurstSpec(
        number=3,
        arms=(ArmSpec("none", command), ArmSpec("all", command, ("pooling", "metrics"))),
        workloads=(
            Workload(name="closed", file=client, users=4, slice_seconds=0.1, quiet_seconds=0.002),
            Workload(name="open", file=client, users=4, arrivals="constant", slice_seconds=0.1),
        ),
        memory_requests=100,
        warm_seconds=0.05,
    )


ARRIVALS = tuple(0.002 * each for each in range(50))
BLOCKS = (
    BlockSpec("closed", 0, ("all", "none")),
    BlockSpec("open", 0, ("none", "all"), arrivals=ARRIVALS, rate=500.0),
    BlockSpec("closed", 1, ("none", "all")),
)


def whole(
    plan: BurstSpec,
    blocks: Sequence[BlockSpec],
    progress: Callable[[Step], None] = lambda step: None,
    clock: Callable[[], float] = time.time,
) -> Iterator[Slice | ArmReading]:
    """A burst from its start to its end: its slices, then one reading per arm."""
    with bursts.running(plan, progress, clock) as burst:
        burst.work()
        yield from burst.slices(blocks)
        yield from burst.readings()


def _one_arm(plan: BurstSpec) -> BurstSpec:
    return msgspec.structs.replace(plan, arms=plan.arms[1:])


def _pids(running: bursts.RunningBurst) -> list[psutil.Process]:
    return [psutil.Process(pid) for arm in running._arms.values() for pid in (arm.target.pid, arm.load.pid)]


def _gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def test_a_burst_yields_its_slices_in_order_then_its_readings(plan: BurstSpec) -> None:
    steps: list[Step] = []
    ticks = iter(range(100))
    rows = list(whole(plan, BLOCKS, steps.append, lambda: float(next(ticks))))
    slices = [row for row in rows if isinstance(row, Slice)]
    readings = [row for row in rows if isinstance(row, ArmReading)]
    assert rows == [*slices, *readings]
    assert [(row.workload, row.block, row.position, row.arm) for row in slices] == [
        ("closed", 0, 0, "all"),
        ("closed", 0, 1, "none"),
        ("open", 0, 0, "none"),
        ("open", 0, 1, "all"),
        ("closed", 1, 0, "none"),
        ("closed", 1, 1, "all"),
    ]
    assert [row.began for row in slices] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    for row in slices:
        assert row.burst == 3
        assert row.planned == 0.1
        assert row.started == row.answered == sum(len(each.service_seconds()) for each in row.latencies) > 0
        assert row.cpu_target > 0
        assert row.cpu_load > 0
    assert [row.answered for row in slices if row.workload == "open"] == [50, 50]
    assert [row.rate for row in slices] == [0, 0, 500, 500, 0, 0]
    assert [row.arrivals for row in slices] == [0, 0, 50, 50, 0, 0]
    assert [row.tasks for row in slices] == [row.started for row in slices]
    assert [(row.arm, row.requests, row.burst) for row in readings] == [("none", 100, 3), ("all", 100, 3)]
    for reading in readings:
        assert min(reading.target_idle.uss, reading.target_after.uss, reading.load_idle.uss) > 1 << 20
        assert reading.load_after.rss >= reading.load_after.pss >= reading.load_after.uss
        assert reading.target_after.descriptors == reading.target_idle.descriptors + 8  # 2 workloads x 4 users
    assert [reading.gauges for reading in readings] == [{"server.on": 1.0}, {"server.on": 2.0}]
    assert [step.doing for step in steps].count("warm-up") == 4
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(slices[0]), type=Slice) == slices[0]


def test_an_episode_is_sampled_while_it_runs_and_read_after_it_has_settled(plan: BurstSpec) -> None:
    alone = msgspec.structs.replace(plan, workloads=plan.workloads[:1])
    block = BlockSpec("closed", 0, ("all", "none"), planned=1.3, kind="episode")
    samples: list[Sample] = []
    with bursts.running(alone) as burst:
        rows = list(burst.episodes(block, samples.append))
        readings = list(burst.readings())
    assert [(row.arm, row.kind, row.planned, row.position) for row in rows] == [
        ("all", "episode", 1.3, 0),
        ("none", "episode", 1.3, 1),
    ]
    seen = [(each.arm, each.workload, each.burst) for each in samples]
    assert list(dict.fromkeys(seen)) == [("all", "closed", 3), ("none", "closed", 3)]
    assert all(each.at >= 0.25 and each.target.uss > 1 << 20 and each.load.uss > 1 << 20 for each in samples)
    left = {(each.arm, each.workload): each for each in readings}
    assert {arm: left[arm, "closed"].requests for arm in ("all", "none")} == {row.arm: row.answered for row in rows}
    assert all(each.target_after.descriptors == each.target_idle.descriptors + 4 for each in readings)


@pytest.mark.skipif(not LINUX or len(host.cores()) < 2, reason="needs two cores to pin processes to")
def test_targets_have_the_first_core_and_load_processes_the_second(plan: BurstSpec) -> None:
    first, second = host.cores()[:2]
    with bursts.running(plan) as burst:
        places = [
            psutil.Process(each.pid).cpu_affinity() for arm in burst._arms.values() for each in (arm.target, arm.load)
        ]
    assert places == [[first], [second]] * 2


def test_tasks_to_warm_up_with_are_done_once_before_the_first_slice(
    plan: BurstSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, int]] = []
    work, slice_ = LoadProcess.work, LoadProcess.slice

    def watched_work(load: LoadProcess, order: Work, watch: Any = None) -> SliceResult:
        done.append(("work", (result := work(load, order, watch)).answered))
        return result

    def watched_slice(load: LoadProcess, order: OpenSlice, watch: Any = None) -> SliceResult:
        done.append(("slice", len(order.arrivals or ())))
        return slice_(load, order, watch)

    monkeypatch.setattr(LoadProcess, "work", watched_work)
    monkeypatch.setattr(LoadProcess, "slice", watched_slice)
    warmed = msgspec.structs.replace(plan.workloads[0], warm_tasks=30)
    with bursts.running(msgspec.structs.replace(_one_arm(plan), workloads=(warmed,))) as burst:
        rows = list(burst.slices((BlockSpec("closed", 0, ("all",)), BlockSpec("closed", 1, ("all",)))))
    assert done == [("work", 30), ("slice", 0), ("slice", 0), ("slice", 0)]  # the first slice is warm-up too
    assert len(rows) == 2
    del done[:]
    paced = msgspec.structs.replace(plan.workloads[1], warm_tasks=30)
    with bursts.running(msgspec.structs.replace(_one_arm(plan), workloads=(paced,))) as burst:
        (row,) = burst.slices((BlockSpec("open", 0, ("all",), arrivals=ARRIVALS, rate=500.0),))
    assert done == [("slice", 30), ("slice", len(ARRIVALS)), ("slice", len(ARRIVALS))], "at its rate"
    assert row.arrivals == len(ARRIVALS)


@pytest.mark.parametrize(
    ("request_name", "seconds", "rate"), [("ask", 0.5, 40.0), ("no such", 0.5, 100.0), ("ask", 0.0, 0.0)]
)
def test_capacity_is_tasks_a_second_and_the_request_of_the_workload_stands_for_its_tasks(
    plan: BurstSpec, monkeypatch: pytest.MonkeyPatch, request_name: str, seconds: float, rate: float
) -> None:
    samples = Samples("ask", bytes(4 * 20)), Samples("then", bytes(4 * 30))
    told = SliceResult(seconds, 20, 50, 0, {}, 0, 0.1, 0.1, 0, 0.0, samples, said={"E": "why"})
    monkeypatch.setattr(LoadProcess, "slice", lambda load, order, watch=None: told)
    workload = msgspec.structs.replace(plan.workloads[0], request=request_name)
    with bursts.running(msgspec.structs.replace(_one_arm(plan), workloads=(workload,))) as burst:
        assert burst.capacity("all", "closed") == (rate, {"E": "why"})


def test_capacity_is_a_rate_and_leaves_no_row(plan: BurstSpec) -> None:
    with bursts.running(_one_arm(plan)) as burst:
        assert burst.capacity("all", "open")[0] > 0
        processes = _pids(burst)
    assert _gone(processes)


VISITS = """
from locust import HttpUser, task

class Visitor(HttpUser):
    @task
    def visit(self):
        self.client.get("/")
"""


def test_the_host_of_the_user_s_shell_is_not_that_of_a_target(
    tmp_path: Path, plan: BurstSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCUST_HOST", "http://127.0.0.1:8000")
    workload = Workload(name="w", file=write(tmp_path, "visits.py", VISITS), users=1)
    lost = msgspec.structs.replace(_one_arm(plan), workloads=(workload,))
    with pytest.raises(LoadError, match="You must specify the base host"), bursts.running(lost):
        pass


@pytest.mark.parametrize(
    ("victim", "error", "message"),
    [
        ("target", TargetError, r"target all \(pid \d+\) died: killed by SIGKILL"),
        ("load", LoadError, r"load process all \(pid \d+\) died: killed by SIGKILL"),
    ],
)
def test_a_killed_process_is_one_error_with_earlier_rows_kept(
    plan: BurstSpec, victim: str, error: type[Exception], message: str
) -> None:
    rows: list[Any] = []
    processes: list[psutil.Process] = []

    def measure() -> None:
        with bursts.running(_one_arm(plan)) as burst:
            processes.extend(_pids(burst))
            for row in burst.slices((BlockSpec("closed", 0, ("all",)), BlockSpec("closed", 1, ("all",)))):
                rows.append(row)
                if len(rows) == 1:
                    os.kill(getattr(burst._arms["all"], victim).pid, signal.SIGKILL)

    with pytest.raises(error, match=message):
        measure()
    assert [row.block for row in rows] == [0]
    assert _gone(processes)


def test_a_target_that_cannot_start_ends_the_others(plan: BurstSpec) -> None:
    broken = ArmSpec("broken", (sys.executable, "-c", "import sys; sys.exit('no key')"))
    started: list[psutil.Process] = []

    def watch(step: Step) -> None:
        started.extend(psutil.Process().children())

    with pytest.raises(TargetError, match="target broken ended before it was ready: exit status 1; last lines: no key"):
        list(whole(msgspec.structs.replace(plan, arms=(*plan.arms, broken)), BLOCKS, watch))
    assert _gone([each for each in started if each.pid != bursts_guard()])


def test_interrupted_consumer_ends_the_burst(plan: BurstSpec) -> None:
    rows = whole(_one_arm(plan), [BlockSpec("closed", 0, ("all",))] * 2)
    next(rows)
    children = [each for each in psutil.Process().children() if each.pid != bursts_guard()]
    assert len(children) == 2
    rows.close()  # type: ignore[attr-defined]
    assert _gone(children)


def bursts_guard() -> int:
    """Pid of this process's guard, the one child that stays."""
    from harness.execute.guard import GUARD

    return GUARD.pid


STARTS_LATE = f"""
kept = []
def start():{START_HELPER}
    kept.append(helper)
{SERVER.replace("reader.readline():", "reader.readline():" + chr(10) + "        kept or start()")}
"""


def test_what_a_process_used_before_a_stretch_is_not_the_stretchs(tmp_path: Path, plan: BurstSpec) -> None:
    """The server starts another one at its first request, which warms it up: after it was ready, before the slice."""
    command = (sys.executable, "-u", write(tmp_path, "late.py", STARTS_LATE))
    one = msgspec.structs.replace(plan.workloads[0], tasks=1, slice_seconds=3.0)
    alone = msgspec.structs.replace(plan, arms=(ArmSpec("none", command),), workloads=(one,), warm_seconds=3.0)
    with bursts.running(alone) as burst:
        (row,) = burst.slices((BlockSpec("closed", 0, ("none",)),))
    assert 0.0 < row.cpu_target < 0.2


LONG = """
import json, os, sys, time
sys.stdout.write(json.dumps({"long": "x" * 200_000}) + chr(10))
sys.stdout.flush()
time.sleep(600)
"""
READS_IT = """
import json, os
from locust import User, task

class Reader(User):
    @task
    def read(self):
        told = os.environ["SYNAPSED_TARGET"]
        ready = json.loads(open(told[1:]).read()) if told.startswith("@") else {}
        error = None if len(ready.get("long", "")) == 200_000 else ValueError(told[:100])
        self.environment.events.request.fire(
            request_type="read", name="request", response_time=1.0, response_length=0, exception=error, context={}
        )
"""


TELLS_TWICE = """
import os, random
from locust import User, task
first = random.random()

class Talker(User):
    requests_per_task = 1
    @task
    def ask(self):
        for _ in range(2):
            self.environment.events.request.fire(
                request_type="x", name="request", response_time=1.0, response_length=0, exception=None, context={})

from locust import events
@events.init.add_listener
def offer(environment, **_):
    environment.synapsed_gauges = lambda: {"first": first, "now": random.random()}
"""


def test_what_is_told_twice_stands_in_the_row_and_every_arm_draws_alike(tmp_path: Path, plan: BurstSpec) -> None:
    workload = Workload(name="w", file=write(tmp_path, "twice.py", TELLS_TWICE), users=1, slice_seconds=0.1)
    arms = tuple(msgspec.structs.replace(each, env={"SYNAPSED_SEED": "5"}) for each in plan.arms)
    told = msgspec.structs.replace(plan, arms=arms, workloads=(workload,), memory_requests=3)
    with bursts.running(told) as burst:
        burst.work()
        rows = list(burst.slices((BlockSpec("w", 0, ("none", "all")),)))
        drawn = {tuple(sorted(arm.load.gauges().load.items())) for arm in burst._arms.values()}
    for row in rows:
        assert row.started == row.surplus == row.tasks > 0
        assert row.lost == 0
    assert len(drawn) == 1


TELLS_EVERY_SECOND = """
from locust import User, task

class Quiet(User):
    turns = 0
    @task
    def ask(self):
        self.turns += 1
        if self.turns % 2:
            self.environment.events.request.fire(
                request_type="x", name="request", response_time=1.0, response_length=0, exception=None, context={})
"""


def test_what_is_not_told_was_started_all_the_same(tmp_path: Path, plan: BurstSpec) -> None:
    workload = Workload(name="w", file=write(tmp_path, "second.py", TELLS_EVERY_SECOND), users=1, slice_seconds=0.1)
    with bursts.running(msgspec.structs.replace(_one_arm(plan), workloads=(workload,))) as burst:
        (row,) = burst.slices((BlockSpec("w", 0, ("all",)),))
    assert row.started == row.tasks > row.answered > 0
    assert row.lost == row.tasks - row.answered


def test_a_ready_line_too_long_for_a_variable_travels_in_a_file(tmp_path: Path) -> None:
    command = (sys.executable, write(tmp_path, "long.py", LONG))
    workload = Workload(name="w", file=write(tmp_path, "reads.py", READS_IT), users=1, slice_seconds=0.1)
    plan = BurstSpec(0, (ArmSpec("one", command),), (workload,), memory_requests=3, warm_seconds=0.05)
    with bursts.running(plan) as burst:
        burst.work()
        (row,) = burst.slices((BlockSpec("w", 0, ("one",)),))
    assert row.answered == row.started > 0
