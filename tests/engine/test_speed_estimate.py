"""Estimates follow from what a machine does: twice as fast a machine, half the time; more to read, more time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.golden_models import families, write_golden_model
from transom.cache.budget_plan import planned_budget
from transom.config.engine_config import EngineConfig, resolve
from transom.config.model_config import ModelConfig
from transom.config.registry_config import ModelEntry
from transom.engine.layer_speed import LayerSpeed, measure_layers
from transom.engine.machine_speed import AttentionSpeed, MatrixSpeed
from transom.engine.speed_estimate import SpeedEstimate
from transom.engine.step_speed import StepSpeed, measure_steps
from transom.models import claimed_weights, weight_sizes
from transom.registry.model_files import read_model_config
from transom.weights.loader import WeightSource
from transom.weights.sources import open_weights


@dataclass
class Machine:
    """Everything at one speed."""

    speed: float = 1.0
    tries_layers: bool = True
    disk: float = 1e6
    last_cache_bytes: int = 0

    def matrix(self, _dtype: str) -> MatrixSpeed:
        return MatrixSpeed(1e6 * self.speed, 2e6 * self.speed, 0.0, 1e6 * self.speed)

    def layers(self, _config: ModelConfig, _source: WeightSource) -> LayerSpeed | None:
        return LayerSpeed(1e6 * self.speed, 1e6 * self.speed) if self.tries_layers else None

    def attention(self, *_shape: object) -> AttentionSpeed:
        return AttentionSpeed(1e6 * self.speed, 1e6 * self.speed)

    def steps(self, _vocab_size: int) -> StepSpeed:
        return StepSpeed(0.0, 0.0)

    def disk_bytes_per_second(self, _piece_bytes: int, _in_flight_bytes: int) -> float:
        return self.disk


def estimate(directory: Path, machine: Machine, *, ssd_mb: int = 0, kv_mb: int = 4) -> SpeedEstimate:
    tiers = {"kv_cache_ram_mb": kv_mb, "max_ssd_mb": ssd_mb, "ssd_path": str(directory / "cold")}
    entry = ModelEntry.for_path(directory, tier_config=tiers)
    config, engine_config = resolve(entry, read_model_config(directory), num_threads=1)
    source = open_weights(directory)
    budget = planned_budget(config, engine_config)
    return SpeedEstimate(config, engine_config, source, weight_sizes(config, source).matrices, budget, machine)


@pytest.mark.parametrize("tries_layers", [True, False])
@pytest.mark.parametrize("model_type", families())
def test_a_machine_of_twice_the_speed_takes_half_the_time(model_type: str, tries_layers: bool, tmp_path: Path) -> None:
    write_golden_model(model_type, tmp_path)
    slow, fast = (estimate(tmp_path, Machine(speed, tries_layers)) for speed in (1.0, 2.0))
    assert slow.decode_seconds(100) == pytest.approx(2 * fast.decode_seconds(100))
    assert slow.prefill_seconds(50, 100) == pytest.approx(2 * fast.prefill_seconds(50, 100))


@pytest.mark.parametrize("model_type", families())
def test_deeper_is_slower_unless_every_layer_has_a_window(model_type: str, tmp_path: Path) -> None:
    write_golden_model(model_type, tmp_path)
    one = estimate(tmp_path, Machine())
    times = [one.decode_seconds(depth) for depth in (1, 10, 100, 200)]
    assert times == sorted(times)
    assert one.prefill_seconds(100, 100) >= one.prefill_seconds(0, 100)


def test_decode_is_the_bytes_of_weights_and_keys_over_their_rates(tmp_path: Path) -> None:
    write_golden_model("llama", tmp_path)
    one = estimate(tmp_path, Machine())
    weights = sum(each.num_bytes for each in one.matrices if "embed" not in each.name)
    if one.model_config.tie_word_embeddings:
        weights = sum(each.num_bytes for each in one.matrices)
    per_token = one.budget.slot_bytes / 64 * one.model_config.num_hidden_layers
    assert one.decode_seconds(128) == pytest.approx((weights + 128 * per_token) / 1e6)


def test_of_experts_only_those_are_read_that_a_token_uses(tmp_path: Path) -> None:
    write_golden_model("mixtral", tmp_path)
    one = estimate(tmp_path, Machine())
    experts = one.model_config.experts
    assert experts is not None
    everybody = replace(
        one, model_config=replace(one.model_config, experts=replace(experts, num_experts_per_tok=experts.num_experts))
    )
    assert one.decode_seconds(1) < everybody.decode_seconds(1)


def test_what_is_on_ssd_is_read_for_every_token(tmp_path: Path) -> None:
    write_golden_model("llama", tmp_path, max_position_embeddings=65536)
    all_in_ram = estimate(tmp_path, Machine(), kv_mb=64)
    split = estimate(tmp_path, Machine(), kv_mb=1, ssd_mb=128)
    assert split.cold_slots(60_000) > 0 == split.cold_slots(64)
    assert split.decode_seconds(60_000) > all_in_ram.decode_seconds(60_000)
    assert split.prefill_seconds(60_000, 512) > all_in_ram.prefill_seconds(60_000, 512)
    quick = estimate(tmp_path, Machine(disk=1e15), kv_mb=1, ssd_mb=128)
    assert quick.decode_seconds(60_000) == pytest.approx(all_in_ram.decode_seconds(60_000))


@pytest.mark.parametrize("model_type", families())
def test_some_layers_of_every_family_can_be_tried_without_their_weights(model_type: str, tmp_path: Path) -> None:
    config = read_model_config(write_golden_model(model_type, tmp_path))
    speed = measure_layers(config, claimed_weights(config), num_threads=2, least_bytes=1, step_seconds=0.0)
    assert speed is not None
    assert speed.bytes_per_second > 0
    assert speed.multiply_adds_per_second > 0


def test_layers_that_are_too_large_are_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transom.engine.layer_speed.MAX_TRIAL_BYTES", 1000)
    config = read_model_config(write_golden_model("llama", tmp_path))
    assert measure_layers(config, claimed_weights(config), num_threads=1, least_bytes=1, step_seconds=0.0) is None


def test_a_step_has_a_price_of_its_own() -> None:
    speed = measure_steps(1, 256)
    assert 0 < speed.step_seconds + speed.layer_seconds < 1


def test_the_estimate_needs_no_cold_tier(tmp_path: Path) -> None:
    write_golden_model("llama", tmp_path)
    one = estimate(tmp_path, Machine())
    assert isinstance(one.engine_config, EngineConfig)
    assert one.cold_slots(100) == 0
