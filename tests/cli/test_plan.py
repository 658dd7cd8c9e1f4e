"""What a plan says is what a worker then takes, to the byte; what does not fit is told with the numbers that would."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import run
from tests.fakes import write_tiny_llama
from tests.gguf_families import CASES, GgufCase, write_directory, write_file
from tests.golden_models import families, write_golden_model
from transom.cli.model_check import check_model, check_report
from transom.cli.options import KVDtype, ModelOptions, Quantization
from transom.cli.plan import ModelPlan, PlanWish, make_plan
from transom.cli.plan_view import plan_report, show_plan
from transom.config.engine_config import MIB, resolve
from transom.config.registry_config import RegistryConfig
from transom.engine.model_loader import load_engine
from transom.errors import TransomError
from transom.registry.model_files import read_model_config


def planned(model: Path | str, **wishes: Any) -> ModelPlan:
    """Without speeds, which are measured."""
    names = {"max_ssd_mb", "ssd_path", "quantization", "kv_cache_dtype"}
    options = {name: wishes.pop(name) for name in names & wishes.keys()}
    return make_plan(PlanWish(ModelOptions(model=str(model), **options), measures_speed=False, **wishes))


def check_against_a_worker(plan: ModelPlan, directory: Path) -> None:
    """Pastes the entry into a registry file, loads what that says, and compares."""
    path = directory / "registry.json"
    path.write_text(json.dumps({"models": [plan_report(plan)["registry_entry"]]}))
    [entry] = RegistryConfig.load(path).models
    model_config, engine_config = resolve(entry, read_model_config(entry.path), num_threads=1)
    engine, report = load_engine(model_config, engine_config)
    try:
        cache = engine.stats().cache
        memory = plan.memory
        assert report.weights_bytes == memory.weights_bytes
        assert report.kv_bytes == memory.kv_bytes
        assert report.ram_bytes == plan.ram_bytes
        assert report.workspace_bytes == memory.workspace_bytes
        assert report.max_sequence_tokens == memory.max_sequence_tokens
        assert report.num_full_requests == memory.max_sequences(memory.context_window)
        assert (cache.conv_states.num_bytes_total if cache.conv_states else 0) == memory.budget.state_bytes
        assert engine.max_sequence_tokens(2**22) == memory.budget.max_tokens(2**22)  # of both tiers, to the block
    finally:
        engine.close()


@pytest.mark.parametrize("model_type", families())
def test_a_model_of_every_family_takes_what_was_planned(model_type: str, tmp_path: Path) -> None:
    model = write_golden_model(model_type, tmp_path / "model")
    check_against_a_worker(planned(model, ram_mb=160), tmp_path)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "lfm2", "mixtral"])
@pytest.mark.parametrize("kv_dtype", [KVDtype.F32, KVDtype.Q8_0])
def test_with_a_cold_tier_both_tiers_are_what_was_planned(model_type: str, kv_dtype: KVDtype, tmp_path: Path) -> None:
    model = write_golden_model(model_type, tmp_path / "model")
    options = {"max_ssd_mb": 8, "ssd_path": tmp_path / "cold", "kv_cache_dtype": kv_dtype}
    check_against_a_worker(planned(model, ram_mb=170, **options), tmp_path)


@pytest.mark.parametrize("quantization", [Quantization.Q8_0, Quantization.Q4_K])
@pytest.mark.parametrize("model_type", ["llama", "gemma2", "qwen3_moe"])
def test_quantised_weights_take_what_was_planned(model_type: str, quantization: Quantization, tmp_path: Path) -> None:
    model = write_golden_model(model_type, tmp_path / "model")
    check_against_a_worker(planned(model, ram_mb=160, quantization=quantization), tmp_path)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_gguf_file_of_every_family_takes_what_was_planned(case: GgufCase, tmp_path: Path) -> None:
    file = write_file(case, write_directory(case, tmp_path / "hf"), tmp_path / "model.gguf")
    check_against_a_worker(planned(file, ram_mb=160), tmp_path)


@pytest.mark.parametrize("model", ["tolstoy", "tolstoy-window", "recall"])
def test_bundled_models_take_what_was_planned(model: str, tmp_path: Path) -> None:
    plan = planned(model)
    check_against_a_worker(plan, tmp_path)
    assert plan.ram_bytes <= (plan.engine_config.max_ram_bytes or 0)


@pytest.mark.parametrize("model_type", families())
def test_a_bare_configuration_is_planned_as_if_its_weights_were_there(model_type: str, tmp_path: Path) -> None:
    model = write_golden_model(model_type, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32", "dtype": "float32"}))
    whole = planned(model, ram_mb=160)
    (model / "model.safetensors").unlink()
    bare = planned(model / "config.json", ram_mb=160)
    assert (whole.has_weights, bare.has_weights) == (True, False)
    assert bare.memory == whole.memory
    quantised = planned(model, ram_mb=160, quantization=Quantization.Q8_0)
    assert quantised.memory.weights_bytes < bare.memory.weights_bytes


def test_what_is_needed_is_the_least_that_does(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    options = {"max_ssd_mb": 1, "ssd_path": tmp_path / "cold"}
    plan = planned(tmp_path, context=1000, parallel=30, ram_mb=124, **options)
    assert not plan.fits
    assert plan.num_at_once < 30
    assert plan.needed_ram_mb is not None
    assert plan.needed_ssd_mb is not None
    assert planned(tmp_path, context=1000, parallel=30, ram_mb=plan.needed_ram_mb, **options).fits
    assert not planned(tmp_path, context=1000, parallel=30, ram_mb=plan.needed_ram_mb - 1, **options).fits
    more = {**options, "max_ssd_mb": plan.needed_ssd_mb}
    less = {**options, "max_ssd_mb": plan.needed_ssd_mb - 1}
    assert planned(tmp_path, context=1000, parallel=30, ram_mb=124, **more).fits
    assert not planned(tmp_path, context=1000, parallel=30, ram_mb=124, **less).fits


def test_without_a_budget_there_is_room_for_what_is_asked_for(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    usual, more = planned(tmp_path), planned(tmp_path, context=1024, parallel=12)
    assert usual.fits
    assert usual.num_at_once < 12
    assert more.num_at_once >= 12
    assert more.entry.tier_config.kv_cache_ram_mb is not None


def test_a_plan_says_how_long_several_requests_may_be(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    memory = planned(tmp_path, ram_mb=118).memory
    longest = memory.max_tokens_of(20)
    assert memory.max_sequences(longest) >= 20 > memory.max_sequences(longest + 1)
    assert memory.max_tokens_of(10_000) == 0


def test_too_little_ram_is_one_line_with_what_would_do(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    with pytest.raises(TransomError, match=r"--ram 20MiB: .* MiB of weights .* no room for KV; --ram") as error:
        planned(tmp_path, context=512, ram_mb=20)
    least = int(str(error.value).rpartition("--ram ")[2].partition("MiB")[0])
    assert planned(tmp_path, context=512, ram_mb=least).fits
    assert "\n" not in str(error.value)


def test_a_context_beyond_the_window_is_an_error_with_the_numbers() -> None:
    with pytest.raises(TransomError, match=r"--ctx 100000: the context window of tolstoy is 8192 tokens, 91808 less"):
        planned("tolstoy", context=100_000)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 4096, "hidden_size": 2**24, "vocab_size": 2**24},
        {"num_hidden_layers": 10**9},
        {"hidden_size": -1},
        {"model_type": "martian"},
        {"max_position_embeddings": "many"},
    ],
)
def test_a_hostile_configuration_is_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_tiny_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(TransomError) as error:
        planned(tmp_path, ram_mb=200)
    assert len(str(error.value).splitlines()) == 1


def test_a_configuration_that_claims_millions_of_experts_is_refused_in_moments(tmp_path: Path) -> None:
    model = write_golden_model("mixtral", tmp_path / "model")
    (model / "model.safetensors").unlink()
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "num_local_experts": 60_000, "num_hidden_layers": 2}))
    with pytest.raises(TransomError, match="claims more than 262144 tensors"):
        planned(model)


@pytest.mark.parametrize("name", ["nowhere", "other.json"])
def test_what_is_no_model_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(TransomError) as error:
        planned(tmp_path / name)
    assert len(str(error.value).splitlines()) == 1


def test_weights_that_are_not_the_models_are_told(tmp_path: Path) -> None:
    model = write_golden_model("llama", tmp_path / "model")
    shutil.copy(write_golden_model("qwen3", tmp_path / "other") / "model.safetensors", model)
    with pytest.raises(TransomError, match="tensor"):
        planned(model)


def test_people_and_programs_are_told_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    wish = PlanWish(ModelOptions(model=str(tmp_path)), context=512, ram_mb=120, parallel=3, measures_speed=False)
    show_plan(wish, as_json=False)
    shown = capsys.readouterr().out
    show_plan(wish, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["num_tokens"] == 512
    assert f"{report['num_requests_at_once']} requests of 512 tokens" in shown
    assert f"longest request  {report['max_sequence_tokens']} tokens" in shown
    assert json.loads(shown[shown.index("\n{") :]) == report["registry_entry"]
    assert report["ram_bytes"] <= 120 * MIB


def test_a_plan_that_does_not_fit_says_so_and_ends_with_1(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    ended = run("plan", str(tmp_path), "--ctx", "1000", "--ram", "120MiB", "--parallel", "32", "--no-speed")
    assert ended.returncode == 1
    assert "no: 32 requests of 1000 tokens need --ram" in ended.stdout
    assert ended.stderr == ""


@pytest.mark.parametrize("size", ["8 apples", "0.3MiB", "0", "-1G"])
def test_a_size_that_is_none_is_one_clear_error(size: str) -> None:
    ended = run("plan", "tolstoy", "--ram", size)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_the_server_counts_a_model_as_it_was_planned(tmp_path: Path) -> None:
    """What is charged against the RAM of all models: weights as they lie in RAM, KV, workspace."""
    from transom.registry.model_registry import _ram_bytes

    write_tiny_llama(tmp_path)
    plan = planned(tmp_path, ram_mb=120)
    uncapped = replace(plan.engine_config, max_ram_bytes=None)
    expected = plan.memory.weights_bytes + uncapped.kv_cache_ram_bytes + plan.memory.workspace_bytes
    assert _ram_bytes(plan.model_config, uncapped) == expected


def test_check_tells_the_same_weights(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    assert check_report(check_model(tmp_path), "f16")["weights_ram_bytes"] == planned(tmp_path).memory.weights_bytes
