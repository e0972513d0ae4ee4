"""The gauges to watch: what they say, and that the node's port answers on 127.0.0.1."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reference_impl.dialer import Dialer
from reference_impl.monitoring import WINDOW_SECONDS, MemoryTrend, dialer_gauges, hit_rate, node_gauges, resident_bytes
from tests.reference_impl.conftest import RunningNode


def test_the_trend_is_the_slope_of_recent_readings() -> None:
    now, size = 0.0, 1000
    trend = MemoryTrend(lambda: now, lambda: size)
    assert trend.gauges() == {"resident_bytes": 1000.0, "slope_bytes_per_second": 0.0}
    assert trend.gauges()["slope_bytes_per_second"] == 0.0, "two readings of one instant have no slope"
    for _ in range(100):
        now, size = now + 10, size + 50
        slope = trend.gauges()["slope_bytes_per_second"]
    assert slope == pytest.approx(5.0)
    assert len(trend._readings) == WINDOW_SECONDS / 10 + 1
    now += 2 * WINDOW_SECONDS
    assert trend.gauges()["slope_bytes_per_second"] == 0.0, "what is long past says nothing"


def test_memory_is_that_of_this_process() -> None:
    before = resident_bytes()
    kept = bytearray(64 * 1024 * 1024)
    kept[::1024] = b"x" * (64 * 1024)
    assert resident_bytes() - before > 32 * 1024 * 1024
    del kept


def test_the_plan_s_list_is_there(running: Callable[..., RunningNode], dialing: Callable[..., Dialer]) -> None:
    node = running("all", rate_limit={"max_requests_per_second": 0.001, "burst_size": 6})
    dialer = dialing("all")
    for _ in range(4):
        with dialer.connect(node.peers[0]) as connection:
            connection.request(b"x" * 50_000)
    seen, served = dialer_gauges(dialer)(), node_gauges(node.node)()
    assert seen["pooling"]["hit_rate"] == hit_rate(seen["pooling"]) == 0.75
    assert seen["circuit_breaker"]["closed_to_open"] == 0
    assert served["rate_limit"]["rejection_rate"] == 0
    assert 0 < served["buffer_pool"]["reuse_ratio"] < 1
    assert {"resident_bytes", "slope_bytes_per_second"} <= served["memory"].keys() & seen["memory"].keys()
    assert hit_rate({}) == 0.0


def test_the_node_answers_a_scrape_when_asked_to() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "reference_impl", "--metrics-port", "0"], stdout=subprocess.PIPE, text=True
    ) as node:
        try:
            assert node.stdout is not None
            ready = json.loads(node.stdout.readline())
            assert ready["metrics"].startswith("http://127.0.0.1:")
            with urllib.request.urlopen(ready["metrics"], timeout=20) as answer:
                text = answer.read().decode()
        finally:
            node.terminate()
    assert node.returncode == 0
    found = {family.name for family in text_string_to_metric_families(text)}
    assert {
        "synapsed_rate_limit_rejection_rate",
        "synapsed_buffer_pool_reuse_ratio",
        "synapsed_memory_resident_bytes",
        "synapsed_memory_slope_bytes_per_second",
    } <= found


def test_a_bad_metrics_port_is_refused() -> None:
    node = subprocess.run(
        [sys.executable, "-m", "reference_impl", "--metrics-port", "70000"],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (node.returncode, node.stdout) == (2, "")
    assert "port is 70000; expected a whole number from 0 to 65535" in node.stderr
