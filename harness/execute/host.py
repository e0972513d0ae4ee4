"""The machine: where processes run, and what it is for the report."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from harness.execute.counters import LINUX
from harness.measure.records import Environment

PACKAGES = (
    "synapsed-bench", "locust", "gevent", "greenlet", "pyperf", "cryptography", "uvloop", "numpy", "scipy",
    "pandas", "statsmodels", "msgspec", "psutil",
)  # fmt: skip
VARIABLES = (
    "PYTHONPATH", "PYTHONHOME", "PYTHONMALLOC", "PYTHONOPTIMIZE", "PYTHONDEVMODE", "PYTHONTRACEMALLOC",
    "PYTHONASYNCIODEBUG", "PYTHON_GIL", "PYTHON_JIT", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "LD_LIBRARY_PATH",
    "LD_BIND_NOW", "OPENSSL_CONF", "OPENSSL_ia32cap", "GEVENT_",
    "BULK_MIX", "BULK_SIZE", "CHURN_SHARE", "CONTENTION_RECORDINGS", "DISTANT_REUSE", "DISTANT_RTT", "FLOOD_SECONDS",
    "MESH_CLIENTS", "OUTAGE_BEGINS", "OUTAGE_GRACE", "OUTAGE_LASTS", "OUTAGE_SPREAD", "OUTAGE_STRUCK",
    "RAMP_SECONDS", "RAMP_USERS", "SPIKE_SECONDS", "SPIKE_USERS", "STAIRS_SECONDS", "STAIRS_STEPS", "STAIRS_USERS",
    "STEADY_PACE",
)  # fmt: skip
"""Beginnings of the names of environment variables that change how interpreter, allocator and libraries run, and what
our Locust files do. Reports show their values, so no beginning is here that a user may give to a secret, as LOCUST_ is.
"""
HOOK_VARIABLES = ("GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"by which git tells a hook about the repository it runs in; they go before `git -C`"
ONE_CORE = "one core: target and load share it, so each disturbs the other"
NOT_PINNED = "this system cannot pin processes to cores"


def cores() -> tuple[int, ...]:
    """Cores this process may use; on systems without affinity, numbers from 0."""
    if LINUX:
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def pin(pids: Iterable[int], to: Sequence[int]) -> str:
    """Confine all threads of these processes to the cores `to`; returns a note when that is not possible,
    else ''.

    New threads and children inherit it. A process that ends meanwhile is no error: its owner will notice.
    """
    if not LINUX:
        return NOT_PINNED
    if len(cores()) < 2:
        return ONE_CORE
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread), to)
        except PermissionError:
            return f"process {pid} is another user's and was not pinned to a core"
        except (FileNotFoundError, ProcessLookupError):
            continue
    return ""


@dataclass(frozen=True, slots=True)
class CpuTime:
    """CPU seconds until now, but for interrupts: of all processes, of ours and those of its children that have ended,
    and what the host took; `at` is on the monotonic clock.
    """

    at: float
    everybody: float
    ours: float
    stolen: float


def cpu_time() -> CpuTime:
    """How much CPU has been used; the kernel counts in ticks of 10 ms."""
    of_all, own = psutil.cpu_times(), os.times()
    everybody = of_all.user + of_all.system + getattr(of_all, "nice", 0.0)
    ours = own.user + own.system + own.children_user + own.children_system
    return CpuTime(time.monotonic(), everybody, ours, getattr(of_all, "steal", 0.0))


def beside(since: CpuTime, now: CpuTime) -> tuple[float, float]:
    """Cores that others kept busy, and that the host took, between two readings at which no child of ours was alive."""
    seconds = max(1e-9, now.at - since.at)
    others = (now.everybody - since.everybody) - (now.ours - since.ours)
    return max(0.0, others) / seconds, max(0.0, now.stolen - since.stolen) / seconds


def environment(source: Path | None = None) -> Environment:
    """What a run is measured on. `source` is the directory whose git revision counts (default: the current
    one).
    """
    revision, dirty = _revision(source or Path.cwd())
    return Environment(
        machine=platform.node(),
        cpu=_cpu_model(),
        cores=len(cores()),
        memory_bytes=psutil.virtual_memory().total,
        kernel=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages=dict(_versions()),
        revision=revision,
        dirty=dirty,
        variables=dict(sorted(_variables(os.environ.items()))),
    )


def _versions() -> Iterable[tuple[str, str]]:
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            yield package, version(package)


def _variables(of: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    return ((name, value) for name, value in of if value and name.startswith(VARIABLES))


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _revision(source: Path) -> tuple[str, bool]:
    """Commit and whether tracked files differ from it; ('', False) outside a repository or without git."""
    try:
        head = _git(source, "rev-parse", "HEAD")
        return head, bool(_git(source, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return "", False


def _git(source: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "--no-optional-locks", "-C", str(source), *arguments],
        env=outside_hooks(),
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout.strip()


def outside_hooks() -> dict[str, str]:
    """Our environment for a git that is to act on the repository of its folder, even when a hook started us."""
    return {name: value for name, value in os.environ.items() if name not in HOOK_VARIABLES}
