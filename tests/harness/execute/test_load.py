"""The load process: users held between slices, every request counted once, any Locust file unchanged."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from harness.errors import LoadError
from harness.execute import load as load_module
from harness.execute.load import LoadProcess, LoadSpec
from harness.execute.target import Target
from harness.execute.wire import OpenSlice, Work, WorkloadFile
from tests.harness.execute.conftest import CLIENT, SERVER, START_HELPER, conserved, load_of, opening, write


def _env(server: Target) -> dict[str, str]:
    return {"SYNAPSED_TARGET": json.dumps(server.ready), "SYNAPSED_OPTIMIZATIONS": "a,b"}


def _times(server: Target) -> list[float]:
    host, port = server.ready["addresses"][0]
    with socket.create_connection((host, port)) as connection, connection.makefile("rb") as stream:
        connection.sendall(b"times\n")
        return list(json.loads(stream.readline()))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, LoadProcess]]:
    """One line server and one load process of four users, for tests that leave both as they found them."""
    folder = tmp_path_factory.mktemp("shared")
    command = (sys.executable, "-u", write(folder, "server.py", SERVER))
    client = write(folder, "client.py", CLIENT)
    with Target.start(command, {}) as server, load_of(client, 4, _env(server)) as load:
        yield server, load


def test_nobody_sends_outside_a_slice(shared: tuple[Target, LoadProcess]) -> None:
    """By the server's clock every request lies within some slice, and all of them are counted."""
    server, load = shared
    before = len(_times(server))
    windows, answered = [], 0
    for _ in range(3):
        began = time.monotonic()
        result = load.slice(opening(0.1))
        windows.append((began, time.monotonic()))
        assert conserved(result)
        assert result.cancelled == 0
        answered += result.answered
        assert len(_times(server)) - before == answered
    times = _times(server)[before:]
    assert len(times) == answered > 10
    assert all(any(begin <= moment <= end for begin, end in windows) for moment in times)


def test_slice_accounts_cpu_and_service_time(shared: tuple[Target, LoadProcess]) -> None:
    server, load = shared
    result = load.slice(OpenSlice("w", 0.15, 0.01, 5.0, server.pids()))
    service = np.frombuffer(result.samples[0].service, "<f4")
    assert result.samples[0].name == "ask"
    assert result.samples[0].lag == b""
    assert service.min() > 0
    assert service.max() <= result.seconds
    assert result.cpu_target > 0
    assert result.cpu_load > 0


def test_work_runs_exactly_the_tasks_asked_for(shared: tuple[Target, LoadProcess]) -> None:
    server, load = shared
    before = len(_times(server))
    result = load.work(Work("w", 250, 0.0, 20.0, ()))
    assert (result.tasks, result.answered, result.cancelled) == (250, 250, 0)
    assert len(_times(server)) - before == 250


def test_open_arrivals_each_start_once_and_never_early(shared: tuple[Target, LoadProcess]) -> None:
    _server, load = shared
    result = load.slice(opening(0.15, arrivals=tuple(0.001 * each for each in range(150))))
    again = load.slice(opening(0.05))  # a closed slice after an open one keeps no lag
    lag = np.frombuffer(result.samples[0].lag, "<f4")
    assert (result.tasks, result.answered, len(lag)) == (150, 150, 150)
    assert lag.min() >= 0
    assert lag.max() == pytest.approx(result.lag_max, rel=1e-6)
    assert again.samples[0].lag == b""


def test_gauges_are_asked_from_the_locust_file(shared: tuple[Target, LoadProcess]) -> None:
    gauges = shared[1].gauges()
    assert gauges.load.keys() == {"client.users", "process.collections"}
    assert gauges.load["client.users"] == 4.0
    assert gauges.target == {"server.on": 2.0}


