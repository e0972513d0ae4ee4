"""The counter, by an event of the kernel's own that every machine has; the one of cache misses where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from harness.execute.cache_misses import counting
from harness.execute.load import LoadProcess, LoadSpec
from harness.execute.target import Target
from harness.execute.wire import WorkloadFile
from tests.harness.execute.conftest import opening

PAGE_FAULTS = (1, 2)
"PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS"
TOUCHING = """
import mmap, sys, threading

def touch():
    pages = mmap.mmap(-1, 200 * mmap.PAGESIZE)
    for page in range(200):
        pages[page * mmap.PAGESIZE] = 1

go, done = threading.Semaphore(0), threading.Semaphore(0)

def before():
    go.acquire()
    touch()
    done.release()

threading.Thread(target=before, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    if line == "old thread\\n":
        go.release()
        done.acquire()
    elif line == "new thread\\n":
        threading.Thread(target=touch).start()
    else:
        touch()
    print("done", flush=True)
"""


@pytest.fixture
def touch() -> Iterator[tuple[int, Callable[[str], None]]]:
    """A process, and how to let one of its threads touch 200 new pages."""
    command = [sys.executable, "-c", TOUCHING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        orders, answers = child.stdin, child.stdout
        assert answers.readline() == "ready\n"

        def order(which: str) -> None:
            orders.write(f"{which}\n")
            assert answers.readline() == "done\n"

        yield child.pid, order
        orders.close()


@pytest.mark.parametrize("which", ["main thread", "old thread", "new thread"])
def test_every_thread_of_another_process_counts(touch: tuple[int, Callable[[str], None]], which: str) -> None:
    pid, order = touch
    counter = counting((pid,), PAGE_FAULTS)
    if counter is None:
        pytest.skip("this kernel lets nobody count events of other processes")
    before = counter.read()
    order(which)
    if which == "new thread":
        order("main thread")  # its answer may come before the thread has touched anything
        order("main thread")
    assert counter.read() - before >= 200
    counter.close()


def test_what_cannot_be_counted_is_none_and_no_error() -> None:
    assert counting((1 << 22,)) is None, "no such process"
    assert counting((), PAGE_FAULTS) is None
    assert counting((1,), (77, 12345)) is None, "no such event"


@pytest.mark.parametrize("asked", [True, False])
def test_a_slice_tells_cache_misses_when_asked_and_where_there_is_a_counter(
    server: Target, client: str, asked: bool
) -> None:
    here = counting((os.getpid(),)) is not None
    env = {"SYNAPSED_TARGET": msgspec.json.encode(server.ready).decode(), "SYNAPSED_OPTIMIZATIONS": ""}
    with LoadProcess.start(LoadSpec("test", (WorkloadFile("w", client, 2),), env, cache_misses=asked)) as load:
        found = load.slice(msgspec.structs.replace(opening(0.1), targets=server.pids())).cache_misses
    assert (found is not None and found > 0) == (here and asked)


def test_a_stretch_counts_both_ends_by_whatever_event_there_is(server: Target, client: str, tmp_path: Path) -> None:
    """As where there are counters of cache misses, but with page faults in their place."""
    if counting((os.getpid(),), PAGE_FAULTS) is None:
        pytest.skip("this kernel lets nobody count events")
    (tmp_path / "sitecustomize.py").write_text(
        f"import harness.execute.cache_misses as it\nit.counting.__defaults__ = ({PAGE_FAULTS},)\n"
    )
    ready = msgspec.json.encode(server.ready).decode()
    env = {"SYNAPSED_TARGET": ready, "SYNAPSED_OPTIMIZATIONS": "", "PYTHONPATH": str(tmp_path)}
    with LoadProcess.start(LoadSpec("test", (WorkloadFile("w", client, 2),), env, cache_misses=True)) as load:
        order = msgspec.structs.replace(opening(0.1), targets=server.pids())
        found = [load.slice(order).cache_misses for _ in range(2)]
    assert all(each is not None and 0 <= each < 100_000 for each in found)
    assert any(found), "all that is received has to be put somewhere"
