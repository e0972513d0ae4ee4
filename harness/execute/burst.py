"""One burst: fresh processes for every arm, warmed, measured slice by slice, and certainly ended.

Laws. Processes are exec'd anew, on all cores, and pinned once they are ready: targets to the first core,
load to the second. Memory is read before any stretch of fixed duration, because a faster arm does more work
in the same time. Only one arm is under load at a time. Rows are handed out as they are made; what was
handed out stays valid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from harness.errors import LoadError, TargetError
from harness.execute import host, wire
from harness.execute.awake import Loops
from harness.execute.load import LoadProcess, LoadSpec
from harness.execute.target import JSON_LINE, Readiness, Target
from harness.measure.probes import memory, published
from harness.measure.records import ArmReading, Latencies, Memory, Sample, Slice, Stretch, Unanswered
from harness.study.records import Workload


class ArmSpec(msgspec.Struct, frozen=True):
    """How one arm's two processes are started.

    `env` reaches both ends (switches of an arm concern both); `load_env` one. `files`
    replaces the Locust file of a workload (by name) on this arm, `interpreter` the Python of its load process.
    """

    name: str
    command: tuple[str, ...]
    optimizations: tuple[str, ...] = ()
    env: dict[str, str] = {}
    load_env: dict[str, str] = {}
    files: dict[str, str] = {}
    readiness: Readiness = JSON_LINE
    cwd: str | None = None
    interpreter: str = ""


class BurstSpec(msgspec.Struct, frozen=True):
    """A burst's arms and workloads, and its time limits (seconds): a target is ready within `ready_timeout`, a
    load process, whose Locust file may prepare a hundred thousand clients, within `load_timeout`. `memory_workload`
    empty = the first workload.
    """

    number: int
    arms: tuple[ArmSpec, ...]
    workloads: tuple[Workload, ...]
    memory_requests: int = 2000
    memory_workload: str = ""
    warm_seconds: float = 0.3
    ready_timeout: float = 30.0
    load_timeout: float = 300.0
    work_timeout: float = 60.0
    drain_timeout: float = 5.0
    cache_misses: bool = False
    "whether they are counted, where the machine can: that costs each switch between processes a little"


class BlockSpec(msgspec.Struct, frozen=True):
    """One block of one workload: adjacent stretches, one per arm, in this order.

    Every arm of a block gets the same `arrivals` (seconds after opening; None = closed); `rate` is what was
    asked for. `planned` 0 = the workload's slice length.
    """

    workload: str
    number: int
    arms: tuple[str, ...]
    arrivals: tuple[float, ...] | None = None
    rate: float = 0.0
    planned: float = 0.0
    kind: Stretch = "slice"


class Step(msgspec.Struct, frozen=True):
    """What is happening now, for the progress display."""

    doing: str
    arm: str = ""
    workload: str = ""


LONGEST_VARIABLE = 100_000
PATIENCE = 10.0
"times its expected length that an episode of so many tasks may take"
Progress = Callable[[Step], None]


class _RunningArm:
    """One arm's target and load process and what was read of them."""

    def __init__(self, plan: ArmSpec, target: Target, load: LoadProcess) -> None:
        self.name = plan.name
        self.target = target
        self.load = load
        self.pids = target.pids()
        self.warm: set[str] = set()
        self.requests = 0
        self.target_idle = self.target_after = self.load_idle = self.load_after = Memory(0, 0, 0, 0)