def test_collections_are_counted_from_the_moment_everybody_is_ready(tmp_path: Path) -> None:
    file = (
        "import gc\nfrom locust import User, task\nfor _ in range(100):\n    gc.collect()\n"
        "class U(User):\n    @task\n    def t(self):\n"
        "        with self.environment.events.request.measure('x', 'x'):\n            gc.collect()\n"
    )
    with load_of(write(tmp_path, "collecting.py", file), 1) as load:
        before = load.gauges().load["process.collections"]
        load.work(Work("w", tasks=20, quiet=0.0, timeout=10.0, targets=()))
        after = load.gauges().load["process.collections"]
    assert before < 100
    assert after - before >= 20


def test_a_late_start_is_lag_not_a_lost_arrival(tmp_path: Path) -> None:
    """One user of 20 ms a task, five arrivals at once: the last one waits for four tasks.

    The request runs in a greenlet the task spawns, which inherits the task's lag.
    """
    path = write(
        tmp_path,
        "slow.py",
        "import gevent\nfrom locust import User, task\nclass U(User):\n    @task\n"
        "    def t(self): gevent.spawn(self.request).join()\n    def request(self):\n"
        "        with self.environment.events.request.measure('x', 's'): gevent.sleep(0.02)\n",
    )
    with load_of(path, users=1) as load:
        result = load.slice(opening(0.01, arrivals=(0.0,) * 5))
    lag = np.frombuffer(result.samples[0].lag, "<f4")
    assert result.answered == 5
    assert list(lag) == sorted(lag)
    assert lag[-1] >= 0.079
    assert result.lag_max >= 0.079


PATIENT = """
from locust import User, constant_throughput, task
class U(User):
    wait_time = constant_throughput(0.1)
    @task
    def t(self):
        with self.environment.events.request.measure("x", "s"):
            pass
"""


def test_fixed_work_does_not_wait_for_users_that_think(tmp_path: Path) -> None:
    """Twenty tasks of two users would take a hundred seconds."""
    with load_of(write(tmp_path, "patient.py", PATIENT)) as load:
        assert load.work(Work("w", 20, 0.0, 10.0, (), thinking=False)).answered == 20
        assert load.slice(opening(0.01)).tasks == 2, "and then they think again"


def test_arrivals_replace_the_pace_that_users_have_of_their_own(tmp_path: Path) -> None:
    """Each user would make a request in ten seconds: forty arrivals of two users, and a closed stretch to find their
    capacity, would stay undone.
    """
    path = write(tmp_path, "patient.py", PATIENT)
    spec = LoadSpec("test", (WorkloadFile("w", path, 2, {}, scheduled=True), WorkloadFile("own", path, 2)))
    with LoadProcess.start(spec) as load:
        scheduled = load.slice(opening(0.05, arrivals=tuple(0.001 * each for each in range(40))))
        closed = load.work(Work("w", 100, 0.0, 5.0, ()))
        own = load.slice(opening(0.05, workload="own"))
    assert (scheduled.answered, scheduled.cancelled, closed.answered, own.answered) == (40, 0, 100, 2)


AFTERWARDS = """
import gevent, time
from locust import User, task
def burn():
    began = time.process_time()
    while time.process_time() < began + 0.05:
        pass
class U(User):
    @task
    def t(self):
        gevent.spawn_later(0.02, burn)
        with self.environment.events.request.measure("x", "s"):
            pass
"""


def test_cpu_time_that_requests_leave_behind_is_counted_while_it_is_quiet(tmp_path: Path) -> None:
    """The load process stands for the target too: it burns its own CPU time when nobody is in flight."""
    with load_of(write(tmp_path, "afterwards.py", AFTERWARDS), users=1) as load:
        result = load.work(Work("w", 1, 0.1, 10.0, (load.pid,)))
    assert min(result.cpu_load, result.cpu_target) >= 0.05


STARTS_ANOTHER = f"""
from locust import User, task
kept = []
def start():{START_HELPER}
    kept.append(helper)
class U(User):
    @task
    def t(self):
        with self.environment.events.request.measure("x", "s"):
            start()
"""


