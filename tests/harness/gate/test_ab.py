"""Two programs without a study file: what the command line may say, and a real server that is slower than itself."""

from __future__ import annotations

import datetime
import io
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from harness import pipeline
from harness.cli.app import app
from harness.errors import TargetError, UsageError
from harness.execute.launch import arm_spec
from harness.execute.ports import free_ports, placed
from harness.execute.target import Target
from harness.gate.ab import Ask, duel, run, target
from harness.gate.rules import MAX_PAIRS, Margins, Policy
from harness.gate.runner import Setting
from harness.gate.two_arms import refuse_too_short
from harness.study.records import Target as Program
from tests.ports import held

pytestmark = pytest.mark.timeout(300)  # real bursts, more of them on a noisy machine
SHORT = Policy(alpha_fail=0.1, min_bursts=1, max_bursts=4, margins=Margins(fail=0.2, passing=0.5))
"one burst, or more where one pair was struck by a test beside, which must not make equal arms look different"
SERVER = """
import asyncio, json, sys, time
async def serve(reader, writer):
    while await reader.readline():
        while (await reader.readline()).strip():
            pass
        until = time.perf_counter() + float(sys.argv[2])
        while time.perf_counter() < until:
            pass
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"url": f"http://127.0.0.1:{port}"}), flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
LOCUST = """
from locust import FastHttpUser, task
class Visitor(FastHttpUser):
    @task
    def one(self):
        self.client.get("/one")
    @task
    def other(self):
        self.client.get("/other")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A Locust file with two request names, and the server beside it."""
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "visit.py").write_text(LOCUST)
    return tmp_path / "visit.py"


@pytest.fixture
def _kept_ports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No {port} is given back before the test ends: one went to a test beside, which then seemed to be the program."""
    with ExitStack() as ports:
        kept = lambda number: tuple(ports.enter_context(held()) for _ in range(number))  # noqa: E731
        monkeypatch.setattr(pipeline, "free_ports", kept)
        yield


def setting(folder: Path) -> Setting:
    console, now = Console(file=io.StringIO(), width=100), datetime.datetime.now(datetime.UTC)
    return Setting(folder, folder / "runs", "again", "a", "b", console, now)


@pytest.mark.usefixtures("_kept_ports")
@pytest.mark.parametrize(("port", "ready"), [("{port}", ""), ("{port}", "url:/"), ("0", "")])
def test_a_slower_program_fails_with_its_size(file: Path, port: str, ready: str) -> None:
    ask = Ask(file, f"python server.py {port} 0", f"python server.py {port} 0.002", ready=ready, users=4)
    here = setting(file.parent)
    assert run(ask, here, SHORT) == 1
    told = " ".join(here.console.file.getvalue().split())  # type: ignore[attr-defined]
    assert re.search(r"FAIL: b against a: (median latency|throughput|CPU per request) \d[\d.,]* % worse", told), told


