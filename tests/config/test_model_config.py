"""Reading architectures from Hugging Face's files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.config.directories import REMOVED, read, settings, write
from transom.config.model_config import GenerationDefaults, LayerKind, ModelConfig
from transom.errors import ConfigError, UnsupportedModelError

FULL, SLIDING = LayerKind.FULL_ATTENTION, LayerKind.SLIDING_ATTENTION
SHARED_MODELS = Path(__file__).parents[3] / "shared" / "models"


def test_a_llama_config_is_read_with_its_defaults(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert (config.head_dim, config.num_key_value_heads, config.rms_norm_eps) == (16, 2, 1e-6)
    assert config.layer_types == (FULL,) * 4
    assert config.sliding_window is None
    assert (config.bos_token_id, config.eos_token_ids, config.pad_token_id) == (1, (2,), None)
    assert not config.tie_word_embeddings
    assert not (config.attention_bias or config.attention_output_bias or config.mlp_bias)
    assert config.dtype == "float32"


def test_a_llama_bias_is_on_all_four_attention_products(tmp_path: Path) -> None:
    config = read(tmp_path, attention_bias=True, mlp_bias=True)
    assert (config.attention_bias, config.attention_output_bias, config.mlp_bias) == (True, True, True)


def test_qwen2_has_a_bias_on_query_key_and_value_only(tmp_path: Path) -> None:
    config = read(tmp_path, "qwen2")
    assert (config.attention_bias, config.attention_output_bias, config.mlp_bias) == (True, False, False)
    assert (config.bos_token_id, config.eos_token_ids) == (None, ())


@pytest.mark.parametrize("head_dim", [REMOVED, None])
def test_a_head_is_hidden_size_over_heads_unless_said(tmp_path: Path, head_dim: object) -> None:
    assert read(tmp_path, head_dim=head_dim).head_dim == 16


def test_an_explicit_head_need_not_divide_the_hidden_size(tmp_path: Path) -> None:
    assert read(tmp_path, head_dim=24, hidden_size=50).head_dim == 24


@pytest.mark.parametrize(
    ("model_type", "value", "expected"),
    [("llama", REMOVED, 32), ("llama", None, 32), ("mistral", REMOVED, 8), ("mistral", None, 32), ("qwen2", None, 32)],
)
def test_absent_key_value_heads_follow_the_family(
    tmp_path: Path, model_type: str, value: object, expected: int
) -> None:
    config = read(tmp_path, model_type, num_key_value_heads=value, num_attention_heads=32, hidden_size=128)
    assert config.num_key_value_heads == expected


@pytest.mark.parametrize(("value", "window"), [(REMOVED, 4096), (100, 100), (None, None)])
def test_mistral_slides_everywhere_unless_its_window_is_null(tmp_path: Path, value: object, window: int | None) -> None:
    config = read(tmp_path, "mistral", sliding_window=value)
    assert config.sliding_window == window
    assert config.layer_types == (FULL if window is None else SLIDING,) * 4


@pytest.mark.parametrize(
    ("changes", "sliding"),
    [
        ({}, 0),
        ({"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 1}, 0),
        ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}, 3),
        ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}, 4),
        ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 4}, 0),
        ({"use_sliding_window": True, "sliding_window": 64}, 0),  # max_window_layers is 28
        ({"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}, 0),
    ],
)
def test_qwen2_slides_in_its_upper_layers_when_told_to(tmp_path: Path, changes: dict[str, Any], sliding: int) -> None:
    config = read(tmp_path, "qwen2", **changes)
    assert config.layer_types == (FULL,) * (4 - sliding) + (SLIDING,) * sliding
    assert config.sliding_window == (64 if sliding else None)


def test_a_llama_window_without_layer_types_has_no_effect(tmp_path: Path) -> None:
    config = read(tmp_path, sliding_window=64)
    assert (config.layer_types, config.sliding_window) == ((FULL,) * 4, None)


def test_explicit_layer_types_win(tmp_path: Path) -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config = read(tmp_path, "mistral", layer_types=kinds, sliding_window=64)
    assert config.layer_types == (FULL, SLIDING, FULL, SLIDING)


def test_end_tokens_are_the_union_of_both_files(tmp_path: Path) -> None:
    directory = write(tmp_path, settings(eos_token_id=[5, 6]), {"eos_token_id": 6, "temperature": 0.5})
    assert ModelConfig.from_hf(directory).eos_token_ids == (5, 6)
    write(tmp_path, settings(eos_token_id=5), {"eos_token_id": [7, 5]})
    assert ModelConfig.from_hf(directory).eos_token_ids == (5, 7)


def test_the_default_end_token_is_not_added_to_what_the_files_say(tmp_path: Path) -> None:
    directory = write(tmp_path, settings(), {"eos_token_id": [7]})
    assert ModelConfig.from_hf(directory).eos_token_ids == (7,)
    write(tmp_path, settings(eos_token_id=None), {})
    assert ModelConfig.from_hf(directory).eos_token_ids == ()


@pytest.mark.parametrize("pad_token_id", [-1, 320, 32_000, None])
def test_a_pad_token_outside_the_vocabulary_is_none(tmp_path: Path, pad_token_id: int | None) -> None:
    assert read(tmp_path, pad_token_id=pad_token_id).pad_token_id is None


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [({"dtype": "bfloat16"}, "bfloat16"), ({"torch_dtype": "torch.float16"}, "float16"), ({"dtype": None}, "float32")],
)
def test_the_checkpoint_type_has_two_spellings(tmp_path: Path, changes: dict[str, Any], dtype: str) -> None:
    assert read(tmp_path, **changes).dtype == dtype


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_attention_heads", 0),
        ("num_attention_heads", True),
        ("num_attention_heads", 3),  # hidden_size is no multiple
        ("num_key_value_heads", 0),
        ("num_key_value_heads", 3),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 2**31),
        ("num_hidden_layers", "4"),
        ("num_hidden_layers", REMOVED),
        ("vocab_size", 0),
        ("vocab_size", 2**31),
        ("hidden_size", -64),
        ("hidden_size", 64.0),
        ("intermediate_size", 0),
        ("intermediate_size", None),
        ("max_position_embeddings", 0),
        ("max_position_embeddings", 2**31),
        ("max_position_embeddings", REMOVED),
        ("head_dim", 0),
        ("head_dim", 15),
        ("rms_norm_eps", math.nan),
        ("rms_norm_eps", 0),
        ("rms_norm_eps", -1e-6),
        ("rms_norm_eps", None),
        ("rope_theta", math.nan),
        ("rope_theta", 0),
        ("rope_theta", math.inf),
        ("tie_word_embeddings", 1),
        ("attention_bias", "yes"),
        ("bos_token_id", 320),
        ("bos_token_id", -1),
        ("eos_token_id", 320),
        ("eos_token_id", [1, True]),
        ("eos_token_id", "2"),
        ("layer_types", ["full_attention"] * 3),
        ("layer_types", ["sliding_attention"] * 4),  # and no sliding_window
        ("layer_types", "full_attention"),
        ("model_type", 3),
        ("model_type", REMOVED),
    ],
)
def test_nonsense_is_refused_by_key(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_hf(write(tmp_path, settings(**{key: value})))
    message = str(caught.value)
    assert "config.json" in message
    assert key in message or (key, value) in [
        ("num_attention_heads", 3),
        ("head_dim", 15),
        ("layer_types", ["sliding_attention"] * 4),
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "mamba"),
        ("model_type", ""),
        ("hidden_act", "gelu"),
        ("architectures", ["LlamaForSequenceClassification"]),
        ("quantization_config", {"quant_method": "gptq"}),
        ("num_local_experts", 8),
        ("n_routed_experts", 64),
        ("auto_map", {"AutoModelForCausalLM": "modeling_x.X"}),
        ("auto_map", {"AutoModelForCausalLM": ["modeling_x.LlamaForCausalLM", None]}),
        ("auto_map", "modeling_x.X"),
        ("partial_rotary_factor", 0.5),
        ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.5}),
        ("text_config", {"hidden_size": 1}),
        ("final_logit_softcapping", 30.0),
        ("logits_scaling", 8.0),
        ("layer_types", ["conv"] * 4),
        ("layer_types", ["linear_attention"] * 4),
        ("rope_scaling", {"rope_type": "mrope", "factor": 4}),
        ("rope_scaling", {"type": "mrope", "mrope_section": [1]}),
        ("rope_parameters", {"full_attention": {"rope_type": "default"}}),
        ("dtype", "float8_e4m3fn"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        ModelConfig.from_hf(write(tmp_path, settings(**{key: value})))
    named = [key, "rope", "partial_rotary_factor"] if key.startswith("rope") else [key]
    assert any(name in str(caught.value) for name in named)


def test_a_multimodal_model_is_refused_as_one(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r'model_type "gemma3" is not supported \(no multimodal models;'):
        read(tmp_path, "gemma3", text_config={"hidden_size": 64})


def test_an_adapter_is_refused_as_one(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match=r"adapter_config\.json: adapters are not supported; merge"):
        ModelConfig.from_hf(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["LlamaForCausalLM"]},
        {"hidden_act": "swish"},
        {"quantization_config": None},
        {"num_local_experts": 1},
        {"partial_rotary_factor": 1.0},
        {"auto_map": {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.LlamaForCausalLM"}},
        {"auto_map": {"AutoTokenizer": ["tokenization_x.X", None]}},
        {"some_key_of_a_later_version": [1, {"a": 2}], "transformers_version": "9.9"},
    ],
)
def test_what_changes_nothing_is_accepted(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert read(tmp_path, **changes) == read(tmp_path)


def test_a_missing_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a directory") as caught:
        ModelConfig.from_hf(tmp_path / "absent")
    assert "\n" not in str(caught.value)


def test_a_config_survives_the_channel(tmp_path: Path) -> None:
    config = read(tmp_path, "mistral", sliding_window=64, rope_scaling={"rope_type": "yarn", "factor": 4.0})
    assert ModelConfig.from_plain(json.loads(json.dumps(config.to_plain()))) == config


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_KEYS = [
    *settings(),
    *("head_dim", "layer_types", "sliding_window", "eos_token_id", "rope_scaling", "rope_parameters", "rope_theta"),
    *("rms_norm_eps", "pad_token_id", "architectures", "partial_rotary_factor", "dtype", "hidden_act", "auto_map"),
]


@given(st.sampled_from(["llama", "mistral", "qwen2"]), st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=4))
@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=200
)
def test_any_value_under_any_key_gives_a_config_or_a_config_error(
    tmp_path: Path, model_type: str, changes: dict[str, Any]
) -> None:
    try:
        config = ModelConfig.from_hf(write(tmp_path, {**settings(model_type=model_type), **changes}))
    except ConfigError:
        return
    assert len(config.layer_types) == config.num_hidden_layers
    assert config.num_attention_heads % config.num_key_value_heads == 0
    assert (SLIDING in config.layer_types) == (config.sliding_window is not None)


def test_absent_generation_settings_recommend_nothing(tmp_path: Path) -> None:
    assert GenerationDefaults.from_hf(tmp_path) == GenerationDefaults()


def test_generation_settings_are_read(tmp_path: Path) -> None:
    write(tmp_path, {}, {"temperature": 0, "top_p": 0.9, "top_k": -1, "min_p": None, "repetition_penalty": 1.1})
    expected = GenerationDefaults(temperature=0.0, top_p=0.9, top_k=0, min_p=None, repetition_penalty=1.1)
    assert GenerationDefaults.from_hf(tmp_path) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("temperature", -0.1), ("temperature", math.nan), ("temperature", "1"), ("top_p", 0), ("top_p", 1.1)),
        *(("top_k", -2), ("top_k", 1.5), ("min_p", -0.1), ("min_p", 2), ("repetition_penalty", 0)),
    ],
)
def test_generation_settings_out_of_bounds_are_refused(tmp_path: Path, key: str, value: object) -> None:
    write(tmp_path, {}, {key: value})
    with pytest.raises(ConfigError, match=rf"generation_config\.json: {key} is"):
        GenerationDefaults.from_hf(tmp_path)


@pytest.mark.skipif(not SHARED_MODELS.is_dir(), reason="needs the shared models")
@pytest.mark.parametrize(("name", "context"), [("story", 512), ("tolstoy", 8192)])
def test_real_models_are_read(name: str, context: int) -> None:
    config = ModelConfig.from_hf(SHARED_MODELS / name)
    assert config.max_position_embeddings == context
    assert config.layer_types == (FULL,) * config.num_hidden_layers
    assert config.tie_word_embeddings
