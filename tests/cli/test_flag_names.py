"""Errors speak of what the user typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from transom.cli.flag_names import in_flags
from transom.cli.options import ModelOptions, Quantization
from transom.cli.sources import load_registry
from transom.errors import ConfigError


def test_a_key_that_a_flag_set_is_named_by_the_flag() -> None:
    message = "model m: max_position_embeddings is 9, may only lower the model's own, which is 8"
    told = in_flags(message, ModelOptions(max_model_len=9))
    assert told == "model m: --max-model-len 9: may only lower the model's own, which is 8"


def test_keys_of_the_file_and_paths_stay_as_they_are() -> None:
    message = "/models/max_ram_mb/x: tier_config.max_ram_mb is 5, 3 MiB less than 8 MiB"
    assert in_flags(message, ModelOptions()) == message
    assert (
        in_flags(message, ModelOptions(max_ram_mb=5)) == "/models/max_ram_mb/x: --max-ram-mb 5: 3 MiB less than 8 MiB"
    )


def test_a_rule_between_two_keys_names_both_flags() -> None:
    options = ModelOptions(model="tolstoy", kv_cache_ram_mb=8, max_ram_mb=5)
    with pytest.raises(ConfigError) as caught:
        load_registry(options)
    assert in_flags(str(caught.value), options).endswith("--kv-cache-ram-mb 8 must be at most --max-ram-mb 5")


@pytest.mark.parametrize(
    ("config", "source"), [(None, "the bundled model's own"), (Path("config.json"), "from the registry file")]
)
@pytest.mark.parametrize(
    "rule", ["kv_cache_ram_mb 999 must be at most max_ram_mb 576", "max_ram_mb is 576, too little"]
)
def test_a_limit_that_the_user_never_typed_is_said_to_come_from_elsewhere(
    rule: str, config: Path | None, source: str
) -> None:
    told = in_flags(rule, ModelOptions(kv_cache_ram_mb=999, config=config))
    assert told.endswith(f"(max_ram_mb is {source}; --max-ram-mb changes it)")
    assert "(" not in in_flags(rule, ModelOptions(kv_cache_ram_mb=999, max_ram_mb=576, config=config))


def test_a_flag_of_the_same_name_as_its_key_is_named_once() -> None:
    message = "model m: quantization is q8_0, is for directories with safetensors"
    told = in_flags(message, ModelOptions(quantization=Quantization.Q8_0))
    assert told == "model m: --quantization q8_0: is for directories with safetensors"
