"""What makes a measurement worthless, done on purpose: INVALID with its reason, exit code 4, and nothing green."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Ended, bench, run

STUDY = """
name = "void"
title = "Worthless on purpose"
seed = 7
confidence = 0.5

[target]
peers = 8

[design]
hidden = false
treatment = "{treatment}"

[budget]
seconds = 1
blocks = 1
min_bursts = 3
max_bursts = 3
memory_requests = 8
{arm}
[[workload]]
name = "load"
file = "scenarios/load/{file}.py"
users = 2
slice_seconds = 0.15
{arrivals}
[[expectation]]
name = "it pays"
claim = "more of it"
workload = "load"
metric = "{metric}"
arm = "{treatment}"
{bound}
"""
BROKEN = """
[target.settings]
circuit_breaker = {{ retries = 0 }}
[[arm]]
name = "broken"
[arm.target]
peers = 8
[arm.target.settings]
faults = {{ rules = [{{ kind = "reset", share = 1.0 }}] }}
circuit_breaker = {{ retries = 0 }}
"""
WRONG = """
from locust import User, task
class Wrong(User):
    @task
    def ask(self):
        int("what it answered")
"""
pytestmark = pytest.mark.timeout(300)


def measured(cwd: Path, **fields: str) -> tuple[Ended, dict[str, Any], str]:
    """How the run ended, its summary, its page."""
    defaults = {"treatment": "all", "arm": "", "file": "surge", "arrivals": "", "metric": "throughput"}
    bound = {"bound": "at_least = 1.0"}
    (cwd / "void.toml").write_text(STUDY.format(**{**defaults, **bound, **fields}))
    ended = run(*bench("run", "void.toml", "--strict"), cwd=cwd)
    assert ended.code == 4, ended
    (folder,) = (path for path in (cwd / "runs").iterdir() if not path.is_symlink())
    return ended, json.loads((folder / "summary.json").read_bytes()), (folder / "report.html").read_text()


def nothing_is_green(ended: Ended, summary: dict[str, Any], page: str) -> bool:
    outcomes = {each["outcome"] for each in summary["verdicts"]}
    return (
        not summary["valid"]
        and outcomes == {"INCONCLUSIVE"}
        and "INVALID" in ended.out
        and summary["answer"].startswith("INVALID")
        and 'class="verdict met"' not in page
    )


def failed(summary: dict[str, Any]) -> str:
    return "; ".join(f"{each['name']}: {each['saw']}" for each in summary["checks"] if each["status"] == "invalid")


def test_a_generator_that_cannot_keep_its_schedule(tmp_path: Path) -> None:
    """Twenty thousand dials a second are more than any machine makes."""
    ended, summary, page = measured(
        tmp_path,
        file="steady",
        arrivals='arrivals = "constant"\nrate = 20_000',
        metric="latency_p50",
        bound="at_most = 1.0",
    )
    assert nothing_is_green(ended, summary, page)
    assert "schedule lag" in failed(summary)


def test_an_arm_that_fails_every_request(tmp_path: Path) -> None:
    ended, summary, page = measured(tmp_path, treatment="broken", arm=BROKEN.format())
    assert nothing_is_green(ended, summary, page)
    assert "errors: " in failed(summary)
    assert "broken" in ended.out


def test_a_workload_without_any_answer_is_not_measured_to_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "scenarios" / "load"
    folder.mkdir(parents=True)
    (folder / "wrong.py").write_text(WRONG)
    ended, summary, page = measured(tmp_path, file="wrong")
    assert nothing_is_green(ended, summary, page)
    assert "burst 1 done, the last" in ended.out
    assert (summary["bursts"], summary["interrupted"]) == (1, 0)
    assert summary["answer"].startswith("INVALID, so nothing is claimed: successes: 0 answered of ")
    said = "ValueError: invalid literal for int() with base 10: 'what it answered' at "
    assert f" started requests ({said}{folder / 'wrong.py'}:6)" in failed(summary)
