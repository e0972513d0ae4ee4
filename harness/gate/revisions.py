"""Revisions of this project side by side: a clean worktree each, and an environment from that revision's own lock.

Both are kept by what they depend on (commit; content of the lock and the Python it was made for), so a second gate
finds them ready; nothing removes them. Nothing in the user's own checkout is touched.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import StoreError, UsageError
from harness.execute import host

LOCK = "requirements.lock"
_DONE = ".complete"
_BUILD_SECONDS = 1800
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision, ready to run: its `tree` (a clean worktree) and the `python` of its environment."""

    name: str
    commit: str
    tree: Path
    python: str

    def __str__(self) -> str:
        return f"{self.name} ({self.commit[:10]})" if not self.commit.startswith(self.name) else self.commit[:10]


def prepare(root: Path, cache: Path, names: Sequence[str], tell: Tell, *, build: bool = True) -> tuple[Revision, ...]:
    """The named revisions of the repository at `root`, their worktrees and environments under `cache`.

    Without `build` all run in the environment of this process, which only fits when their locks equal that of
    `root`. `tell` hears what takes long. Raises `UsageError`, `StoreError`.
    """
    commits = [commit(root, name) for name in names]
    for one in commits:
        _check_lock(root, one, build=build)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{cache}: no folder for revisions can be made there: {error.strerror or error}") from error
    with _alone(cache):
        trees = [_worktree(root, cache.resolve() / one[:16], one) for one in commits]
        pythons = [_environment(cache.resolve(), tree, tell) if build else sys.executable for tree in trees]
    return tuple(map(Revision, names, commits, trees, pythons))


def commit(root: Path, name: str) -> str:
    """The commit that `name` means. Raises `UsageError`."""
    done = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if done.returncode:
        expected = "expected a branch, tag or commit (a shallow clone has few, and digits must be those of one only)"
        raise UsageError(f"{name!r} is no revision of {root}: {' '.join(done.stderr.split()) or expected}")
    return done.stdout.strip()


def dirty(root: Path) -> bool:
    """Whether tracked files differ from HEAD: what differs is not measured."""
    return bool(_git(root, "status", "--porcelain", "--untracked-files=no").stdout.strip())


def _worktree(root: Path, folder: Path, wanted: str) -> Path:
    """A worktree of that commit, made anew unless the one there is clean."""
    if (folder / ".git").exists():
        head = _git(folder, "rev-parse", "HEAD").stdout.strip()
        if head == wanted and not dirty(folder):
            return folder
    shutil.rmtree(folder, ignore_errors=True)
    _git(root, "worktree", "prune")
    # Git locks a worktree while it makes it; forced twice, it goes over the lock of a gate that was killed meanwhile.
    done = _git(root, "worktree", "add", "--quiet", "--detach", "--force", "--force", str(folder), wanted)
    if done.returncode:
        raise UsageError(f"no worktree of {wanted[:10]}: {' '.join(done.stderr.split())}")
    return folder


def _environment(cache: Path, tree: Path, tell: Tell) -> str:
    """The Python of a virtual environment with exactly what the tree's lock pins."""
    lock = tree / LOCK
    made_for = f"{platform.python_implementation()} {platform.python_version()} {platform.machine()}\n".encode()
    folder = cache / f"env-{hashlib.sha256(made_for + lock.read_bytes()).hexdigest()[:16]}"
    python = folder / "bin" / "python"
    if not ((folder / _DONE).exists() and _starts(python)):
        shutil.rmtree(folder, ignore_errors=True)
        tell(f"building the environment of {tree.name[:10]} from its {LOCK} (once, about a minute)")
        _build([sys.executable, "-m", "venv", str(folder)])
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _build([*pip, "--no-deps", "--require-hashes", "-r", str(lock)])
        (folder / _DONE).touch()
    return str(python)


def _starts(python: Path) -> bool:
    """Whether it does: the Python that its environment was made from may have moved since."""
    try:
        return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _check_lock(root: Path, wanted: str, *, build: bool) -> None:
    """Raise `UsageError` unless that commit has a lock; without `build`, unless it is that of `root`."""
    lock, ours = _git(root, "cat-file", "blob", f"{wanted}:{LOCK}"), root / LOCK
    if lock.returncode:
        raise UsageError(f"{wanted[:10]} has no {LOCK}; expected a revision that pins its environment")
    if not build and not (ours.is_file() and ours.read_text() == lock.stdout):
        raise UsageError(f"--no-build: the {LOCK} of {wanted[:10]} differs from that of {root}; leave --no-build out")


def _build(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"{' '.join(command[:4])} took longer than {_BUILD_SECONDS} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise UsageError(f"{' '.join(command[1:4])} failed: {said[-1]} (--no-build uses the environment at hand)")


def _git(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", "-C", str(where), *arguments],
            env=host.outside_hooks(), capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError as error:
        raise UsageError(f"git cannot be started: {error.strerror}") from error


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Hold `cache` against other gates; waits for them."""
    descriptor = os.open(cache, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
