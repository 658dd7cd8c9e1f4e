"""Every spelling of the rotary embedding's settings."""

from __future__ import annotations

from typing import Any

import pytest

from transom.config.rope_config import RopeConfig, read_rope
from transom.config.settings import Settings
from transom.errors import ConfigError, UnsupportedModelError

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def rope(**values: Any) -> RopeConfig:
    return read_rope(Settings("config.json", values), head_dim=64, max_position_embeddings=4096)


def test_without_any_setting_the_embedding_is_the_default_one() -> None:
    assert rope() == rope(rope_scaling=None) == rope(rope_parameters={}) == RopeConfig("default", 10_000.0, 64)


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("type_key", ["type", "rope_type"])
def test_both_objects_and_both_type_keys_mean_the_same(key: str, type_key: str) -> None:
    assert rope(**{key: {type_key: "linear", "factor": 4}}) == RopeConfig("linear", 10_000.0, 64, factor=4.0)


def test_the_older_object_and_the_newer_type_key_win() -> None:
    older, newer = {"rope_type": "linear", "type": "yarn", "factor": 2.0}, {"rope_type": "dynamic", "factor": 3.0}
    assert rope(rope_scaling=older, rope_parameters=newer) == RopeConfig("linear", 10_000.0, 64, factor=2.0)
    assert rope(rope_scaling={}, rope_parameters=newer).rope_type == "dynamic"


def test_the_base_inside_wins_over_the_base_beside() -> None:
    assert rope(rope_theta=500_000).rope_theta == 500_000.0
    assert rope(rope_theta=5e5, rope_parameters={"rope_type": "default", "rope_theta": 1e6}).rope_theta == 1e6


def test_a_part_of_the_head_may_be_rotated() -> None:
    assert rope(partial_rotary_factor=0.5).rotary_dim == 32
    assert rope(rope_parameters={"partial_rotary_factor": 0.25}, partial_rotary_factor=0.5).rotary_dim == 16


@pytest.mark.parametrize("factor", [0, 1.5, -1, 0.01, 0.27, "1"])
def test_rotated_channels_come_in_pairs_within_the_head(factor: object) -> None:
    with pytest.raises(ConfigError, match="partial_rotary_factor is"):
        rope(partial_rotary_factor=factor)


def test_llama3_is_read_and_its_original_length_defaults_to_the_window() -> None:
    expected = RopeConfig("llama3", 10_000.0, 64, 8.0, 4096, low_freq_factor=1.0, high_freq_factor=4.0)
    assert rope(rope_scaling=LLAMA3) == expected
    assert rope(rope_scaling={**LLAMA3, "original_max_position_embeddings": 512}) != expected


def test_an_original_length_beside_the_object_wins() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert rope(rope_scaling=scaling).original_max_position_embeddings == 512
    assert rope(rope_scaling=scaling, original_max_position_embeddings=256).original_max_position_embeddings == 256


def test_yarn_has_the_defaults_of_the_paper() -> None:
    read = rope(rope_scaling={"type": "yarn", "factor": 4.0, "beta_fast": None})
    assert (read.beta_fast, read.beta_slow, read.truncate, read.attention_factor) == (32.0, 1.0, True, None)


def test_a_null_yarn_factor_is_the_ratio_of_the_lengths() -> None:
    scaling = {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 1024}
    assert rope(rope_scaling=scaling).factor == 4.0


def test_all_yarn_parameters_are_read() -> None:
    scaling = {"rope_type": "yarn", "factor": 2, "beta_fast": 16, "beta_slow": 2, "mscale": 0.7, "mscale_all_dim": 0.5}
    read = rope(rope_scaling={**scaling, "attention_factor": 1.5, "truncate": False})
    assert read == RopeConfig("yarn", 10_000.0, 64, 2.0, 4096, None, None, 1.5, 16.0, 2.0, 0.7, 0.5, False)


@pytest.mark.parametrize(
    ("scaling", "named"),
    [
        ({"rope_type": "linear"}, "rope_scaling.factor is missing"),
        ({"rope_type": "dynamic", "factor": 0}, "rope_scaling.factor is 0"),
        ({"rope_type": "yarn"}, "rope_scaling.factor is null"),
        ({"rope_type": "yarn", "factor": 4, "beta_fast": -1}, "rope_scaling.beta_fast is -1"),
        ({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 0}, "original_max_position_embeddings"),
        ({"rope_type": "yarn", "factor": 4, "truncate": 1}, "rope_scaling.truncate is 1"),
        ({**LLAMA3, "high_freq_factor": 1.0}, "must be greater than low_freq_factor"),
        ({**LLAMA3, "low_freq_factor": None}, "rope_scaling.low_freq_factor is null"),
        ({**LLAMA3, "factor": 1e-40}, "rope_scaling.factor is 1e-40"),
        ({**LLAMA3, "high_freq_factor": 1e300}, "rope_scaling.high_freq_factor is 1e+300"),
        ({"rope_type": "linear", "factor": 1e300}, "rope_scaling.factor is 1e+300"),
        ({"rope_type": "dynamic", "alpha": 1e300}, "rope_scaling.alpha is 1e+300"),
        ({"rope_type": "yarn", "factor": 4, "beta_fast": 1e308}, "rope_scaling.beta_fast is 1e+308"),
        ({"rope_type": "yarn", "factor": 4, "attention_factor": 2**63}, "rope_scaling.attention_factor is 92233720368"),
        ({"rope_type": "yarn", "factor": 4, "mscale": 1, "mscale_all_dim": -1}, "rope_scaling.mscale_all_dim is -1"),
        ({"rope_type": None}, "rope_scaling.rope_type is null"),
        ({"rope_theta": 1e300}, "rope_scaling.rope_theta is 1e+300"),
        ({"rope_theta": 1.0}, "rope_scaling.rope_theta is 1.0"),
        ([1], "rope_scaling is"),
    ],
)
def test_parameters_that_make_no_sense_are_named(scaling: object, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rope(rope_scaling=scaling)
    assert named in str(caught.value)


@pytest.mark.parametrize("rope_type", ["mrope", "proportional", ""])
def test_other_rope_types_are_refused_by_name(rope_type: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f'rope_scaling.rope_type "{rope_type}" is not supported '):
        rope(rope_scaling={"rope_type": rope_type, "factor": 2.0})
