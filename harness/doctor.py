"""Is this machine fit to measure on? What can be seen of it, and what equal arms say when they are measured here.

The second part is the honest one: two equal arms of the reference node go through the same engine as everything
else. Their pairs tell what this machine can prove in how many minutes, and how often the gate would cry wolf here.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
from msgspec.structs import replace

from harness import pipeline
from harness.execute import host
from harness.fitness import Equal, Finding, judge
from harness.gate import two_arms
from harness.measure.store import Store
from harness.study.records import OPTIMIZATIONS, Arm, Design, Target

LOAD_PER_CORE = 0.3
BUSY_SHARE = 0.2
"of one core, beyond which another process is in the way"
RESOLUTION = 1e-6
OVERSHOOT = 0.001
NAPS = 200
SPEED_SPREAD = 1.5
"more CPU time for the same work from one moment to the next, beyond which a pair of slices is mostly noise"
MIN_BURSTS = 6
"fewer give no interval"
ARMS = ("first", "second")


def machine(
    nap: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.thread_time,
) -> list[Finding]:
    """What can be seen from outside in about a second."""
    return [*_processor(), *_clock(), *_time(nap, clock, cpu_clock), *_others(nap)]


def _processor() -> Iterator[Finding]:
    cores = len(host.cores())
    yield Finding("cores", cores >= 2, f"{cores} usable", "target and load need a core each")
    load = os.getloadavg()[0]
    fine = load <= LOAD_PER_CORE * cores
    yield Finding(
        "load average", fine, f"{load:.2f} over the last minute", "end what else is running, then wait a minute"
    )
    steal = psutil.cpu_times().steal if hasattr(psutil.cpu_times(), "steal") else 0.0
    share = steal / max(1.0, sum(psutil.cpu_times()))
    yield Finding(
        "stolen time", share < 0.01, f"{share:.2%} of all CPU time since boot", "a neighbour on the host takes it"
    )
    governors = {
        path.read_text().strip() for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    }
    if governors:
        saw = f"governor {', '.join(sorted(governors))}"
        yield Finding("CPU frequency", governors <= {"performance"}, saw, "cpupower frequency-set -g performance")
    else:
        yield Finding("CPU frequency", True, "not visible here (virtual machine, or fixed)")


def _clock() -> Iterator[Finding]:
    resolution = time.get_clock_info("perf_counter").resolution
    source = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    name = source.read_text().strip() if source.is_file() else "not told"
    saw = f"source {name}, resolution {1e9 * resolution:.3g} ns"
    yield Finding("clock", resolution <= RESOLUTION, saw, "choose a finer clock source (tsc)")


def _time(
    nap: Callable[[float], None], clock: Callable[[], float], cpu_clock: Callable[[], float]
) -> Iterator[Finding]:
    """How late a sleep of 1 ms ends, which is what schedules open arrivals; and between the sleeps, how much the CPU
    time of the same work varies: what the other thread of a physical core costs, which in a virtual machine is
    somebody else's and shows as no stolen time.
    """
    late, taken = [], []
    for _ in range(NAPS):
        began = clock()
        nap(0.001)
        late.append(clock() - began - 0.001)
        _work()  # the core has just been woken, which costs too
        began = cpu_clock()
        _work()
        taken.append(cpu_clock() - began)
    middle, worst = np.percentile(late, (50.0, 99.0)).tolist()
    saw = f"sleeps of 1 ms end {1e6 * middle:.0f} us late, 1 in 100 by {1e3 * worst:.2g} ms or more"
    yield Finding("timer", middle <= OVERSHOOT, saw, "open arrivals start late here; closed workloads do not care")
    fast, slow = np.percentile(taken, (5.0, 95.0)).tolist()
    saw = f"the same work takes {slow / fast - 1.0:.0%} more CPU time in its slowest twentieth than in its fastest"
    remedy = "cores are shared or throttled: compare only what was measured in turns, and measure for longer"
    yield Finding("steady speed", slow <= fast * (1.0 + SPEED_SPREAD), saw, remedy)


def _work() -> None:
    """About a millisecond of it."""
    sum(number * number for number in range(15_000))


def _others(nap: Callable[[float], None], watched: float = 0.5) -> Iterator[Finding]:
    """Other processes that keep a core from the measurement."""
    own = os.getpid()
    before = _cpu_times(own)
    nap(watched)
    now = _cpu_times(own)
    busy = [(seconds - before[pid][1], name, pid) for pid, (name, seconds) in now.items() if pid in before]
    found = sorted((each for each in busy if each[0] > BUSY_SHARE * watched), reverse=True)
    told = [f"{name} (pid {pid}) {spent / watched:.0%}" for spent, name, pid in found[:4]]
    saw = ", ".join(told) or "none above a fifth of a core"
    yield Finding("other busy processes", not found, saw, "end them, or measure where nothing else runs")


def _cpu_times(but: int) -> dict[int, tuple[str, float]]:
    times = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        spent = process.info["cpu_times"]
        if spent is not None and process.pid != but:
            times[process.pid] = (process.info["name"] or "?", spent.user + spent.system)
    return times


def question(seconds: float, min_bursts: int = MIN_BURSTS) -> two_arms.Duel:
    """Two equal arms of the reference node, all optimizations on; their contrast is the A/A itself."""
    a, b = (Arm(name=name, optimizations=OPTIMIZATIONS, target=Target(peers=8)) for name in ARMS)
    asked = two_arms.duel("doctor", "equal arms on this machine", (a, b), two_arms.WORKLOADS, seconds, two_arms.POLICY)
    study = asked.study
    budget = replace(study.budget, min_bursts=min_bursts, stop_early=False)
    study = replace(study, budget=budget, design=Design(baseline=a.name, treatment=b.name, hidden=False))
    return two_arms.Duel(study, asked.judged, asked.policy)


def equal(seconds: float, display: pipeline.Display, min_bursts: int = MIN_BURSTS) -> Equal:
    """Measure equal arms for about `seconds`, but at least so many bursts; leaves nothing behind.

    Raises `TargetError` or `LoadError`.
    """
    asked = question(seconds, min_bursts)
    with tempfile.TemporaryDirectory(prefix="synapsed-doctor-") as folder, Store.create(Path(folder) / "run") as store:
        pipeline.run(asked.study, store, Path(folder), display)
        measured = store.measured()
        spent = store.get("spent", float)
    bursts = sum(each.complete for each in measured.bursts)
    return judge(two_arms.pairs(asked, measured, *asked.arms), spent / bursts, asked.policy)
