"""`transom check`: what it says of a model is what is there, and every reason why one cannot be served is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from tests.command_line import run
from tests.fakes import write_tiny_llama
from tests.gguf_models import write_gguf_of
from tests.golden_models import families, write_golden_model
from tests.tokenizer import small_tokenizers as small
from transom.cli.model_check import ModelCheck, check_model, check_report
from transom.config.model_config import ModelConfig

BUNDLED = Path(__file__).parents[2] / "transom" / "models_builtin"


def checked(directory: Path, **changes: Any) -> ModelCheck:
    """Of a directory that has a tokenizer, with changes to its `config.json`."""
    small.write(directory, small.byte_level_core(), small.NAMED)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))
    return check_model(directory)


def reported(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = check_report(checked(directory), "f16")
    return report


@pytest.mark.parametrize("model_type", families())
def test_a_model_of_every_family_can_be_served_and_is_what_its_config_says(model_type: str, tmp_path: Path) -> None:
    report = reported(write_golden_model(model_type, tmp_path))
    config = ModelConfig.from_hf(tmp_path)
    assert report["can_be_served"], report["problems"]
    assert report["family"] == model_type
    assert sum(report["layers"].values()) == config.num_hidden_layers
    assert report["num_parameters"] == sum(each.size for each in load_file(tmp_path / "model.safetensors").values())
    assert json.loads(json.dumps(report)) == report


def test_layers_are_told_by_kind_each_with_its_rope_and_its_cost(tmp_path: Path) -> None:
    report = reported(write_golden_model("gemma3_text", tmp_path))
    assert report["layers"] == {"sliding_attention": 3, "full_attention": 1}
    assert report["attention_window"] == 20
    assert report["rope"]["full_attention"]["factor"] == 8.0
    assert report["rope"]["sliding_attention"]["rope_theta"] == 10_000.0
    assert report["kv_bytes_per_token"] == {"sliding_attention": 3 * 2 * 2 * 10 * 2, "full_attention": 2 * 2 * 10 * 2}


def test_states_of_convolutions_are_told(tmp_path: Path) -> None:
    report = reported(write_golden_model("lfm2", tmp_path))
    assert report["layers"] == {"conv": 3, "full_attention": 1}
    assert report["kv_bytes_per_token"] == {"full_attention": 2 * 2 * 6 * 2}
    assert report["conv_state_bytes_per_sequence"] == 2 * 3 * 3 * 24 * 4


def test_every_feature_that_is_not_implemented_is_named(tmp_path: Path) -> None:
    changes = {"clip_qkv": 8.0, "num_experts": 4, "hidden_act": "relu"}
    problems = checked(write_golden_model("llama", tmp_path), **changes).problems
    assert [next(key for key in changes if f"{key} " in problem) for problem in problems] == list(changes)


def test_an_adapter_is_no_model_and_says_so_first(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "adapters are not supported" in check_model(tmp_path).problems[0]
    assert not any("/config.json" in problem for problem in check_model(tmp_path).problems)


@pytest.mark.parametrize("vocab_size", [400, 425, 600])
def test_a_tokenizer_with_more_or_fewer_tokens_than_the_model_is_told(tmp_path: Path, vocab_size: int) -> None:
    write_tiny_llama(tmp_path)
    check = checked(tmp_path, vocab_size=vocab_size)
    assert check.tokenizer is not None
    assert check.vocabulary is not None
    num_tokens = check.tokenizer.vocab_size
    assert check.vocabulary.num_ids_without_token == max(vocab_size - num_tokens, 0)
    beyond = [check.tokenizer.id_to_token(token_id) for token_id in range(vocab_size, num_tokens)]
    assert list(check.vocabulary.tokens_beyond) == beyond
    report = check_report(check, "f16")
    assert report["num_tokens_beyond_vocabulary"] == len(beyond)
    shown = run("check", str(tmp_path)).stdout
    assert (f"{len(beyond)} of them beyond the model's {vocab_size} ids" in shown) == bool(beyond)
    assert (f"no token for {vocab_size - num_tokens} of" in shown) == (num_tokens < vocab_size)


def test_what_ends_an_answer_is_told(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    token_id = small.byte_level_core().token_to_id("<|im_end|>")
    report = check_report(checked(tmp_path, vocab_size=600, eos_token_id=[token_id, 599]), "f16")
    assert report["end_tokens"] == ["<|im_end|>", "id 599"]


def test_of_many_problems_the_first_are_shown_and_all_are_listed(tmp_path: Path) -> None:
    check = checked(write_golden_model("llama", tmp_path), hidden_size=1024)
    shown = run("check", str(tmp_path)).stdout.splitlines()
    assert len(shown) < 40
    assert f"and {len(check.problems) - 12} more problems, which --json lists" in shown[-1]
    assert json.loads(run("check", str(tmp_path), "--json").stdout)["problems"] == check.problems


def test_what_a_bundled_entry_lowers_is_told() -> None:
    assert json.loads(run("check", "tolstoy-window", "--json").stdout)["attention_window"] == 1024


def test_an_unknown_family_is_named_and_the_rest_is_still_told(tmp_path: Path) -> None:
    check = checked(write_golden_model("llama", tmp_path), model_type="martian")
    [problem] = check.problems
    assert "martian" in problem
    assert check.weights is not None
    assert check.tokenizer is not None


def test_config_weights_and_tokenizer_that_are_wrong_are_three_problems(tmp_path: Path) -> None:
    write_golden_model("qwen3", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    check = checked(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    weights, tokenizer = check_model(tmp_path).problems
    assert check.problems == [weights]
    assert "model.norm.weight" in weights
    assert "tokenizer.json" in tokenizer


def test_a_gguf_file_is_told_in_the_same_words(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "hf")
    path = write_gguf_of(tmp_path / "hf", tmp_path / "m.gguf")
    check = check_model(path)
    report = check_report(check, "f32")
    assert (report["format"], report["family"]) == ("gguf", "llama")
    assert report["kv_bytes_per_token"] == {"full_attention": 2 * 2 * 2 * 12 * 4}
    [problem] = check.problems
    assert "tokenizer.ggml.model" in problem


def test_a_damaged_gguf_file_is_one_clear_problem(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF\x03")
    [problem] = check_model(path).problems
    assert "m.gguf" in problem


def test_a_model_that_can_be_served_fits_a_screen_and_the_exit_code_is_0() -> None:
    shown = run("check", "tolstoy")
    lines = shown.stdout.splitlines()
    assert (shown.returncode, shown.stderr) == (0, "")
    assert len(lines) < 24
    assert [line.split("  ")[0] for line in lines[:2]] == ["path", "family"]
    assert lines[-1].split() == ["can", "be", "served", "yes"]


def test_a_model_that_cannot_be_served_says_why_and_the_exit_code_is_1(tmp_path: Path) -> None:
    checked(write_golden_model("gemma2", tmp_path), vision_config={"depth": 3})
    shown = run("check", str(tmp_path))
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "vision_config" in shown.stdout
    listed = run("check", str(tmp_path), "--json")
    assert listed.returncode == 1
    assert [*json.loads(listed.stdout)][:4] == ["path", "format", "can_be_served", "problems"]


def test_what_is_no_model_is_a_line_on_standard_error_and_the_exit_code_2() -> None:
    shown = run("check", "no-such-model")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "no-such-model" in shown.stderr
