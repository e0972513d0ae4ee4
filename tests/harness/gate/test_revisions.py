"""Worktrees and environments of revisions, in a repository of two commits made for the test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.errors import StoreError, UsageError
from harness.gate import revisions
from harness.gate.revisions import Revision, prepare


def git(where: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(where), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def a_commit(where: Path, **files: str) -> str:
    for name, text in files.items():
        (where / name.replace("_", ".")).write_text(text)
    git(where, "add", "-A")
    git(where, "commit", "-q", "--allow-empty", "-m", "next")
    return git(where, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits: code.txt says one, then two; both with the same lock."""
    where = tmp_path / "repository"
    where.mkdir()
    git(where, "init", "-q", "-b", "main")
    a_commit(where, code_txt="one", requirements_lock="a==1\n")
    a_commit(where, code_txt="two")
    return where


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The commands that would build environments; making a venv makes its folder and Python."""
    commands: list[Sequence[str]] = []

    def build(command: Sequence[str]) -> None:
        commands.append(command)
        if "venv" in command:
            (scripts := Path(command[-1]) / "bin").mkdir(parents=True)
            (scripts / "python").symlink_to(sys.executable)

    monkeypatch.setattr(revisions, "_build", build)
    return commands


def ready(root: Path, *names: str, build: bool = False) -> tuple[Revision, ...]:
    return prepare(root, root.parent / "cache", names, lambda text: None, build=build)


def nothing_made(root: Path) -> bool:
    """No worktree but the user's own, and no folder for any."""
    return len(git(root, "worktree", "list").splitlines()) == 1 and not (root.parent / "cache").exists()


def test_each_revision_gets_a_clean_tree_and_the_checkout_is_left_alone(repository: Path) -> None:
    (repository / "code.txt").write_text("uncommitted")
    base, head = ready(repository, "HEAD~1", "main")
    assert [(each.tree / "code.txt").read_text() for each in (base, head)] == ["one", "two"]
    assert (repository / "code.txt").read_text() == "uncommitted"
    assert revisions.dirty(repository)
    assert head.commit == git(repository, "rev-parse", "HEAD")
    assert str(base) == f"HEAD~1 ({base.commit[:10]})"
    assert str(ready(repository, head.commit[:8])[0]) == head.commit[:10]
    assert base.python == head.python == sys.executable


def test_a_tree_is_kept_while_it_is_clean(repository: Path) -> None:
    (first,) = ready(repository, "HEAD")
    (first.tree / "kept.pyc").write_text("untracked files of an earlier gate stay")
    (again,) = ready(repository, "main")
    assert again.tree == first.tree
    assert (again.tree / "kept.pyc").exists()
    (first.tree / "code.txt").write_text("tampered")
    (clean,) = ready(repository, "HEAD")
    assert (clean.tree / "code.txt").read_text() == "two"
    git(first.tree, "checkout", "-q", "--detach", "HEAD~1")
    (right,) = ready(repository, "HEAD")
    assert (right.tree / "code.txt").read_text() == "two"


