"""Metrics: counters recorded per request and gauges pulled from the served models, in Prometheus' text format."""

from transom.metrics.collector import OPEN_METRICS_TYPE, PLAIN_TYPE, UNKNOWN_MODEL, MetricsCollector
from transom.metrics.snapshot import KindUsage, ModelSnapshot, Reuse, Steps, TierUsage, Transfers

__all__ = [
    "OPEN_METRICS_TYPE",
    "PLAIN_TYPE",
    "UNKNOWN_MODEL",
    "KindUsage",
    "MetricsCollector",
    "ModelSnapshot",
    "Reuse",
    "Steps",
    "TierUsage",
    "Transfers",
]