def test_a_load_that_goes_elsewhere_compares_nothing(file: Path) -> None:
    """To the address in a Locust file, where something else listens."""
    here, server = setting(file.parent), "python server.py {port} 0"
    with Target.start((sys.executable, "server.py", "0", "0"), {}, str(file.parent)) as other:
        file.write_text(LOCUST.replace("/one", f"{other.ready['url']}/one").replace("/other", f"{other.ready['url']}/"))
        assert run(Ask(file, server, server, users=4), here, SHORT) == 4
    told = " ".join(here.console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "INVALID: target reached: the program used " in told
    assert "so the load went elsewhere" in told


def test_an_open_rate_and_one_request(file: Path) -> None:
    asked = duel(Ask(file, "x", "y", rate=50.0, request="/one", seconds=250.0, max_error_ratio=0.5))
    (workload,) = asked.study.workloads
    assert (workload.arrivals, workload.rate, workload.request, workload.max_error_ratio) == (
        "poisson",
        50.0,
        "/one",
        0.5,
    )
    assert asked.study.budget.seconds == 250.0
    assert [each.label for each in asked.judged] == ["latency_p50", "cpu_per_request"]
    assert asked.study.title == "y against x"
    assert workload.slice_seconds == 0.6  # 30 arrivals
    assert asked.study.budget.blocks == MAX_PAIRS  # the pairs of a burst share a layout: the margins allow for so many


def test_a_rate_too_low_or_too_high_for_slices_is_refused(file: Path) -> None:
    for rate, shown in ((5.0, "5"), (1e12, r"1e\+12")):
        with pytest.raises(UsageError, match=rf"--rate {shown}; expected 0, or from 10 to 100,000,000 arrivals a sec"):
            duel(Ask(file, "x", "y", rate=rate))


def test_a_time_too_short_for_any_word_is_refused_before_anything_is_started(file: Path) -> None:
    for rate, least in ((0.0, 111), (300.0, 111), (50.0, 291)):
        with pytest.raises(UsageError, match=rf"{least - 1} s to measure; expected at least {least} s"):
            run(Ask(file, "no-such-program", "y", rate=rate, seconds=least - 1.0), setting(file.parent))
        refuse_too_short(duel(Ask(file, "x", "y", rate=rate, seconds=least)))
    assert not (file.parent / "runs").exists()
    options = {each.name: each for each in typer.main.get_command(app).commands["ab"].params}  # type: ignore[attr-defined]
    assert "111 or more, at a --rate below 300 longer" in options["seconds"].help
    assert "by default port where the command has {port}, else line" in options["ready"].help


@pytest.mark.usefixtures("_kept_ports")
def test_a_program_that_ends_at_once_leaves_no_run(file: Path) -> None:
    ask = Ask(file, "python server.py {port} 0", "python -c 'raise SystemExit(\"no such option\")' {port}")
    with pytest.raises(TargetError, match=r"target b ended before it was ready.*no such option"):
        run(ask, setting(file.parent), SHORT)
    assert not list((file.parent / "runs").glob("2*"))


@pytest.mark.usefixtures("_kept_ports")
def test_a_port_that_the_twin_took_is_told_as_such(file: Path) -> None:
    with held() as number, pytest.raises(TargetError) as caught:
        run(Ask(file, f"python server.py {number} 0", "python server.py {port} 0"), setting(file.parent), SHORT)
    told = str(caught.value)
    assert re.match(r"target a(-again)? ended before it was ready: .*in use; a, b and a-again \(a twin of a, ", told)
    assert told.endswith("run at the same time: port taken by the twin? use {port} in its place")


def test_a_program_that_is_not_there_is_not_said_to_lack_a_port(file: Path) -> None:
    with pytest.raises(TargetError, match=r"cannot start no-such-program: No such file or directory$"):
        run(Ask(file, "no-such-program", "no-such-program"), setting(file.parent), SHORT)


@pytest.mark.parametrize(
    ("command", "ready", "words", "shown"),
    [
        ("serve --port {port}", "", ("serve", "--port", "{port}"), "port:127.0.0.1:{port}"),
        ("serve 'a b' $HOME", "", ("serve", "a b", "$HOME"), "line"),
        ("serve {port}", "port:localhost:{port}", ("serve", "{port}"), "port:localhost:{port}"),
        ("serve {port}", "url:/health", ("serve", "{port}"), "url:http://127.0.0.1:{port}/health"),
        ("serve {port}", "url:http://h:{port}/x", ("serve", "{port}"), "url:http://h:{port}/x"),
        ("serve {port}", "pattern:^up$", ("serve", "{port}"), "pattern:^up$"),
    ],
)
def test_a_command_is_split_and_never_given_to_a_shell(
    command: str, ready: str, words: tuple[str, ...], shown: str
) -> None:
    found = target(command, ready, "--a")
    assert (found.command, found.ready) == (words, shown)


@pytest.mark.parametrize(
    ("command", "ready", "told"),
    [
        ("", "", "--a is empty"),
        ("serve 'x", "", "no closing quotation"),
        ("serve", "port", "needs {port} in the command"),
        ("serve", "soon", "expected line, port"),
        ("serve", "port:localhost:80", "a, b and a twin of a run at the same time; expected {port} in it"),
        ("serve {port}", "url:http://h:1/x", "a, b and a twin of a run at the same time; expected {port} in it"),
        ("serve", "url:", "expected line, port"),
        ("serve", "pattern:(", "expected line, port, port:HOST:PORT, url:URL, url:/PATH or pattern:REGEX"),
        ("serve {port}", "port:a..b:{port}", "expected line, port, port:HOST:PORT"),
        ("serve {port}", "url:http://[::1:{port}", "expected line, port, port:HOST:PORT"),
    ],
)
def test_a_command_that_cannot_be_run(command: str, ready: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        target(command, ready, "--a")
    assert told in str(caught.value)


def test_a_start_gets_its_port_and_locust_learns_it(file: Path) -> None:
    asked = duel(Ask(file, "serve {port}", "serve --quiet {port}"))
    for arm, port in zip(asked.study.arms, (4711, 4712), strict=True):
        plan = arm_spec(asked.study, arm, file.parent, port)
        assert plan.command[-1] == str(port)
        assert plan.load_env["LOCUST_HOST"] == f"http://127.0.0.1:{port}"
        assert plan.readiness.value == f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("ready", "url"),
    [
        ("line", ""),
        ("port:h:8", "http://h:8"),
        ("port::8", "http://127.0.0.1:8"),
        ("url:https://h:9/up?x", "https://h:9"),
    ],
)
def test_the_load_goes_where_readiness_is_seen(ready: str, url: str) -> None:
    found = placed(Program(kind="command", command=("serve",), ready=ready), 7)
    assert found == (Program(kind="command", command=("serve",), ready=ready), url)


def test_a_port_in_the_environment_counts_too() -> None:
    (port,) = free_ports(1)
    found, url = placed(Program(kind="command", command=("serve",), env={"PORT": "{port}"}), port)
    assert (found.env["PORT"], url) == (str(port), f"http://127.0.0.1:{port}")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))


def test_the_command_line_asks_for_a_file_that_exists(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["ab", "-f", str(tmp_path / "none.py"), "--a", "x", "--b", "y"])
    assert isinstance(result.exception, UsageError)
    assert "there is no such Locust file" in str(result.exception)


def test_a_report_of_an_earlier_comparison_does_not_speak_for_one_that_failed(tmp_path: Path) -> None:
    old = tmp_path / "old.xml"
    old.write_text("PASS, yesterday")
    arguments = ["ab", "-f", str(tmp_path / "none.py"), "--a", "x", "--b", "y", "--junit", str(old)]
    assert isinstance(CliRunner().invoke(app, arguments).exception, UsageError)
    assert not old.exists()


@pytest.mark.parametrize("flag", ["--seconds", "--rate", "--errors"])
def test_no_option_takes_what_is_no_finite_number(file: Path, flag: str) -> None:
    for value in ("inf", "nan"):
        result = CliRunner().invoke(app, ["ab", "-f", str(file), "--a", "x", "--b", "y", flag, value])
        assert result.exit_code == 2 or isinstance(result.exception, UsageError), result.output
