"""A tiny line server and Locust file, run as real processes: the smallest system the harness can measure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.execute.load import LoadProcess, LoadSpec
from harness.execute.target import Target
from harness.execute.wire import OpenSlice, SliceResult, WorkloadFile

SERVER = """
import asyncio, json, os, sys, time
times = []
async def serve(reader, writer):
    while line := await reader.readline():
        if line == b"times\\n":
            writer.write(json.dumps(times).encode() + b"\\n")
            continue
        times.append(time.monotonic())
        if line != b"hang\\n":
            writer.write(line)
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    optimizations = os.environ.get("SYNAPSED_OPTIMIZATIONS", "")
    print(json.dumps({"addresses": [["127.0.0.1", port]], "optimizations": optimizations}), flush=True)
    await server.serve_forever()
asyncio.run(main())
"""

CLIENT = """
import json, os, socket, time
from locust import User, task, events
HOST, PORT = json.loads(os.environ["SYNAPSED_TARGET"])["addresses"][0]
@events.init.add_listener
def on_init(environment, **_):
    environment.synapsed_gauges = lambda: {"client.users": environment.runner.user_count}
    names = os.environ["SYNAPSED_OPTIMIZATIONS"].split(",")
    environment.synapsed_target_gauges = lambda: {"server.on": len(names)}
class Client(User):
    message = b"hello"
    def on_start(self):
        self.socket = socket.create_connection((HOST, PORT))
        self.stream = self.socket.makefile("rb")
    def on_stop(self):
        self.socket.close()
    @task
    def ask(self):
        began = time.perf_counter()
        self.socket.sendall(self.message + b"\\n")
        answer = self.stream.readline()
        self.environment.events.request.fire(
            request_type="tcp", name="ask", response_time=(time.perf_counter() - began) * 1000,
            response_length=len(answer), exception=None, context={})
"""

HELPER = """
import sys, time
while time.process_time() < 0.2:
    pass
print(flush=True)
sys.stdin.read()
"""
"a program that uses 0.2 s of CPU time, says that it has, and stays until whoever started it ends"
START_HELPER = f"""
    import subprocess, sys
    helper = subprocess.Popen([sys.executable, "-c", {HELPER!r}], stdin=-1, stdout=-1)
    helper.stdout.readline()
"""


def write(folder: Path, name: str, text: str) -> str:
    """Put a Locust file or program into the test's folder."""
    path = folder / name
    path.write_text(text)
    return str(path)


def opening(
    seconds: float = 0.1,
    *,
    workload: str = "w",
    arrivals: tuple[float, ...] | None = None,
    drain: float = 5.0,
) -> OpenSlice:
    """An order for one slice, without a target to account for."""
    return OpenSlice(workload, planned=seconds, quiet=0.0, drain=drain, targets=(), arrivals=arrivals)


def load_of(path: str, users: int = 2, env: dict[str, str] | None = None) -> LoadProcess:
    """A ready load process with the one workload `w`."""
    return LoadProcess.start(LoadSpec("test", (WorkloadFile("w", path, users),), env or {}))


def conserved(result: SliceResult) -> bool:
    """Whether every task that began, of one request each, has one outcome and every answer its sample."""
    samples = sum(len(each.service) // 4 for each in result.samples)
    return result.ended == result.tasks and samples == result.answered


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Target]:
    """A running line server."""
    with Target.start((sys.executable, "-u", write(tmp_path, "server.py", SERVER)), {}) as target:
        yield target


@pytest.fixture
def client(tmp_path: Path) -> str:
    """Path of the Locust file that talks to the line server."""
    return write(tmp_path, "client.py", CLIENT)
