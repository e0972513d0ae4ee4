"""Counters and probes against what the process itself knows; pinning; the environment record."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from ast import literal_eval
from collections.abc import Iterator

import psutil
import pytest

from harness.execute import host
from harness.execute.counters import cpu_seconds, minor_faults, tree
from harness.measure.probes import memory
from harness.study.file import ROOT

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

HOLD = """
import mmap, sys, time
print("up", flush=True)
for line in sys.stdin:
    block = mmap.mmap(-1, 32 << 20)
    for page in range(0, 32 << 20, 4096):
        block[page] = 1
    print(time.process_time(), flush=True)
"""


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """A process that, told to, touches 32 MiB and tells its own CPU time."""
    command = (sys.executable, "-I", "-S", "-c", HOLD)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


def _work(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def test_cpu_clock_of_this_process_is_its_own() -> None:
    before = time.process_time()
    waited_for = os.times().children_user + os.times().children_system
    seen = cpu_seconds([os.getpid()]) - waited_for
    assert before <= seen + 0.02
    assert seen <= time.process_time() + 0.02


@linux_only
def test_cpu_faults_and_memory_of_another_process(other: subprocess.Popen[str]) -> None:
    pids = [other.pid]
    faults, idle = minor_faults(pids), memory(pids)
    own = _work(other)
    assert own <= cpu_seconds(pids) < own + 0.1
    after = memory(pids)
    # Not the difference: what idle had to itself of its libraries is shared as soon as somebody else loads them.
    assert idle.uss < 32 << 20 <= after.uss
    assert after.uss <= after.pss <= after.rss
    assert idle.descriptors == 3
    assert minor_faults(pids) - faults >= 8  # 32 MiB: 8192 small pages, or 16 huge ones
    assert memory([other.pid, other.pid]).rss == 2 * memory(pids).rss


_FORKER = """
import os, sys
def work():
    return sum(number * number for number in range(1_500_000))
input()
child = os.fork()
if not child:
    work()
    os._exit(0)
os.waitpid(child, 0)
living = os.fork()
if not living:
    work()
    print("worked", flush=True)
    sys.stdin.read()
    os._exit(0)
sys.stdin.read()
os.waitpid(living, 0)
"""


@linux_only
def test_the_work_of_children_counts_whether_they_live_or_were_waited_for() -> None:
    command = (sys.executable, "-I", "-S", "-c", _FORKER)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forker:
        assert forker.stdin is not None
        assert forker.stdout is not None
        before = cpu_seconds(tree(forker.pid))
        forker.stdin.write("go\n")
        forker.stdin.flush()
        assert forker.stdout.readline() == "worked\n"
        both = tree(forker.pid)
        (alive,) = both[1:]
        used = cpu_seconds(both) - before
        assert used > 1.5 * cpu_seconds([alive]) > 0.0  # two children did the same work, one of them is gone
        forker.stdin.close()
        assert cpu_seconds([os.getpid(), 2**22 + 1]) > 0.0  # a child that is gone meanwhile is with its parent


@pytest.mark.parametrize("read", [cpu_seconds, memory, minor_faults])
def test_a_process_that_is_gone_raises(read: object) -> None:
    process = subprocess.Popen((sys.executable, "-I", "-S", "-c", ""))
    process.wait()
    assert callable(read)
    with pytest.raises(ProcessLookupError, match=str(process.pid)):
        read([process.pid])


@linux_only
def test_pin_confines_every_thread(other: subprocess.Popen[str]) -> None:
    cores = host.cores()
    note = host.pin([other.pid], cores[:1])
    if len(cores) < 2:
        assert note == host.ONE_CORE
    else:
        assert note == ""
        assert psutil.Process(other.pid).cpu_affinity() == [cores[0]]


def test_environment_describes_this_machine(tmp_path: object) -> None:
    found = host.environment()
    assert found.cores == len(host.cores())
    assert found.memory_bytes > 0
    assert found.packages["locust"]
    assert found.cpu
    assert len(found.revision) in {0, 40}


def test_environment_names_the_variables_that_change_how_programs_run(monkeypatch: pytest.MonkeyPatch) -> None:
    before = host.environment().variables
    told, secret = ("MALLOC_ARENA_MAX", "LD_BIND_NOW", "PYTHONMALLOC"), ("PYTHON_TOKEN", "LOCUST_PASSWORD")
    for name in (*told, *secret, "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PYTHONPATH", "")
    changed = {**before, **dict.fromkeys(told, "1")}
    changed.pop("PYTHONPATH", None)
    assert host.environment().variables == changed


def test_every_variable_that_our_locust_files_read_is_recorded() -> None:
    """The harness itself sets those of its own name."""
    sources = "".join(path.read_text() for path in (ROOT / "scenarios" / "load").glob("*.py"))
    read = re.findall(r"os\.environ(?:\.get\(|\[)([^],)]+)", sources)
    assert len(read) == sources.count("os.environ")
    names = {literal_eval(each) for each in read}
    assert "CHURN_SHARE" in names
    assert {name for name in names if not name.startswith((*host.VARIABLES, "SYNAPSED_"))} == set()


def test_outside_a_repository_there_is_no_revision(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = host.environment(tmp_path_factory.mktemp("plain"))
    assert (found.revision, found.dirty) == ("", False)


def test_what_others_and_the_host_took_is_what_is_not_ours() -> None:
    since = host.CpuTime(at=10.0, everybody=100.0, ours=20.0, stolen=1.0)
    assert host.beside(since, host.CpuTime(14.0, 106.0, 24.0, 2.0)) == (0.5, 0.25)
    assert host.beside(since, host.CpuTime(14.0, 104.0, 24.01, 1.0)) == (0.0, 0.0)  # by ticks of 10 ms


def test_cpu_of_a_child_that_has_ended_is_ours() -> None:
    before = host.cpu_time()
    subprocess.run([sys.executable, "-c", "while __import__('time').process_time() < 0.3: pass"], check=True)
    after = host.cpu_time()
    assert after.ours - before.ours >= 0.28  # ticks
    assert after.at > before.at
    assert after.everybody >= before.everybody