def test_a_process_that_the_target_starts_meanwhile_is_counted(tmp_path: Path) -> None:
    """The load process stands for the target too, of which it is the only process at the beginning."""
    with load_of(write(tmp_path, "starts.py", STARTS_ANOTHER), users=1) as load:
        result = load.work(Work("w", 1, 0.0, 30.0, (load.pid,)))
    assert result.cpu_target - result.cpu_load >= 0.2


ERRORS = """
import itertools
from locust import User, task
from locust.exception import RescheduleTask
class Refused(Exception):
    rejected = True
class Broken(Exception):
    pass
steps = itertools.count()
class U(User):
    def fire(self, exception=None):
        self.environment.events.request.fire(request_type="x", name="n", response_time=1.5, response_length=0,
                                             exception=exception, context={})
    @task
    def t(self):
        match next(steps) % 7:
            case 0: self.fire()
            case 1: self.fire(Broken())
            case 2: self.fire(Refused())
            case 3: raise Broken("not reported to the event")
            case 4:
                error = Broken("reported, then raised")
                self.fire(error)
                raise error
            case 5:
                self.fire()
                raise RescheduleTask()
            case 6: raise Refused()
"""


def test_every_outcome_is_counted_once(tmp_path: Path) -> None:
    with load_of(write(tmp_path, "errors.py", ERRORS), users=2) as load:
        result = load.work(Work("w", 700, 0.0, 20.0, ()))
    assert conserved(result)
    assert (result.answered, result.rejected, result.failed, result.cancelled) == (
        200,
        200,
        {"Broken": 300},
        0,
    )
    assert list(np.frombuffer(result.samples[0].service, "<f4")) == pytest.approx([0.0015] * 200)


def test_a_request_that_never_ends_is_cancelled_and_its_user_replaced(server: Target, tmp_path: Path) -> None:
    path = write(tmp_path, "hang.py", CLIENT.replace('b"hello"', 'b"hang"'))
    with load_of(path, 3, _env(server)) as load:
        result = load.slice(opening(0.05, drain=0.1))
        assert (result.cancelled, result.answered) == (3, 0)
        assert conserved(result)
        again = load.slice(opening(0.05, arrivals=(0.0,) * 5, drain=0.1))
        assert again.cancelled == 5  # three in flight, two nobody was free to start
        assert load.gauges().load["client.users"] == 3.0


UNCHANGED = """
import os
from locust import SequentialTaskSet, TaskSet, User, between, constant, events, task
log = []
@events.init_command_line_parser.add_listener
def arguments(parser):
    parser.add_argument("--depth", type=int, default=7)
@events.test_start.add_listener
def started(environment, **_):
    log.append("test_start")
@events.request.add_listener
def seen(name, **_):
    log.append(name)
@events.quitting.add_listener
def quitting(environment, **_):
    print("quitting", log.count("test_start"), log.count("nested"), flush=True)
def fire(user, name):
    user.environment.events.request.fire(
        request_type="x", name=name, response_time=1, response_length=0, exception=None)
class Nested(TaskSet):
    wait_time = constant(0.0005)
    def on_start(self):
        self.left = 3
    @task
    def step(self):
        fire(self.user, "nested")
        self.left -= 1
        if not self.left:
            self.interrupt()
class Steps(SequentialTaskSet):
    @task
    def first(self): fire(self.user, "first")
    @task
    def second(self):
        fire(self.user, "second")
        self.interrupt(reschedule=False)
class A(User):
    wait_time = between(0.0001, 0.001)
    tasks = [Nested, Steps]
    def on_start(self):
        assert self.environment.parsed_options.depth == 7
class B(User):
    fixed_count = 1
    @task
    def plain(self):
        events.request.fire(
            request_type="x", name="global hook", response_time=1, response_length=0, exception=None)
        self.wait()
"""


WRONG = """
from locust import User, task
class U(User):
    turn = 0
    def fire(self, exception):
        self.environment.events.request.fire(request_type="x", name="n", response_time=1, response_length=0,
                                             exception=exception, context={})
    @task
    def t(self):
        U.turn += 1
        if U.turn == 1:
            self.fire("no\\n  luck")
        int("9" * U.turn + "x" * 1000)
"""