class RunningBurst:
    """A burst whose processes are up. Made by `running`; all calls raise TargetError or LoadError on
    trouble.
    """

    def __init__(self, plan: BurstSpec, progress: Progress, clock: Callable[[], float]) -> None:
        self.plan = plan
        self._progress = progress
        self._clock = clock
        self._workloads = {each.name: each for each in plan.workloads}
        self._arms: dict[str, _RunningArm] = {}
        self._loops: Loops | None = None
        self.episode = ""
        "The workload whose episodes were measured, if they were: readings then tell what they left."
        self.notes: tuple[str, ...] = ()
        "What about this machine or these processes weakens the measurement; for the report."

    def work(self) -> None:
        """Run the fixed work on every arm and read memory after it. Call it before any other load."""
        name = self.plan.memory_workload or self.plan.workloads[0].name
        for arm in self._arms.values():
            self._progress(Step("fixed work", arm.name, name))
            limit = self.plan.work_timeout
            order = wire.Work(name, self.plan.memory_requests, 0.0, limit, arm.pids, thinking=False)
            with self._blaming(arm):
                result = arm.load.work(order)
                arm.requests = result.answered
        for arm in self._arms.values():  # when all have worked: a page of a library is one process's own until then
            with self._blaming(arm):
                arm.target_after, arm.load_after = memory(arm.target.pids()), memory(arm.load.pids())

    def slices(self, blocks: Sequence[BlockSpec]) -> Iterator[Slice]:
        """Measure the blocks in order, one row per arm; every arm is warmed before its workload's first
        block.
        """
        for block in blocks:
            for name in block.arms:
                self._warm(self._arms[name], block)
            for position, name in enumerate(block.arms):
                self._progress(Step("slice", name, block.workload))
                yield self._slice(self._arms[name], block, position)

    def episodes(self, block: BlockSpec, keep: Callable[[Sample], None]) -> Iterator[Slice]:
        """One episode per arm, with nothing before it, and then what it left; `keep` gets samples every
        WATCH_SECONDS.
        """
        self.episode = block.workload
        workload = self._workloads[block.workload]
        for position, name in enumerate(block.arms):
            arm = self._arms[name]
            self._progress(Step("episode", name, block.workload))
            yield (row := self._slice(arm, block, position, keep))
            with self._blaming(arm):
                arm.load.settle(workload.settle_seconds)
                arm.requests = row.answered
                arm.target_after, arm.load_after = memory(arm.target.pids()), memory(arm.load.pids())

    def capacity(self, arm: str, workload: str) -> tuple[float, dict[str, str]]:
        """Tasks per second of a closed stretch of `warm_seconds` (not recorded), after as long a warm-up; and what the
        first failure of each kind said.

        A task may make several requests; the workload's own request stands for it where it is made at all.
        """
        self._progress(Step("capacity", arm, workload))
        running = self._arms[arm]
        self._warm(running, BlockSpec(workload, 0, (arm,)))
        result = self._open(running, BlockSpec(workload, 0, (arm,), planned=self.plan.warm_seconds))
        own = [len(each.service) // 4 for each in result.samples if each.name == self._workloads[workload].request]
        tasks = own[0] if own else result.answered
        return tasks / result.seconds if result.seconds > 0 else 0.0, result.said

    def target_pid(self, arm: str) -> int:
        """The pid of an arm's target, for whoever wants to disturb it."""
        return self._arms[arm].target.pid

    def readings(self) -> Iterator[ArmReading]:
        """What each arm's processes held; call at the end of the burst, when gauges tell its whole story."""
        if self._loops is not None and (note := self._loops.note):
            self.notes += (note,)
        for arm in self._arms.values():
            with self._blaming(arm):
                gauges = arm.load.gauges()
            yield ArmReading(
                burst=self.plan.number,
                arm=arm.name,
                requests=arm.requests,
                target_idle=arm.target_idle,
                target_after=arm.target_after,
                load_idle=arm.load_idle,
                load_after=arm.load_after,
                gauges=gauges.target,
                load_gauges=gauges.load,
                workload=self.episode,
            )

    def start(self, ends: ExitStack) -> None:
        """Start everything; `ends` gets what must be ended. Boots of one kind overlap, kinds follow one
        another.
        """
        targets = {}
        for arm in self.plan.arms:
            self._progress(Step("starting target", arm.name))
            target = Target.spawn(arm.command, _target_env(arm), arm.cwd, readiness=arm.readiness, name=arm.name)
            ends.callback(target.stop)
            targets[arm.name] = target
        for target in targets.values():
            target.wait_ready(self.plan.ready_timeout)
        # Before the load processes connect, and after all targets are up: a library page is unique to the first
        # process that maps it only until the second one does.
        idle = {name: _memory(target) for name, target in targets.items()}
        loads = {}
        for arm in self.plan.arms:
            self._progress(Step("starting load", arm.name))
            told = _told(targets[arm.name].ready, ends)
            load = LoadProcess.spawn(self._load_spec(arm, told, targets[arm.name]), self.plan.load_timeout)
            ends.callback(load.stop)
            loads[arm.name] = load
        for arm in self.plan.arms:
            running = _RunningArm(arm, targets[arm.name], loads[arm.name])
            self._arms[arm.name] = running
            with self._blaming(running):
                running.load.wait_ready(self.plan.load_timeout)
        for name, running in self._arms.items():  # after all of them, again
            with self._blaming(running):
                running.target_idle, running.load_idle = idle[name], memory(running.load.pids())
        self._pin()
        if any(each.awake for each in self.plan.workloads):
            self._loops = Loops()
            ends.callback(self._loops.end)
            self._loops.start(host.cores()[:2])

    def _pin(self) -> None:
        notes: dict[str, None] = {}
        cores = host.cores()
        for arm in self._arms.values():
            arm.pids = arm.target.pids()  # with what it started meanwhile
            notes[host.pin(arm.pids, cores[:1])] = None
            notes[host.pin(arm.load.pids(), cores[1:2])] = None
            notes.update(dict.fromkeys(arm.load.notes))
        self.notes = tuple(note for note in notes if note)

    def _load_spec(self, arm: ArmSpec, told: str, target: Target) -> LoadSpec:
        files = tuple(
            wire.WorkloadFile(
                each.name, arm.files.get(each.name, each.file), each.users, each.env, each.arrivals != "closed"
            )
            for each in self.plan.workloads
        )
        env = {
            **arm.env,
            **arm.load_env,
            "SYNAPSED_TARGET": told,
            "SYNAPSED_OPTIMIZATIONS": ",".join(arm.optimizations),
        }
        url = target.ready.get("url")
        # How any Locust file learns its host; empty where nobody knows it, as the one of the user's shell is another.
        env.setdefault("LOCUST_HOST", url if isinstance(url, str) else "")
        return LoadSpec(arm.name, files, env, arm.cwd, arm.interpreter, self.plan.cache_misses)

    def _warm(self, arm: _RunningArm, block: BlockSpec) -> None:
        """Once per arm and workload: its `warm_tasks`, then a stretch like those measured, at least `warm_seconds` when
        closed; nothing of it is recorded.
        """
        if block.workload in arm.warm:
            return
        self._progress(Step("warm-up", arm.name, block.workload))
        if block.arrivals is None:
            block = msgspec.structs.replace(block, planned=self.plan.warm_seconds)
        if tasks := self._workloads[block.workload].warm_tasks:
            self._warm_up(arm, block, tasks)
        self._open(arm, block)
        arm.warm.add(block.workload)

    def _warm_up(self, arm: _RunningArm, block: BlockSpec, tasks: int) -> None:
        """So many tasks; of an open workload at its rate, as all its users at once would leave another state behind:
        a pool full of connections to the few peers that all of them wanted.
        """
        if block.rate:
            arrivals = tuple(number / block.rate for number in range(tasks))
            self._open(arm, msgspec.structs.replace(block, arrivals=arrivals, planned=tasks / block.rate))
            return
        with self._blaming(arm):
            limit = self.plan.work_timeout
            arm.load.work(wire.Work(block.workload, tasks, 0.0, limit, arm.pids, thinking=False))

    def _open(self, arm: _RunningArm, block: BlockSpec, watch: Callable[[], None] | None = None) -> wire.SliceResult:
        workload = self._workloads[block.workload]
        if self._loops is not None:
            self._loops.run(workload.awake)
        order = wire.OpenSlice(
            workload=block.workload,
            planned=block.planned or workload.slice_seconds,
            quiet=workload.quiet_seconds,
            drain=self.plan.drain_timeout,
            targets=arm.pids,
            arrivals=block.arrivals,
        )
        with self._blaming(arm):
            if workload.tasks:
                limit = PATIENCE * order.planned
                exactly = wire.Work(workload.name, workload.tasks, order.quiet, limit, arm.pids)
                return arm.load.work(exactly, watch)
            return arm.load.slice(order, watch)

    def _slice(
        self, arm: _RunningArm, block: BlockSpec, position: int, keep: Callable[[Sample], None] | None = None
    ) -> Slice:
        arm.pids = arm.target.pids()  # a program that forks has others than at the start
        began = self._clock()

        def watch() -> None:
            if keep is not None:
                keep(self._sample(arm, block.workload, self._clock() - began))

        result = self._open(arm, block, watch if keep is not None else None)
        return Slice(
            burst=self.plan.number,
            block=block.number,
            position=position,
            workload=block.workload,
            arm=arm.name,
            kind=block.kind,
            began=began,
            planned=block.planned or self._workloads[block.workload].slice_seconds,
            seconds=result.seconds,
            # Counted where tasks begin, as well as where requests end: what got lost in between must not vanish, and
            # what was told twice was not started twice.
            started=max(result.ended - result.surplus, result.tasks, len(block.arrivals or ())),
            answered=result.answered,
            rejected=result.rejected,
            failed=result.failed,
            cancelled=result.cancelled,
            cpu_target=result.cpu_target,
            cpu_load=result.cpu_load,
            page_faults=result.page_faults,
            lag_max=result.lag_max,
            latencies=tuple(Latencies(each.name, each.service, each.lag) for each in result.samples),
            rate=block.rate,
            arrivals=len(block.arrivals or ()),
            tasks=result.tasks,
            unanswered=tuple(
                Unanswered(each.name, each.rejected, each.failed, each.seconds) for each in result.unanswered
            ),
            surplus=result.surplus,
            cache_misses=result.cache_misses,
            said=result.said,
        )

    def _sample(self, arm: _RunningArm, workload: str, at: float) -> Sample:
        """Both processes now; what the target publishes costs it a request, so it is asked only where it offers a
        page.
        """
        page = arm.target.ready.get("metrics")
        return Sample(
            burst=self.plan.number,
            arm=arm.name,
            workload=workload,
            at=at,
            target=memory(arm.target.pids()),
            load=memory(arm.load.pids()),
            gauges=published(page) if isinstance(page, str) else {},
        )

    @contextmanager
    def _blaming(self, arm: _RunningArm) -> Iterator[None]:
        """No row without a living target: a client may take its end for empty answers.

        When the load process fails because its target died, that is the error.
        """
        try:
            yield
            arm.target.check()
        except (LoadError, ProcessLookupError, PermissionError) as error:
            arm.target.check()
            if isinstance(error, LoadError):
                raise
            if not arm.load.alive():
                raise LoadError(f"load process {arm.name} (pid {arm.load.pid}) died") from error
            raise TargetError(f"target {arm.name}: {error}") from error


@contextmanager
def running(
    plan: BurstSpec, progress: Progress = lambda step: None, clock: Callable[[], float] = time.time
) -> Iterator[RunningBurst]:
    """Start a burst's processes and end every one of them on leaving, however that happens.

    `clock` dates the rows (Unix seconds). Use it on the main thread: load processes end with the thread
    that starts them.
    """
    with ExitStack() as ends:
        burst = RunningBurst(plan, progress, clock)
        burst.start(ends)
        yield burst
        progress(Step("ending processes"))


def _memory(target: Target) -> Memory:
    try:
        found = memory(target.pids())
        target.check()  # a dead one has none, which is not 0
        return found
    except (ProcessLookupError, PermissionError) as error:
        target.check()
        raise TargetError(f"target {target.name}: {error}") from error


def _told(ready: dict[str, Any], ends: ExitStack) -> str:
    """The ready line for a variable, or "@" and the file that holds it: the kernel takes no variable of 128 KiB."""
    text = msgspec.json.encode(ready).decode()
    if len(text) <= LONGEST_VARIABLE:
        return text
    path = Path(ends.enter_context(TemporaryDirectory(prefix="synapsed-bench-"))) / "target.json"
    path.write_text(text)
    return f"@{path}"


def _target_env(arm: ArmSpec) -> dict[str, str]:
    return {**arm.env, "SYNAPSED_OPTIMIZATIONS": ",".join(arm.optimizations)}
