"""What /metrics shows equals what was recorded and what the models say."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from transom.metrics import KindUsage, MetricsCollector, ModelSnapshot, TierUsage, Transfers
from transom.request import Usage


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
    collector = MetricsCollector(lambda: [ModelSnapshot("m", True, num_running=running[0])])
    assert samples(collector)["transom_num_requests_running", (("model", "m"),)] == 1
    running[0] = 7
    assert samples(collector)["transom_num_requests_running", (("model", "m"),)] == 7


def test_tiers_and_kinds_have_labels_of_their_own_and_the_usage_is_a_share() -> None:
    model = ModelSnapshot(
        "m",
        True,
        tiers=(
            TierUsage("hot", 25, 100),
            TierUsage("cold", 10, 0, 4096, "off", Transfers(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)),
        ),
        kinds=(KindUsage("full_attention", 2, 8, 5),),
        num_preemptions=3,
    )
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
    model = ModelSnapshot("m", True, tiers=(TierUsage("hot", 0, 1), TierUsage("cold", 0, 1, state="paused")))
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
    collector.observe_token_interval("m", 0.01)
    collector.observe_request("m", 3.0)
    shown = samples(collector)
    assert shown["transom_time_to_first_token_seconds_sum", (("model", "m"),)] == 0.2
    assert shown["transom_inter_token_latency_seconds_count", (("model", "m"),)] == 1
    assert shown["transom_e2e_request_latency_seconds_bucket", (("le", "2.5"), ("model", "m"))] == 0
    assert shown["transom_e2e_request_latency_seconds_bucket", (("le", "5.0"), ("model", "m"))] == 1


def test_every_metric_has_help_type_and_the_prefix() -> None:
    text = MetricsCollector(lambda: [ModelSnapshot("m", False)]).render().decode()
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    helped = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
    assert names == helped
    assert all(name.startswith("transom_") for name in names)