def test_a_hook_that_asks_keeps_its_index(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git tells its hooks which index is being committed: a tree checked out into it emptied the commit."""
    (repository / "code.txt").write_text("three")
    git(repository, "add", "-A")
    with monkeypatch.context() as hook:
        hook.setenv("GIT_INDEX_FILE", str(repository / ".git" / "index"))
        (one,) = ready(repository, "HEAD~1")
    assert (one.tree / "code.txt").read_text() == "one"
    assert git(repository, "show", ":code.txt") == "three"


def test_the_repository_of_a_hook_is_not_the_one_that_is_asked(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q", "other")
    with monkeypatch.context() as hook:
        hook.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
        (head,) = ready(repository, "HEAD")
    assert (head.tree / "code.txt").read_text() == "two"


def test_a_deleted_cache_is_made_anew(repository: Path) -> None:
    (first,) = ready(repository, "HEAD")
    subprocess.run(["rm", "-rf", str(first.tree.parent)], check=True)
    (again,) = ready(repository, "HEAD")
    assert (again.tree / "code.txt").read_text() == "two"


def test_a_tree_that_a_killed_gate_was_making_is_made_anew(repository: Path) -> None:
    (first,) = ready(repository, "HEAD")
    (repository / ".git" / "worktrees" / first.tree.name / "locked").write_text("initializing")
    (first.tree / "code.txt").unlink()
    (again,) = ready(repository, "HEAD")
    assert (again.tree / "code.txt").read_text() == "two"


def test_one_environment_per_lock(repository: Path, built: list[Sequence[str]]) -> None:
    a_commit(repository, requirements_lock="a==2\n")
    told: list[str] = []
    found = prepare(repository, repository.parent / "cache", ("HEAD~2", "HEAD~1", "HEAD"), told.append)
    assert found[0].python == found[1].python != found[2].python
    assert len(built) == 4  # a venv and its packages, twice
    assert len(told) == 2
    assert str(found[0].tree / "requirements.lock") in built[1]
    assert "--require-hashes" in built[1]
    ready(repository, "HEAD", "HEAD~1", build=True)
    assert len(built) == 4


def test_an_unfinished_environment_is_built_again(
    repository: Path, built: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(command: Sequence[str]) -> None:
        if "install" in command:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(revisions, "_build", killed)
        with pytest.raises(KeyboardInterrupt):
            ready(repository, "HEAD", build=True)
    ready(repository, "HEAD", build=True)
    assert len(built) == 2


@pytest.mark.parametrize("found", ["no-such-python", "/bin/false"])
def test_an_environment_whose_python_has_moved_is_built_again(
    repository: Path, built: list[Sequence[str]], found: str
) -> None:
    (first,) = ready(repository, "HEAD", build=True)
    Path(first.python).unlink()
    Path(first.python).symlink_to(found)
    (again,) = ready(repository, "HEAD", build=True)
    assert again.python == first.python
    assert len(built) == 4
    assert ready(repository, "HEAD", build=True) == (again,)
    assert len(built) == 4


def test_no_build_needs_equal_locks(repository: Path) -> None:
    (repository / "requirements.lock").write_text("a==3\n")
    with pytest.raises(UsageError, match=r"--no-build: the requirements.lock of .* differs"):
        ready(repository, "HEAD")
    (repository / "requirements.lock").unlink()
    with pytest.raises(UsageError, match=r"--no-build: the requirements.lock of .* differs"):
        ready(repository, "HEAD")
    assert nothing_made(repository)


def test_a_revision_without_a_lock(repository: Path) -> None:
    git(repository, "rm", "-q", "requirements.lock")
    a_commit(repository)
    with pytest.raises(UsageError, match=r"has no requirements\.lock"):
        ready(repository, "HEAD~1", "HEAD", build=True)
    assert nothing_made(repository)


@pytest.mark.parametrize("name", ["nowhere", "--help", "HEAD:code.txt"])
def test_an_unknown_revision_is_a_usage_error(repository: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"is no revision of .*few, and digits must be those of one"):
        ready(repository, "HEAD", name)
    assert nothing_made(repository)


def test_a_cache_that_cannot_be_made_is_one_line(repository: Path) -> None:
    taken = repository / "code.txt"
    with pytest.raises(StoreError, match=r"code.txt/.gate: no folder for revisions can be made there: Not a directory"):
        prepare(repository, taken / ".gate", ["HEAD"], print)


def test_outside_a_repository(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a git repository"):
        ready(tmp_path, "HEAD")


def test_a_failed_build_says_why_in_one_line() -> None:
    script = "import sys; print('noise\\nno matching distribution', file=sys.stderr); sys.exit(1)"
    with pytest.raises(UsageError, match=r"failed: no matching distribution \(--no-build"):
        revisions._build([sys.executable, "-c", script])
