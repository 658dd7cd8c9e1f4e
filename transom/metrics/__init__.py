"""Metrics: counters recorded per request and gauges pulled from the served models, in Prometheus' text format."""

from transom.metrics.collector import CONTENT_TYPE, UNKNOWN_MODEL, MetricsCollector
from transom.metrics.snapshot import KindUsage, ModelSnapshot, Reuse, TierUsage, Transfers

__all__ = [
    "CONTENT_TYPE",
    "UNKNOWN_MODEL",
    "KindUsage",
    "MetricsCollector",
    "ModelSnapshot",
    "Reuse",
    "TierUsage",
    "Transfers",
]
