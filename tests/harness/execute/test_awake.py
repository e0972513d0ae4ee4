"""The loops that keep cores awake: of idle priority, on their core, gone with the burst or its parent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from harness.execute import awake, host
from harness.execute import burst as bursts
from harness.execute.burst import ArmSpec, BlockSpec, BurstSpec
from harness.study.records import Workload
from tests.harness.execute.conftest import CLIENT, SERVER, write
from tests.processes import wait_for

LINUX = pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="idle priority is Linux's")


@pytest.fixture
def plan(tmp_path: Path) -> BurstSpec:
    command = (sys.executable, "-u", write(tmp_path, "server.py", SERVER))
    client = write(tmp_path, "client.py", CLIENT)
    workload = Workload(name="closed", file=client, users=2, slice_seconds=0.05, awake=True)
    return BurstSpec(0, (ArmSpec("all", command),), (workload,), memory_requests=10, warm_seconds=0.05)


def _loops(burst: bursts.RunningBurst) -> list[psutil.Process]:
    assert burst._loops is not None
    return [psutil.Process(loop.pid) for loop in burst._loops.children]


def _settled(loop: psutil.Process, core: int) -> bool:
    return os.sched_getscheduler(loop.pid) == os.SCHED_IDLE and loop.cpu_affinity() == [core]


@LINUX
def test_each_core_of_a_burst_has_a_loop_of_idle_priority_that_ends_with_it(plan: BurstSpec) -> None:
    cores = host.cores()[:2]
    with bursts.running(plan) as burst:
        loops = _loops(burst)
        burst.work()
        rows = list(burst.slices((BlockSpec("closed", 0, ("all",)),)))
        wait_for(lambda: all(map(_settled, loops, cores)), lambda: "the loops are not of idle priority on their cores")
        readings = list(burst.readings())
        assert awake.FELL_ASLEEP not in burst.notes
    assert len(loops) == len(cores)
    assert rows[0].answered > 0
    assert readings[0].requests == 10
    assert not any(loop.is_running() for loop in loops)


@LINUX
def test_a_burst_whose_loop_ended_says_so(plan: BurstSpec) -> None:
    with bursts.running(plan) as burst:
        assert burst._loops is not None
        _loops(burst)[0].kill()
        assert burst._loops.children[0].wait(5.0)
        list(burst.readings())
        assert awake.FELL_ASLEEP in burst.notes


def test_a_system_without_idle_priority_says_so(plan: BurstSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "SCHED_IDLE", raising=False)
    with bursts.running(plan) as burst:
        list(burst.readings())
        assert awake.NO_IDLE_PRIORITY in burst.notes


def test_cores_sleep_as_they_like_unless_asked(plan: BurstSpec) -> None:
    asleep = (msgspec.structs.replace(plan.workloads[0], awake=False),)
    with bursts.running(msgspec.structs.replace(plan, workloads=asleep)) as burst:
        list(burst.readings())
        assert burst._loops is None
        assert awake.NO_IDLE_PRIORITY not in burst.notes


@LINUX
def test_loops_are_held_while_a_workload_is_measured_that_did_not_ask_for_them(plan: BurstSpec) -> None:
    asleep = msgspec.structs.replace(plan.workloads[0], name="asleep", awake=False)
    both = msgspec.structs.replace(plan, workloads=(*plan.workloads, asleep))
    with bursts.running(both) as burst:
        for name in ("closed", "asleep", "closed"):
            list(burst.slices((BlockSpec(name, 0, ("all",)),)))
            held = name == "asleep"
            # A signal takes effect when its process is next given a core, and these have the lowest claim to one.
            wait_for(
                lambda held=held: all((each.status() == psutil.STATUS_STOPPED) == held for each in _loops(burst)),  # type: ignore[misc]
                lambda name=name: f"loops in {name}: {[each.status() for each in _loops(burst)]}",  # type: ignore[misc]
            )


@LINUX
def test_a_loop_ends_at_once_without_its_parent() -> None:
    command = [sys.executable, "-m", "harness.execute.loop", str(host.cores()[0]), str(os.getppid())]
    assert subprocess.run(command, timeout=30, check=False).returncode == 1
