"""Writes the table of metrics in docs/observability.md from what a server shows, so that the page cannot drift.

    python scripts/write_metrics_docs.py

A test compares the page with what this program would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from transom.cache.stats import COLD_TIER, KindStats, TierStats, TransferStats
from transom.config.model_config import LayerKind
from transom.engine.reports import StepStats
from transom.histogram import HistogramCounts
from transom.metrics import SILENT, MetricsCollector, ModelSnapshot
from transom.request import FinishReason, Usage

PAGE = Path(__file__).parent.parent / "docs" / "observability.md"
BEGIN = "<!-- Written by scripts/write_metrics_docs.py: begin -->\n"
END = "<!-- end -->\n"
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def families() -> list[Metric]:
    """All of a server that has a model with two tiers and has been through everything."""
    counted = HistogramCounts((1.0,), (1, 0), 1.0)
    transfers = TransferStats(read_latency=counted, write_latency=counted)
    cache = replace(
        SILENT.cache,
        tiers=(TierStats(COLD_TIER, 0, 0, transfers=transfers),),
        kinds=(KindStats(LayerKind.FULL_ATTENTION, 1, 0, 0, 0),),
    )
    steps = StepStats(counted, counted, counted, counted, counted, counted, counted)
    model = ModelSnapshot("m", True, engine=replace(SILENT, cache=cache, steps=steps))
    collector = MetricsCollector(lambda: [model])
    collector.count_request("m", 200)
    collector.count_refusal("m", None)
    collector.count_quota_refusal("m", "limit", "scope")
    collector.count_end("m", FinishReason.STOP)
    collector.count_tokens("m", Usage(1, 1))
    collector.observe_first_token("m", 1.0)
    collector.observe_queue("m", 1.0)
    collector.observe_token_time("m", 1.0)
    collector.observe_request("m", 1.0)
    return list(text_string_to_metric_families(collector.render().decode()))


def series() -> set[str]:
    """Names that a query may use."""
    return {family.name + suffix for family in families() for suffix in _SUFFIXES[family.type]}


def table() -> str:
    """Rows of Markdown, by name."""
    rows = ["| metric | type | labels | |", "|---|---|---|---|"]
    return "\n".join([*rows, *_rows()]) + "\n"


def _rows() -> Iterator[str]:
    own = [family for family in families() if family.name.startswith("transom_")]
    for family in sorted(own, key=lambda each: each.name):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        yield f"| `{name}` | {family.type} | {', '.join(labels)} | {family.documentation} |"


def render(page: str) -> str:
    """The page with the table as it should be."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
