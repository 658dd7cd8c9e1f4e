"""What /metrics shows equals what was recorded and what the models say."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families

from transom.cache.stats import CacheStats, KindStats, ReuseStats, TierState, TierStats, TransferStats
from transom.config.model_config import LayerKind
from transom.engine.reports import EngineStats, StepStats
from transom.histogram import HistogramCounts
from transom.metrics import MetricsCollector, ModelSnapshot
from transom.request import FinishReason, Usage
from transom.scheduler.stats import SchedulerStats

NO_REUSE, NO_STEPS = ReuseStats(), StepStats()


def engine(
    *,
    num_running: int = 0,
    num_preemptions: int = 0,
    num_computed_tokens: int = 0,
    num_drafted_tokens: int = 0,
    num_accepted_tokens: int = 0,
    tiers: tuple[TierStats, ...] = (),
    kinds: tuple[KindStats, ...] = (),
    reuse: ReuseStats = NO_REUSE,
    steps: StepStats = NO_STEPS,
) -> EngineStats:
    scheduler = SchedulerStats(
        num_running=num_running,
        num_waiting=0,
        num_preemptions=num_preemptions,
        num_prompt_tokens=0,
        num_cached_tokens=0,
        num_generated_tokens=0,
        num_computed_tokens=num_computed_tokens,
        num_drafted_tokens=num_drafted_tokens,
        num_accepted_tokens=num_accepted_tokens,
    )
    cache = CacheStats(64, num_sequences=0, num_tokens=0, tiers=tiers, kinds=kinds, reuse=reuse)
    return EngineStats(scheduler, cache, num_steps=0, step_seconds=0.0, num_failed=0, steps=steps)


def samples(collector: MetricsCollector) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(collector.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_counted_tokens_add_up_over_requests() -> None:
    collector = MetricsCollector(lambda: ())
    for cached in (0, 3):
        collector.count_tokens("m", Usage(10, 4, cached, num_evicted_tokens=2))
        collector.count_request("m", 200)
    shown = samples(collector)
    model = (("model", "m"),)
    assert shown["transom_prompt_tokens_total", model] == 20
    assert shown["transom_prompt_tokens_cached_total", model] == 3
    assert shown["transom_tokens_predicted_total", model] == 8
    assert shown["transom_tokens_evicted_total", model] == 4
    assert shown["transom_requests_total", (("model", "m"), ("status", "200"))] == 2


def test_gauges_are_pulled_at_every_scrape() -> None:
    running = [1]
    collector = MetricsCollector(lambda: [ModelSnapshot("m", True, engine=engine(num_running=running[0]))])
    assert samples(collector)["transom_num_requests_running", (("model", "m"),)] == 1
    running[0] = 7
    assert samples(collector)["transom_num_requests_running", (("model", "m"),)] == 7


def test_tiers_and_kinds_have_labels_of_their_own_and_the_usage_is_a_share() -> None:
    transfers = TransferStats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    stats = engine(
        tiers=(TierStats("hot", 25, 100), TierStats("cold", 10, 0, 4096, TierState.OFF, transfers=transfers)),
        kinds=(KindStats(LayerKind.FULL_ATTENTION, 1, 2, 8, 0, num_cold_blocks=5),),
        num_preemptions=3,
    )
    model = ModelSnapshot("m", True, engine=stats)
    shown = samples(MetricsCollector(lambda: [model]))
    assert shown["transom_kv_cache_used_bytes", (("model", "m"), ("tier", "hot"))] == 25
    assert shown["transom_kv_cache_total_bytes", (("model", "m"), ("tier", "hot"))] == 100
    assert shown["transom_kv_cache_usage_perc", (("model", "m"),)] == 0.25
    assert shown["transom_kv_cache_used_blocks", (("kind", "full_attention"), ("model", "m"))] == 2
    assert shown["transom_kv_cache_cold_blocks", (("kind", "full_attention"), ("model", "m"))] == 5
    assert shown["transom_num_preemptions_total", (("model", "m"),)] == 3
    cold = (("model", "m"), ("tier", "cold"))
    assert shown["transom_kv_cache_physical_bytes", cold] == 4096
    names = "read_bytes read_seconds written_bytes write_seconds written_blocks stall_seconds checksum_failures"
    names += " read_errors write_errors pauses"
    counted = [shown[f"transom_kv_tier_{name}_total", cold] for name in names.split()]
    assert counted == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert ("transom_kv_tier_read_bytes_total", (("model", "m"), ("tier", "hot"))) not in shown


def test_a_tier_is_in_one_state_at_a_time() -> None:
    tiers = (TierStats("hot", 0, 1), TierStats("cold", 0, 1, state=TierState.PAUSED))
    model = ModelSnapshot("m", True, engine=engine(tiers=tiers))
    shown = samples(MetricsCollector(lambda: [model]))
    states = {labels: value for (name, labels), value in shown.items() if name == "transom_kv_tier_state"}
    assert {dict(labels)["tier"]: dict(labels)["state"] for labels, value in states.items() if value} == {
        "hot": "on",
        "cold": "paused",
    }
    assert sum(states.values()) == 2


def test_latencies_fall_into_histograms() -> None:
    collector = MetricsCollector(lambda: ())
    collector.observe_first_token("m", 0.2)
    collector.observe_token_time("m", 0.01)
    collector.observe_request("m", 3.0)
    shown = samples(collector)
    assert shown["transom_time_to_first_token_seconds_sum", (("model", "m"),)] == 0.2
    assert shown["transom_request_time_per_output_token_seconds_count", (("model", "m"),)] == 1
    assert shown["transom_e2e_request_latency_seconds_bucket", (("le", "2.5"), ("model", "m"))] == 0
    assert shown["transom_e2e_request_latency_seconds_bucket", (("le", "5.0"), ("model", "m"))] == 1


def test_every_metric_has_help_type_and_the_prefix() -> None:
    text = MetricsCollector(lambda: [ModelSnapshot("m", False)]).render().decode()
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    helped = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
    assert names == helped
    assert all(name.startswith(("transom_", "process_")) for name in names)


COUNTED = HistogramCounts((0.5, 1.0), (2, 0, 1), 4.5)


def test_histograms_of_the_workers_are_cumulative_and_say_nothing_before_anything_was_counted() -> None:
    stats = engine(steps=StepStats(decode_seconds=COUNTED), tiers=(TierStats("cold", 0, 1),))
    model = ModelSnapshot("m", True, engine=stats)
    shown = samples(MetricsCollector(lambda: [model]))
    labels = (("kind", "decode"), ("model", "m"))
    buckets = [shown["transom_step_duration_seconds_bucket", tuple(sorted((*labels, ("le", le))))] for le in LIMITS]
    assert buckets == [2, 2, 3]
    assert shown["transom_step_duration_seconds_sum", labels] == 4.5
    assert shown["transom_step_duration_seconds_count", labels] == 3
    assert not [name for name, _ in shown if name.startswith("transom_kv_tier_read_latency")]


LIMITS = ("0.5", "1.0", "+Inf")


def test_tokens_are_told_by_where_they_came_from_and_add_up() -> None:
    reuse = ReuseStats(num_hit_tokens=100, num_cold_hit_tokens=30)
    stats = engine(num_computed_tokens=50, num_drafted_tokens=10, num_accepted_tokens=7, reuse=reuse)
    model = ModelSnapshot("m", True, engine=stats)
    shown = samples(MetricsCollector(lambda: [model]))
    by_source = {dict(labels)["source"]: value for (name, labels), value in shown.items() if "tokens_by_source" in name}
    assert by_source == {
        "computed": 40, "cache_ram": 70, "cache_ssd": 30, "guess_accepted": 7, "guess_rejected": 3
    }  # fmt: skip


def test_both_formats_say_the_same_and_are_what_parsers_take() -> None:
    transfers = TransferStats(read_latency=COUNTED, write_latency=COUNTED)
    stats = engine(
        steps=StepStats(COUNTED, COUNTED, COUNTED, COUNTED, COUNTED, COUNTED, COUNTED),
        tiers=(TierStats("cold", 1, 2, transfers=transfers),),
        kinds=(KindStats(LayerKind.FULL_ATTENTION, 1, 1, 2, 0, num_cold_blocks=3),),
    )
    model = ModelSnapshot("m", True, state="loaded", engine=stats)
    collector = MetricsCollector(lambda: [model], "1.2.3")
    collector.count_tokens("m", Usage(10, 4))
    collector.count_refusal("m", None)
    collector.count_quota_refusal("m", "tokens_per_minute", "tier gold")
    collector.count_end("m", FinishReason.STOP)
    collector.observe_queue("m", 0.5)
    shown = samples(collector)
    families = open_metrics_families(collector.render_open_metrics().decode())  # type: ignore[no-untyped-call]
    opened = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }
    assert opened.keys() == shown.keys()
    assert {key: value for key, value in opened.items() if key[0].startswith("transom_")} == {
        key: value for key, value in shown.items() if key[0].startswith("transom_")
    }
    assert shown["transom_build_info", (("version", "1.2.3"),)] == 1
    assert shown["transom_refusals_total", (("model", "m"), ("reason", "none"))] == 1


def test_names_keep_the_conventions() -> None:
    """Counters end in _total, and whatever is measured in seconds or bytes says so at the end."""
    for family in text_string_to_metric_families(MetricsCollector(lambda: ()).render().decode()):
        if family.name.startswith("transom_"):
            assert family.name == family.name.lower()
            assert not family.name.endswith(("_ms", "_milliseconds", "_mb", "_kb"))
            assert family.documentation.endswith(".")
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