def test_the_first_failure_of_each_kind_tells_what_it_said_and_where(tmp_path: Path) -> None:
    path = write(tmp_path, "wrong.py", WRONG)
    with load_of(path) as load:
        result = load.work(Work("w", 3, 0.0, 10.0, (), thinking=False))
    assert result.failed == {"failure": 1, "ValueError": 3}
    text, _, where = result.said.pop("ValueError").rpartition(" at ")
    assert text.startswith("invalid literal for int() with base 10: '9xxx")
    assert (len(text), where) == (200, f"{path}:{WRONG.splitlines().index(WRONG.splitlines()[-1]) + 1}")
    assert result.said == {"failure": "no luck"}


def test_a_locust_file_with_everything_runs_unchanged(tmp_path: Path) -> None:
    """Nested and sequential task sets, think time, custom arguments, own listeners, the global event hook."""
    with load_of(write(tmp_path, "rich.py", UNCHANGED), users=4, env={"SYNAPSED_SEED": "1"}) as load:
        first = load.slice(opening(0.5))  # time enough for each user to choose between its task sets many times
        second = load.slice(opening(0.05, arrivals=tuple(0.0005 * each for each in range(60))))
        child = load._child
    names = {each.name: len(each.service) // 4 for each in first.samples}
    assert names.keys() == {"nested", "first", "second", "global hook"}
    assert conserved(first)
    assert conserved(second)
    assert first.failed == second.failed == {}
    assert first.cancelled == second.cancelled == 0
    assert second.tasks == 60
    assert "quitting 1 " in child.epitaph()


TOLD_TWICE = """
from locust import User, task
class Repeats(User):
    {said}
    @task
    def ask(self):
        for _ in range(2):
            self.environment.events.request.fire(
                request_type="x", name="ask", response_time=1, response_length=0, exception=None)
        self.wait()
    def wait_time(self):
        return 0.001
"""


@pytest.mark.parametrize(("said", "share"), [("", 0), ("requests_per_task = 2", 0), ("requests_per_task = 1", 1)])
def test_a_request_told_twice_is_surplus_where_the_users_say_how_many_they_make(
    tmp_path: Path, said: str, share: int
) -> None:
    with load_of(write(tmp_path, "repeats.py", TOLD_TWICE.format(said=said)), users=2) as load:
        closed = load.slice(opening(0.05))
        work = load.work(Work("w", 20, 0.0, 10.0, ()))
        scheduled = load.slice(opening(0.05, arrivals=tuple(0.001 * each for each in range(20))))
    assert closed.answered == 2 * closed.tasks > 0
    for result in (closed, work, scheduled):
        assert result.surplus == share * result.tasks


def test_requests_per_task_is_a_number(tmp_path: Path) -> None:
    path = write(tmp_path, "repeats.py", TOLD_TWICE.format(said="requests_per_task = 'two'"))
    with pytest.raises(LoadError, match=r"requests_per_task of Repeats is 'two'; expected a whole number above 0"):
        load_of(path)


def test_workloads_share_a_process_but_not_their_listeners(tmp_path: Path) -> None:
    """Only the opened workload sends; a file's listeners see its own environment, a module's all."""
    write(
        tmp_path,
        "shared.py",
        "from locust import events\n@events.init.add_listener\ndef on(environment, **_):\n"
        "    environment.synapsed_target_gauges = lambda: {environment.locustfile: 1}\n",
    )
    file = (
        "import os, shared\nfrom locust import User, events, task\nNAME = os.environ['NAME']\n"
        "@events.init.add_listener\ndef on(environment, **_):\n"
        "    environment.seen = getattr(environment, 'seen', []) + [NAME]\n"
        "    environment.synapsed_gauges = lambda: {'+'.join(environment.seen): 1}\n"
        "class U(User):\n    @task\n    def t(self):\n"
        "        with self.environment.events.request.measure('x', NAME):\n            pass\n"
    )
    one, two = write(tmp_path, "one.py", file), write(tmp_path, "two.py", file)
    workloads = (
        WorkloadFile("one", one, 2, {"NAME": "first"}),
        WorkloadFile("two", two, 3, {"NAME": "second"}),
        WorkloadFile("twice", two, 1, {"NAME": "third"}),
    )
    with LoadProcess.start(LoadSpec("test", workloads)) as load:
        gauges = load.gauges()
        assert gauges.load.keys() == {"one: first", "two: second", "twice: third", "process.collections"}
        assert gauges.target == {"one.py": 1, "two.py": 1}
        for workload, name in (("one", "first"), ("two", "second"), ("twice", "third"), ("one", "first")):
            result = load.work(Work(workload, 20, 0.0, 10.0, ()))
            assert [(each.name, len(each.service) // 4) for each in result.samples] == [(name, 20)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "import nothing_like_this",
            r"bad\.py cannot be loaded: ModuleNotFoundError: No module named 'nothing",
        ),
        ("from locust import User", r"bad\.py defines no Locust user"),
        (
            "from locust import User, task\nclass U(User):\n    def on_start(self): raise OSError('no way')\n"
            "    @task\n    def t(self): pass",
            "ended before its first task: OSError: no way",
        ),
        (
            "from locust import User, events, task\n@events.test_start.add_listener\n"
            "def lay(**_): raise OSError('no link')\nclass U(User):\n    @task\n    def t(self): pass",
            "workload 'w' cannot begin: OSError: no link",
        ),
    ],
)
def test_a_bad_locust_file_is_one_clear_error(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(LoadError, match=expected):
        load_of(write(tmp_path, "bad.py", text))


def test_users_that_stop_are_an_error_not_a_slow_slice(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "quitter.py",
        "from locust import User, task\nfrom locust.exception import StopUser\nclass U(User):\n    @task\n"
        "    def t(self): raise StopUser()\n",
    )
    with load_of(path) as load:
        result = load.slice(opening(0.05))
        assert result.ended == 0
        with pytest.raises(LoadError, match=r"\d of \d users of workload 'w' have stopped; expected all to stay"):
            load.slice(opening(0.05))


def test_one_user_less_is_another_load(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "leaver.py",
        "from locust import User, task\nfrom locust.exception import StopUser\nclass U(User):\n    left = False\n"
        "    @task\n    def t(self):\n"
        "        if not U.left:\n            U.left = True\n            raise StopUser()\n",
    )
    with load_of(path, users=3) as load:
        load.work(Work("w", 20, 0.0, 5.0, ()))
        with pytest.raises(LoadError, match="1 of 3 users of workload 'w' have stopped"):
            load.slice(opening(0.05))


STOPPING = """
import gevent
from locust import User, task
class U(User):
    def on_stop(self): print("user stopped", flush=True)
    @task
    def t(self): gevent.sleep(0.001)
"""


def test_a_load_process_that_hangs_is_given_up_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "_MARGIN", 0.5)
    path = write(
        tmp_path,
        "hang.py",
        "import signal\nfrom locust import User, task\nclass U(User):\n    @task\n"
        "    def t(self): signal.sigwait([signal.SIGUSR1])\n",  # on its only thread: nothing else runs there
    )
    with load_of(path) as load:
        with pytest.raises(LoadError, match="load process test did not answer within 1 s"):
            load.slice(opening(0.05, drain=0.0))
        pid = load.pid
    assert not psutil.pid_exists(pid)


