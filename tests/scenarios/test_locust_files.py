"""Each Locust file under plain `locust --headless`, with a reference node of its own."""

from __future__ import annotations

import json
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.study.file import ROOT
from reference_impl.optimizations import OPTIMIZATIONS
from tests.processes import Ended, command, run, wait_for

FILES = ("surge", "steady", "dial")
SWITCHES = {
    "all on": ("all", ",".join(OPTIMIZATIONS)),
    "all off": ("none", "none"),
    "first-day reuse": ("first-day-reuse", "first-day-reuse"),
}
REQUESTS = {"surge": {"request"}, "steady": {"request"}, "dial": {"connect", "first request"}}
AT_ONCE = 3
pytestmark = pytest.mark.timeout(300)  # the first test waits for the runs of all


def locust(file: str, *arguments: str) -> tuple[str, ...]:
    path = ROOT / "scenarios" / "load" / f"{file}.py"
    return (sys.executable, "-m", "locust", "-f", str(path), "--headless", "-u", "4", "-r", "4", *arguments)


class Outcome(NamedTuple):
    """How Locust ended, and its statistics by request name."""

    ended: Ended
    statistics: dict[str, dict[str, Any]]


def _statistics(path: Path) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in json.loads(path.read_text())}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Outcome]:
    """Every file with every set of switches, a few at a time. `ended` has seen that no process stayed."""

    def one(combination: tuple[str, str]) -> Outcome:
        file, switches = combination
        cwd = tmp_path_factory.mktemp("locust")
        env = {"SYNAPSED_OPTIMIZATIONS": SWITCHES[switches][0]}
        ended = run(*locust(file, "-t", "2s", "--json-file", "statistics"), cwd=cwd, env=env)
        return Outcome(ended, _statistics(cwd / "statistics.json"))

    combinations = list(product(FILES, SWITCHES))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(combinations, pool.map(one, combinations), strict=True))


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("file", FILES)
def test_a_file_runs_by_itself(outcomes: dict[tuple[str, str], Outcome], file: str, switches: str) -> None:
    ended, statistics = outcomes[file, switches]
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    assert set(statistics) == REQUESTS[file]
    for entry in statistics.values():
        assert entry["num_requests"] > 0
        assert entry["num_failures"] == 0
    assert re.search(rf"started a reference node \(pid \d+\) with .*: {SWITCHES[switches][1]}\n", ended.err)
    (rate,) = re.findall(r"pool hit rate ([\d.]+)% \([\d,]+ connections reused, [\d,]+ made anew\)", ended.err)
    assert (float(rate) == 0) == (switches == "all off")


@pytest.mark.parametrize(
    ("file", "switch", "request_name"), [("outage", "circuit-breaker", "struck"), ("flood", "rate-limit", "abuse")]
)
def test_what_fails_on_purpose_shows_its_switch_by_itself(
    tmp_path: Path, file: str, switch: str, request_name: str
) -> None:
    """With the default limits nothing would fail, and each failure would be a row of its own."""
    refused = []
    for on in ("true", "false"):
        wanted = ("-t", "2s", "--json-file", on, f"--{switch}", on)
        ended = run(*locust(file, *wanted), cwd=tmp_path, env={"OUTAGE_BEGINS": "0.2", "OUTAGE_LASTS": "1.2"})
        assert "settings of this workload" in ended.err
        refused.append(_statistics(tmp_path / f"{on}.json")[request_name]["num_failures"])
        assert sum(f" {request_name}: " in line for line in (ended.out + ended.err).splitlines()) <= 3
    assert refused[0] > 5 + 2 * refused[1]


def test_one_switch_is_one_option_at_both_ends(tmp_path: Path) -> None:
    ended = run(*locust("steady", "-t", "1s", "--pooling", "false", "--metrics", "off"), cwd=tmp_path)
    assert ended.code == 0
    assert "optimizations on: cleanup,rate_limit,circuit_breaker,buffer_pool\n" in ended.err
    assert "pool hit rate 0.0%" in ended.err


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (("--pooling", "maybe"), {}, r"argument --pooling: 'maybe'; expected true or false"),
        ((), {"SYNAPSED_OPTIMIZATIONS": "poling"}, r"SYNAPSED_OPTIMIZATIONS: unknown optimization 'poling'; expected"),
        (("--pooling", "true"), {"SYNAPSED_OPTIMIZATIONS": "first-day-reuse"}, r"cannot start: first-day-reuse stands"),
        ((), {"SYNAPSED_SETTINGS": '{"pooling": {"max_idle_time": -1}}'}, r"cannot start: .*max_idle_time is -1; exp"),
        ((), {"SYNAPSED_SETTINGS": '{"node": {"backlog": 0}}'}, r"cannot start: target node ended .*backlog is 0; exp"),
    ],
)
def test_what_cannot_start_is_one_clear_line(
    tmp_path: Path, arguments: tuple[str, ...], env: dict[str, str], said: str
) -> None:
    ended = run(*locust("surge", "-t", "60s", *arguments), cwd=tmp_path, env=env)
    assert ended.code == 2
    assert "Traceback" not in ended.err
    told = [line for line in ended.err.splitlines() if "error:" in line or "cannot start" in line]
    assert len(told) == 1
    assert re.search(said, told[0])


def test_ctrl_c_ends_users_before_their_node(tmp_path: Path) -> None:
    with command(*locust("surge", "--json-file", "statistics"), cwd=tmp_path) as started:
        wait_for(lambda: re.search(r"^peer +request +[1-9]", started.said(), re.MULTILINE) is not None, started.said)
        started.process.send_signal(signal.SIGINT)
        ended = started.ended()
    assert ended.code == 0
    assert "pool hit rate " in ended.err
    assert _statistics(tmp_path / "statistics.json")["request"]["num_failures"] == 0


@pytest.mark.parametrize(("file", "links"), [("steady", 0), ("outage", 1)])
def test_a_killed_locust_takes_its_node_and_its_link_along(tmp_path: Path, file: str, links: int) -> None:
    with command(*locust(file), cwd=tmp_path) as started:
        wait_for(lambda: "All users spawned" in started.said(), started.said)
        assert len(started.descendants("-m reference_impl")) == 1
        assert len(started.descendants("-m scenarios.load.link")) == links
        started.process.send_signal(signal.SIGKILL)
        assert started.ended().code == -signal.SIGKILL  # and nothing is left
