"""Room 6, metrics collection: what happened with whom, cheap enough to leave on."""

from __future__ import annotations

from reference_impl.metrics.collector import METRICS, Metrics, MetricsSettings, PerThreadMetrics, Recorder

__all__ = [
    "METRICS",
    "Metrics",
    "MetricsSettings",
    "PerThreadMetrics",
    "Recorder",
]
