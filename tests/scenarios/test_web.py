"""The web UI in a real browser: the switches in its form, the node behind its buttons, and who may use it."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from reference_impl.optimizations import OPTIMIZATIONS
from tests.ports import held
from tests.processes import PATIENCE, Command, bench, command, run, wait_for

CHROMIUM = shutil.which("chromium")
LABELS = ("Pooling", "Cleanup", "Rate Limit", "Circuit Breaker", "Buffer Pool", "Metrics")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
NODE = "reference_impl"
pytestmark = pytest.mark.timeout(300)  # the first test waits for Chromium and the web UI
expect.set_options(timeout=1000 * PATIENCE)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


class Web:
    """A running `synapsed-bench web` on a port of its own."""

    def __init__(self, started: Command, port: int) -> None:
        self.started = started
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as answer:
            return json.load(answer)

    def post(self, path: str, **form: object) -> Any:
        data = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(self.url + path, data=data, timeout=PATIENCE) as answer:
            return json.load(answer)

    def nodes(self) -> list[str]:
        """What the command line of each living node switches on."""
        lines = [process.cmdline() for process in self.started.descendants(NODE)]
        return [line[line.index("--on") + 1] for line in lines]

    def requests(self) -> tuple[int, int]:
        """Requests and failures of the running test."""
        total = self.get("/stats/requests")["stats"][-1]
        return total["num_requests"], total["num_failures"]

    def until(self, condition: Callable[[], bool]) -> None:
        wait_for(condition, self.started.said)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(cwd: Path, env: dict[str, str] | None = None) -> Iterator[Web]:
    with held() as port, command(*bench("web", "--port", str(port)), cwd=cwd, env=env) as started:
        wait_for(lambda: _accepts(port) or not started.alive(), started.said)
        yield Web(started, port)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("web")) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    found = browser.new_page(viewport={"width": 1280, "height": 1300})
    errors: list[str] = []
    found.on("pageerror", lambda error: errors.append(str(error)))
    yield found
    found.close()
    assert errors == []


def open_form(page: Page, web: Web) -> None:
    """The start form; after a first test it hides behind a button."""
    page.goto(web.url)
    start, new = (page.get_by_role("button", name=name, exact=True) for name in ("Start", "New"))
    expect(start.or_(new)).to_be_visible()
    if new.is_visible():
        new.click()
    expect(box(page, LABELS[-1])).to_be_visible()


def box(page: Page, label: str) -> Locator:
    return page.get_by_role("checkbox", name=re.compile(rf"^{label} \("))


def press(page: Page, button: str) -> None:
    page.get_by_role("button", name=button, exact=True).click()


@needs_browser
def test_the_form_shows_a_switch_per_optimization_in_words(web: Web, page: Page) -> None:
    open_form(page, web)
    shown = [label.inner_text() for label in page.locator("label:has(input[type=checkbox])").all()]
    assert [text.partition(" (")[0] for text in shown] == list(LABELS)
    assert all(len(text) > 40 for text in shown)
    for label in LABELS:
        expect(box(page, label)).to_be_checked()
    expect(page.get_by_text("Optimizations: what is switched on, at both ends")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@needs_browser
def test_the_form_asks_each_workload_s_question_and_picks_one(web: Web, page: Page) -> None:
    open_form(page, web)
    rows = {row.locator("td").nth(1).inner_text(): row for row in page.locator("tr:has(td input[type=checkbox])").all()}
    others = {"Bulk", "Contention", "Distant", "Churn", "Honest", "Outage", "Mesh", "Soak"}
    assert set(rows) == {f"{name}User" for name in {"Surge", "Steady", "Dial"} | others} | {"Abuser"}
    assert "How much can one node take?" in rows["SurgeUser"].inner_text()
    assert "How long does a request take when nothing is saturated?" in rows["SteadyUser"].inner_text()
    picked = [name for name, row in rows.items() if row.get_by_role("checkbox").is_checked()]
    assert picked == ["SurgeUser"]


@needs_browser
def test_start_runs_a_node_with_exactly_these_switches_and_stop_ends_it(web: Web, page: Page) -> None:
    def start(*off: str) -> int:
        open_form(page, web)
        for label in off:
            box(page, label).uncheck()
        page.get_by_label("Number of users").fill("2")
        press(page, "Start")
        expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
        web.until(lambda: web.requests()[0] > 0)
        (node,) = web.started.descendants(NODE)
        return node.pid

    def stop() -> None:
        press(page, "Stop")
        expect(page.get_by_role("button", name="New", exact=True)).to_be_visible()
        web.until(lambda: not web.nodes())
        assert web.get("/stats/requests")["state"] == "stopped"

    first = start("Pooling")
    assert web.nodes() == [",".join(OPTIMIZATIONS[1:])]
    expect(page.get_by_role("cell", name="request", exact=True)).to_be_visible()
    stop()
    assert web.requests()[1] == 0
    second = start("Cleanup", "Metrics")
    assert second != first
    assert web.nodes() == ["pooling,rate_limit,circuit_breaker,buffer_pool"]
    stop()
    rates = re.findall(r"pool hit rate ([\d.]+)%", web.started.said())[-2:]
    assert float(rates[0]) == 0 < float(rates[1])  # each start has a fresh dialer with its own switches


def test_a_workload_with_a_story_tells_it_anew_with_every_start(tmp_path: Path) -> None:
    """The dead peer of an outage has a link process of its own, which only that workload starts."""
    with serving(tmp_path) as web:

        def links(workload: str) -> list[int]:
            assert web.post("/swarm", user_count=2, spawn_rate=2, user_classes=workload)["success"]
            web.until(lambda: web.requests()[0] > 0)
            found = [process.pid for process in web.started.descendants("scenarios.load.link")]
            web.post("/stop")
            web.until(lambda: not web.started.descendants("reference_impl"))
            web.until(lambda: not web.started.descendants("scenarios.load.link"))
            return found

        (first,), (second,) = links("OutageUser"), links("OutageUser")
        assert first != second
        assert links("SoakUser") == []


@needs_browser
def test_a_running_test_takes_more_users_and_nothing_else(tmp_path: Path, page: Page) -> None:
    with serving(tmp_path) as web:

        def users() -> int:
            return int(web.get("/stats/requests")["user_count"])

        open_form(page, web)
        page.get_by_label("Number of users").fill("2")
        press(page, "Start")
        press(page, "Edit")
        expect(page.get_by_role("button", name="Update", exact=True)).to_be_visible()
        for label in LABELS:
            expect(box(page, label)).to_be_hidden()
        page.get_by_label("Number of users").fill("3")
        press(page, "Update")
        web.until(lambda: users() == 3)
        assert set(web.get("/tasks")["per_class"]) == {"SurgeUser"}
        for other, why in (
            ({"user_classes": "SteadyUser"}, "SurgeUser is running; stop it before another workload is started"),
            (
                {"pooling": "false"},
                "pooling: a running test keeps its optimizations; stop it, start it anew",
            ),
        ):
            answer = web.post("/swarm", user_count=2, spawn_rate=2, **other)
            assert (answer["success"], answer["message"]) == (False, why)
        assert users() == 3
        said = web.started.said()
    assert "Traceback" not in said


@needs_browser
def test_a_node_that_cannot_start_is_told_in_the_form(tmp_path: Path, page: Page) -> None:
    with serving(tmp_path, {"SYNAPSED_SETTINGS": '{"node": {"backlog": 0}}'}) as web:
        open_form(page, web)
        for _ in range(2):  # the second time it must not look like a running test either
            with page.expect_response("**/swarm"):
                press(page, "Start")
            expect(page.get_by_role("alert")).to_contain_text(re.compile("cannot start: target node .*backlog is 0"))
            expect(page.get_by_role("button", name="Start", exact=True)).to_be_enabled()
        assert web.get("/stats/requests")["state"] == "ready"
        assert web.nodes() == []
        said = web.started.said()
    assert said.count("cannot start: ") == 2
    assert "Traceback" not in said


STOPPING = """
import sys
import locust
from locust.env import Environment
from scenarios.load import surge, web_form
environment = Environment(user_classes=[surge.SurgeUser], events=locust.events)
runner = environment.create_local_runner()
web_ui = environment.create_web_ui("127.0.0.1", 0, delayed_start=True)
environment.events.init.fire(environment=environment, runner=runner, web_ui=web_ui)
runner.state = "cleanup"
print(web_ui.app.test_client().get("/stats/requests").get_json()["state"])
"""


def test_the_page_is_not_left_in_the_state_in_which_it_stops_asking(tmp_path: Path) -> None:
    ended = run(sys.executable, "-c", STOPPING, cwd=tmp_path)
    assert (ended.code, ended.out) == (0, "running\n"), ended.err


def test_a_test_survives_its_node_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    form = {"user_count": 2, "spawn_rate": 2, "user_classes": "SurgeUser", "pooling": "false"}
    with serving(tmp_path) as web:
        assert web.post("/swarm", **form)["success"]
        web.until(lambda: web.requests()[0] > 0)
        web.started.descendants(NODE)[0].kill()
        web.until(lambda: web.requests()[1] > 0)
        web.post("/stop")
        assert web.post("/swarm", **form)["success"]
        assert len(web.nodes()) == 1
        web.until(lambda: web.requests()[0] > 0)
        web.started.process.send_signal(signal.SIGINT)
        ended = web.started.ended()  # and nothing is left
    assert ended.code == 0
    assert "pool hit rate 0.0%" in ended.err


def _status(web: Web, headers: dict[str, str], method: str = "GET", path: str = "/") -> tuple[int, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", web.port)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.getheader("Access-Control-Allow-Origin")


def test_only_this_machine_can_reach_it(web: Web) -> None:
    pids = [web.started.process.pid]
    listening = {
        each.laddr.ip
        for pid in pids
        for each in psutil.Process(pid).net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:{port}"}, 200),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example:{port}"}, 403),
        ({"Host": "evil.example:{port}", "Origin": "http://evil.example:{port}"}, 403),
    ],
)
def test_other_web_sites_are_refused(web: Web, headers: dict[str, str], status: int) -> None:
    sent = {name: value.format(port=web.port) for name, value in headers.items()}
    assert _status(web, sent) == (status, None)
    if status == 403:
        assert _status(web, sent, "POST", "/swarm") == (403, None)
        assert web.nodes() == []


def test_the_web_ui_is_announced_when_it_comes_up(web: Web, tmp_path: Path) -> None:
    web.until(lambda: f"the web UI is at {web.url}  (Ctrl-C ends it)\n" in web.started.said())
    with held() as port:
        ended = run(*bench("web", "--port", str(port), "--bogus"), cwd=tmp_path)
    assert ended.code == 2
    assert "--bogus" in ended.err
    assert "the web UI is at" not in ended.err