def test_work_that_is_not_done_in_time_says_how_much_was(tmp_path: Path) -> None:
    told = pytest.raises(LoadError, match=r"workload 'w' did \d+ of 1000000 tasks in 0\.1 s; expected all")
    with load_of(write(tmp_path, "slow.py", STOPPING)) as load, told:
        load.work(Work("w", 1_000_000, 0.0, 0.1, ()))


def test_killed_load_process_is_one_error_and_leaves_nothing(server: Target, client: str) -> None:
    load = load_of(client, 2, _env(server))
    try:
        os.kill(load.pid, signal.SIGKILL)
        with pytest.raises(LoadError, match=r"load process test \(pid \d+\) died: killed by SIGKILL"):
            load.slice(opening(5.0))
        assert not load.alive()
    finally:
        load.stop()
    assert not psutil.pid_exists(load.pid)
    with pytest.raises(LoadError, match="died"):
        load.slice(opening())


def test_a_busy_load_process_is_not_waited_for(tmp_path: Path) -> None:
    """An order given up (Ctrl-C) leaves a slice running; stopping ends the process in the middle of it."""
    path = write(tmp_path, "stop.py", STOPPING)
    load = load_of(path)
    load._send(opening(1e6))
    load.stop()
    assert not load.alive()


def test_users_are_stopped_by_locust(tmp_path: Path) -> None:
    with load_of(write(tmp_path, "stop.py", STOPPING)) as load:
        child = load._child
    assert "user stopped | user stopped" in child.epitaph()
    assert "exit status 0" in child.epitaph()


