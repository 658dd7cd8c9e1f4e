"""Metrics: counters recorded per request and gauges pulled from the served models, in Prometheus' text format."""

from transom.metrics.collector import OPEN_METRICS_TYPE, PLAIN_TYPE, UNKNOWN_MODEL, MetricsCollector
from transom.metrics.snapshot import SILENT, ModelSnapshot

__all__ = [
    "OPEN_METRICS_TYPE",
    "PLAIN_TYPE",
    "SILENT",
    "UNKNOWN_MODEL",
    "MetricsCollector",
    "ModelSnapshot",
]
