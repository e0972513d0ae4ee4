"""What Prometheus gets to see: parsed by its own parser, over a real loopback socket."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from unittest.mock import MagicMock

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from reference_impl.metrics import METRICS, Metrics, MetricsSettings
from reference_impl.metrics.exposition import Exposition, ExpositionSettings, NodeCollector
from reference_impl.metrics.series import OTHER
from reference_impl.settings import SettingsError
from tests.ports import held

GAUGES = {"pooling": {"hit_rate": 0.75, "in-use": 3.0}, "rate_limit": {"rejected": 7.0}}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(params=[METRICS.off, METRICS.on])
def metrics(request: pytest.FixtureRequest) -> Metrics:
    made: Metrics = request.param(MetricsSettings())
    recorder = made.recorder(b"\x01" * 32, "tcp")
    recorder.attempt()
    recorder.opened(0.25)
    for _ in range(100):
        recorder.request(0.125, 10, 20)
    made.recorder(OTHER, "tls").failed()
    return made


def gauges() -> Mapping[str, Mapping[str, float]]:
    return GAUGES


def parse(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(metrics: Metrics, *, per_peer: bool = False) -> Samples:
    registry = CollectorRegistry()
    registry.register(NodeCollector(gauges, metrics, per_peer=per_peer))
    return parse(generate_latest(registry).decode())


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_rooms_become_gauges_with_legal_names(metrics: Metrics) -> None:
    samples = scrape(metrics)
    assert value(samples, "synapsed_pooling_hit_rate") == 0.75
    assert value(samples, "synapsed_pooling_in_use") == 3.0
    assert value(samples, "synapsed_rate_limit_rejected") == 7.0


def test_transports_become_counters_and_summaries(metrics: Metrics) -> None:
    samples = scrape(metrics)
    assert value(samples, "synapsed_requests_total", transport="tcp") == 100
    assert value(samples, "synapsed_bytes_received_total", transport="tcp") == 2000
    assert value(samples, "synapsed_failed_connections_total", transport="tls") == 1
    assert value(samples, "synapsed_active_connections", transport="tcp") == 1
    assert value(samples, "synapsed_request_seconds_count", transport="tcp") == 100
    assert value(samples, "synapsed_request_seconds_sum", transport="tcp") == 12.5
    median = value(samples, "synapsed_request_seconds", transport="tcp", quantile="0.5")
    assert median == pytest.approx(0.125, rel=0.12)
    assert value(samples, "synapsed_connect_seconds_count", transport="tcp") == 1


def test_buckets_are_cumulative_and_end_with_the_count() -> None:
    metrics = METRICS.on(MetricsSettings())
    recorder = metrics.recorder(b"\x01" * 32, "tcp")
    for seconds in (0.001, 0.01, 0.1, 1000.0):
        recorder.request(seconds, 1, 1)
    samples = scrape(metrics)
    buckets = {
        float(dict(labels)["le"]): n
        for (name, labels), n in samples.items()
        if name == "synapsed_request_duration_seconds_bucket"
    }
    ordered = [buckets[edge] for edge in sorted(buckets)]
    assert ordered == sorted(ordered)
    assert (ordered[0], ordered[-2], ordered[-1]) == (0, 3, 4)
    assert value(samples, "synapsed_request_duration_seconds_count", transport="tcp") == 4


def test_samples_alone_make_no_histogram() -> None:
    metrics = METRICS.off(MetricsSettings())
    metrics.recorder(b"\x01" * 32, "tcp").request(0.1, 1, 1)
    assert not any("duration" in name for name, _ in scrape(metrics))


def test_peers_are_shown_only_when_asked_for(metrics: Metrics) -> None:
    assert not any("peer" in dict(labels) for _, labels in scrape(metrics))
    samples = scrape(metrics, per_peer=True)
    assert value(samples, "synapsed_peer_requests_total", peer="01" * 32, transport="tcp") == 100
    assert value(samples, "synapsed_peer_failed_connections_total", peer="other", transport="tls") == 1


def test_registering_takes_no_snapshot() -> None:
    asked, metrics = MagicMock(return_value={}), MagicMock()
    CollectorRegistry().register(NodeCollector(asked, metrics))
    assert not asked.called
    assert not metrics.snapshot.called


def get(port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return parse(response.read().decode())


def test_a_scrape_over_http_shows_the_present(metrics: Metrics) -> None:
    with Exposition(gauges, metrics) as exposition:
        assert value(get(exposition.port), "synapsed_requests_total", transport="tcp") == 100
        metrics.recorder(b"\x02" * 32, "tcp").request(0.1, 1, 1)
        samples = get(exposition.port)
        assert value(samples, "synapsed_requests_total", transport="tcp") == 101
        assert value(samples, "process_resident_memory_bytes") > 0


def test_it_listens_on_loopback_only_and_gives_the_port_back(metrics: Metrics) -> None:
    exposition = Exposition(gauges, metrics)
    assert exposition._server.server_address[0] == "127.0.0.1"
    exposition.close()
    exposition.close()
    with held(exposition.port) as port, pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)


def test_a_taken_port_is_an_os_error(metrics: Metrics) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            Exposition(gauges, metrics, ExpositionSettings(port=taken.getsockname()[1]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExpositionSettings(port=-1), r"ExpositionSettings\.port is -1"),
        (
            lambda: ExpositionSettings(port=70_000),
            r"ExpositionSettings\.port is 70000; expected a whole number from 0 to 65535",
        ),
        (lambda: ExpositionSettings(per_peer=1), r"ExpositionSettings\.per_peer is 1"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings_are_refused_by_name(make: Callable[[], ExpositionSettings], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make()


GEVENT = """
from gevent import monkey; monkey.patch_all()
import urllib.request
from reference_impl.metrics.exposition import Exposition
from reference_impl.metrics import METRICS, MetricsSettings
metrics = METRICS.on(MetricsSettings())
metrics.recorder(bytes(32), "tcp").request(0.1, 1, 1)
with Exposition(lambda: {"pooling": {"hits": 2.0}}, metrics) as exposition:
    with urllib.request.urlopen(f"http://127.0.0.1:{exposition.port}/metrics", timeout=10) as response:
        text = response.read().decode()
assert 'synapsed_requests_total{transport="tcp"} 1.0' in text, text
assert "synapsed_pooling_hits 2.0" in text, text
"""


def test_it_answers_under_gevent() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", GEVENT], check=True, timeout=60)
