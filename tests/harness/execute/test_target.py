"""Targets: ready or one clear error, and never anything left running."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from harness.errors import TargetError
from harness.execute import process
from harness.execute.target import Readiness, Target
from tests.harness.execute.conftest import write
from tests.ports import held

SLEEP = "import time; time.sleep(60)"


def _python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-u", "-c", code)


def test_ready_line_is_kept_as_it_is_and_environment_reaches_the_target() -> None:
    code = "import os, json\nprint(json.dumps({'any': [1, {'x': None}], 'env': os.environ['WHO']}))\n" + SLEEP
    with Target.start(_python(code), {"WHO": "me"}) as target:
        assert target.ready == {"any": [1, {"x": None}], "env": "me"}
        assert target.alive()
        assert target.pids() == (target.pid,)
    assert not target.alive()
    assert target.pids() == ()
    assert not psutil.pid_exists(target.pid)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import sys; sys.exit('port 80 is taken')", "exit status 1; last lines: port 80 is taken"),
        ("print('hello')\n" + SLEEP, "first line of output is not the contract's JSON object .*: hello"),
        ("print('[1]')\n" + SLEEP, "not the contract's JSON object"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("import sys; print('thinking', file=sys.stderr)\n" + SLEEP, "was not ready within 1 s .*thinking"),
    ],
)
def test_a_target_that_does_not_become_ready_is_one_clear_error(code: str, expected: str) -> None:
    with pytest.raises(TargetError, match=expected):
        Target.start(_python(code), {}, ready_timeout=1 if "thinking" in code else 20)


def test_a_missing_program_is_named() -> None:
    with pytest.raises(TargetError, match=r"cannot start \./no-such-program: No such file"):
        Target.start(("./no-such-program",), {})


def test_a_target_that_dies_later_says_so() -> None:
    target = Target.start(_python("import sys\nprint('boom', file=sys.stderr)\nprint('{}')\n" + SLEEP), {})
    try:
        target.check()
        os.kill(target.pid, signal.SIGKILL)
        assert target._child.wait(10)
        with pytest.raises(TargetError, match=r"died: killed by SIGKILL; last lines: boom"):
            target.check()
    finally:
        target.stop()


def test_stop_ends_a_target_that_ignores_sigterm_and_its_grandchildren(tmp_path: Path) -> None:
    child = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    code = (
        "import json, signal, subprocess, sys, time\nsignal.signal(15, signal.SIG_IGN)\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=-1)\np.stdout.readline()\n"
        "print(json.dumps({'child': p.pid}), flush=True)\ntime.sleep(60)"
    )
    target = Target.start(_python(code), {}, ready_timeout=20)
    grandchild = psutil.Process(target.ready["child"])
    assert target.pids() == (target.pid, grandchild.pid)
    target.stop(grace=0.05)
    assert not psutil.pid_exists(target.pid)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


APART = (
    "import json, subprocess, sys, time\n"
    f"p = subprocess.Popen([sys.executable, '-I', '-S', '-c', {SLEEP!r}], start_new_session=True)\n"
    "print(json.dumps({'child': p.pid}), flush=True)\ntime.sleep(60)"
)


def test_stop_ends_what_a_target_moved_to_another_session() -> None:
    target = Target.start(_python(APART), {}, ready_timeout=20)
    moved = psutil.Process(target.ready["child"])
    target.stop()
    assert not moved.is_running() or moved.status() == psutil.STATUS_ZOMBIE


def test_what_cannot_be_ended_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target.start(_python(APART), {}, ready_timeout=20)
    moved = psutil.Process(target.ready["child"])
    with monkeypatch.context() as patched:
        patched.setattr(psutil.Process, "kill", lambda each: None)
        patched.setattr(process, "_VERIFY_SECONDS", 0.2)
        with pytest.raises(TargetError, match=r"\(pid \d+\) or what it started cannot be ended"):
            target.stop()
    moved.kill()
    target.stop()


LISTEN = (
    "import http.server as h, sys\nprint('booting')\n"
    "class Handler(h.BaseHTTPRequestHandler):\n"
    "    def do_GET(self): self.send_response(int(sys.argv[2])); self.end_headers()\n"
    "server = h.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler)\n"
    "print('listening on', server.server_port)\nserver.serve_forever()"
)


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port for programs that must be told one."""
    with held() as port:
        yield port


def test_other_programs_are_ready_by_port_url_or_line(tmp_path: Path, free_port: int) -> None:
    program, port = write(tmp_path, "listen.py", LISTEN), str(free_port)
    url = f"http://127.0.0.1:{port}/"
    for readiness, expected in (
        (Readiness("port", f"127.0.0.1:{port}"), {"addresses": [["127.0.0.1", free_port]]}),
        (Readiness("pattern", r"listening on \d+"), {"line": f"listening on {port}"}),
        (Readiness("url", url), {"url": url}),
    ):
        command = (sys.executable, "-u", program, port, "404")
        with Target.start(command, {}, ready_timeout=20, readiness=readiness) as target:
            assert target.ready == expected
    with pytest.raises(TargetError, match="expected url"):
        Target.start(
            (sys.executable, "-u", program, port, "503"),
            {},
            ready_timeout=1.0,
            readiness=Readiness("url", url),
        )


def test_a_port_somebody_else_holds_is_not_taken_for_readiness() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(TargetError, match=rf"127\.0\.0\.1:{port} is taken"):
            Target.start(_python(SLEEP), {}, readiness=Readiness("port", f"127.0.0.1:{port}"))


def test_much_output_does_not_stall_the_target() -> None:
    code = (
        "import sys\nprint('{}')\nfor _ in range(3000):\n"
        "    print('x' * 200)\n    print('e' * 200, file=sys.stderr)\n"
        "print('done', file=sys.stderr)"
    )
    target = Target.start(_python(code), {})
    try:
        assert target._child.wait(30)
        with pytest.raises(TargetError, match=r"exit status 0; last lines: .*done"):
            target.check()
    finally:
        target.stop()


def test_what_answers_otherwise_than_http_is_not_ready(free_port: int) -> None:
    code = (
        "import socket, sys\nserver = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "while True:\n    peer, _ = server.accept()\n    peer.recv(9)\n    peer.send(b'-ERR\\r\\n')\n    peer.close()"
    )
    with pytest.raises(TargetError, match=r"not ready within 1 s .expected url"):
        Target.start(
            (*_python(code), str(free_port)), {}, ready_timeout=1.0,
            readiness=Readiness("url", f"http://127.0.0.1:{free_port}/"),
        )  # fmt: skip


def test_no_proxy_of_the_environment_answers_for_the_target(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    command = (sys.executable, "-u", write(tmp_path, "listen.py", LISTEN), str(free_port), "200")
    url = f"http://127.0.0.1:{free_port}/"
    with Target.start(command, {}, ready_timeout=20, readiness=Readiness("url", url)) as target:
        assert target.ready == {"url": url}
