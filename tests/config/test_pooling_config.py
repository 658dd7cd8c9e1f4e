"""How a model's files ask for vectors, and what of it is not implemented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.config.test_gguf_config import described
from transom.config.pooling_config import PoolingConfig
from transom.errors import ConfigError
from transom.request import Pooling

TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
NORMALIZE = {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
MODES = dict.fromkeys(
    (
        "pooling_mode_cls_token",
        "pooling_mode_max_tokens",
        "pooling_mode_mean_tokens",
        "pooling_mode_lasttoken",
        "pooling_mode_mean_sqrt_len_tokens",
    ),
    False,
)


def write(directory: Path, modules: Any, pooling: Any = None) -> Path:
    (directory / "modules.json").write_text(json.dumps(modules))
    if pooling is not None:
        (directory / "1_Pooling").mkdir()
        (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return directory


def test_a_model_that_says_nothing_gives_its_last_token_normalised(tmp_path: Path) -> None:
    assert PoolingConfig.from_hf(tmp_path) == PoolingConfig(Pooling.LAST, normalizes=True)
    assert PoolingConfig.from_gguf(described()) == PoolingConfig(Pooling.LAST, normalizes=True)


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({**MODES, "pooling_mode_mean_tokens": True}, Pooling.MEAN),
        ({**MODES, "pooling_mode_lasttoken": True, "word_embedding_dimension": 64}, Pooling.LAST),
        ({"pooling_mode": "mean"}, Pooling.MEAN),
        ({"pooling_mode": "lasttoken"}, Pooling.LAST),
    ],
)
@pytest.mark.parametrize("normalizes", [False, True])
def test_a_directory_says_it_by_its_modules(tmp_path: Path, settings: Any, pooling: Pooling, normalizes: bool) -> None:
    write(tmp_path, [TRANSFORMER, POOLING, *([NORMALIZE] if normalizes else [])], settings)
    assert PoolingConfig.from_hf(tmp_path) == PoolingConfig(pooling, normalizes)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({**MODES, "pooling_mode_cls_token": True}, "pooling_mode_cls_token"),
        ({**MODES, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        (MODES, "no pooling"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_other_poolings_are_told_and_keep_nobody_from_generating(tmp_path: Path, settings: Any, named: str) -> None:
    config = PoolingConfig.from_hf(write(tmp_path, [TRANSFORMER, POOLING, NORMALIZE], settings))
    assert named in (config.unsupported or "")


def test_a_module_that_is_not_known_is_told(tmp_path: Path) -> None:
    dense = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    config = PoolingConfig.from_hf(write(tmp_path, [TRANSFORMER, POOLING, dense], {"pooling_mode": "mean"}))
    assert "Dense" in (config.unsupported or "")


@pytest.mark.parametrize(("number", "pooling"), [(0, Pooling.LAST), (1, Pooling.MEAN), (3, Pooling.LAST)])
def test_a_gguf_file_says_it_by_a_number(number: int, pooling: Pooling) -> None:
    assert PoolingConfig.from_gguf(described({"pooling_type": number})) == PoolingConfig(pooling)


@pytest.mark.parametrize(("number", "named"), [(2, "cls"), (4, "rank"), (9, "9")])
def test_other_numbers_of_a_gguf_file_are_told(number: int, named: str) -> None:
    assert named in (PoolingConfig.from_gguf(described({"pooling_type": number})).unsupported or "")


def test_the_operators_choice_wins() -> None:
    assert PoolingConfig(unsupported="cls", normalizes=False).chosen("mean") == PoolingConfig(Pooling.MEAN, False)
    assert PoolingConfig(Pooling.MEAN).chosen(None) == PoolingConfig(Pooling.MEAN)


@pytest.mark.parametrize(
    ("modules", "rule"),
    [
        ({}, "must hold a JSON list"),
        ([1], "list of objects"),
        ([{"path": ""}], "type is missing"),
        ([TRANSFORMER, {**POOLING, "path": "../secret"}], "must lie in the model's directory"),
        ([TRANSFORMER, {**POOLING, "path": "/etc"}], "must lie in the model's directory"),
        ([TRANSFORMER, POOLING], "cannot be read"),
    ],
)
def test_files_that_cannot_be_are_one_clear_error(tmp_path: Path, modules: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        PoolingConfig.from_hf(write(tmp_path, modules))


def test_modes_that_are_no_booleans_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [TRANSFORMER, POOLING], {"pooling_mode_mean_tokens": 1})
    with pytest.raises(ConfigError, match="pooling_mode_mean_tokens"):
        PoolingConfig.from_hf(tmp_path)