ALARMS = """
import locust, time
from gevent.event import Event
from harness.execute.alarm import LoopAlarm, TimerfdAlarm, alarm
from harness.execute.barrier import Barrier
for make in (LoopAlarm, lambda ring: alarm(ring)[0]):
    rung = []
    event = Event()
    def ring():
        rung.append(time.monotonic())
        event.set()
    one = make(ring)
    for delay in (0.0123, -1.0, 0.0):
        deadline = time.monotonic() + delay
        event.clear()
        one.set(time.monotonic() + 100)
        one.set(deadline)
        assert event.wait(10)
        assert rung.pop() >= deadline and not rung
    one.set(time.monotonic() + 0.002)
    one.cancel()
    assert not event.clear() and not event.wait(0.02), rung
print("fine")
"""


def test_alarms_ring_once_and_never_early(tmp_path: Path) -> None:
    """In a process of its own, because importing Locust patches the standard library."""
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        (sys.executable, write(tmp_path, "alarms.py", ALARMS)),
        env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_a_crashing_load_process_reports_its_last_words(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "crash.py",
        "import os, sys\nfrom locust import User, task\nclass U(User):\n    @task\n    def t(self):\n"
        "        print('out of luck', file=sys.stderr, flush=True)\n        os._exit(3)\n",
    )
    load = load_of(path)
    try:
        with pytest.raises(LoadError, match="exit status 3; last lines: out of luck"):
            load.slice(opening(5.0))
    finally:
        load.stop()


PARENT = """
import json, sys, time
from harness.execute.load import LoadProcess, LoadSpec
from harness.execute.target import Target
from harness.execute.wire import OpenSlice, WorkloadFile
server, client = sys.argv[1:]
target = Target.start((sys.executable, server), {})
load = LoadProcess.start(LoadSpec("a", (WorkloadFile("w", client, 2),),
    {"SYNAPSED_TARGET": json.dumps(target.ready), "SYNAPSED_OPTIMIZATIONS": ""}))
print(json.dumps([target.pid, load.pid]), flush=True)
load.slice(OpenSlice("w", 60.0, 0.0, 1.0, ()))
"""


def test_children_die_with_a_killed_harness(server: Target, client: str, tmp_path: Path) -> None:
    """SIGKILL of the harness in mid-slice: neither the target nor the load process survives it."""
    program = write(tmp_path, "parent.py", PARENT)
    arguments = (sys.executable, program, str(tmp_path / "server.py"), client)
    root = str(Path(__file__).parents[3])
    process = psutil.Popen(arguments, stdout=-1, env={**os.environ, "PYTHONPATH": root}, cwd=tmp_path)
    with process.stdout:
        children = [psutil.Process(pid) for pid in json.loads(process.stdout.readline())]
        process.kill()
        process.wait()
    _gone, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
