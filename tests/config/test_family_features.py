"""The keys that single families have beyond Llama's: defaults, null, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.config.directories import REMOVED, read, settings, write
from transom.config.features import NO_SCALING, Experts
from transom.config.model_config import LayerKind, ModelConfig
from transom.config.model_families import FAMILIES, refusals
from transom.config.settings import Settings
from transom.errors import ConfigError, UnsupportedModelError

FULL, SLIDING, CONV = LayerKind.FULL_ATTENTION, LayerKind.SLIDING_ATTENTION, LayerKind.SHORT_CONV
BIG_VOCABULARY = {"vocab_size": 200_000}  # some families' default tokens have large numbers


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_is_read_from_the_least_that_a_file_can_say(tmp_path: Path, model_type: str) -> None:
    config = read(tmp_path, model_type, **BIG_VOCABULARY)
    family = FAMILIES[model_type]
    assert config.model_type == model_type
    assert config.head_dim == (family.head_dim or 16)
    assert config.rms_norm_eps == family.rms_norm_eps
    assert config.rope.rope_theta == family.rope_theta
    assert config.tie_word_embeddings is family.tie_word_embeddings
    assert (config.sliding_rope is None) == (family.sliding_rope_theta is None)
    assert ModelConfig.from_plain(config.to_plain()) == config


@pytest.mark.parametrize(
    ("model_type", "changes", "kinds"),
    [
        ("gemma2", {"sliding_window": 64}, (SLIDING, FULL, SLIDING, FULL)),
        ("gemma2", {"sliding_window": None}, (FULL,) * 4),
        ("gemma3_text", {"sliding_window": 64, "sliding_window_pattern": 3}, (SLIDING, SLIDING, FULL, SLIDING)),
        ("phi3", {"sliding_window": 64}, (SLIDING,) * 4),
        ("phi3", {"sliding_window": None}, (FULL,) * 4),
        ("qwen3_moe", {"sliding_window": 64}, (FULL,) * 4),
        ("qwen3_moe", {"sliding_window": 64, "use_sliding_window": True}, (SLIDING,) * 4),
        ("mixtral", {}, (FULL,) * 4),
        ("mixtral", {"sliding_window": 64}, (SLIDING,) * 4),
        ("granite", {"sliding_window": 64}, (FULL,) * 4),
        ("olmo2", {"sliding_window": 64}, (FULL,) * 4),
        ("hunyuan_v1_dense", {"sliding_window": 64}, (FULL,) * 4),
        ("smollm3", {"sliding_window": 64}, (FULL,) * 4),
        (
            "smollm3",
            {"sliding_window": 64, "use_sliding_window": True, "no_rope_layer_interval": 2},
            (FULL, SLIDING, FULL, SLIDING),
        ),
        ("lfm2", {"full_attn_idxs": [1, 3]}, (CONV, FULL, CONV, FULL)),
        ("lfm2", {"full_attn_idxs": None}, (FULL,) * 4),
        ("lfm2", {"layer_types": ["conv", "conv", "full_attention", "conv"]}, (CONV, CONV, FULL, CONV)),
    ],
)
def test_the_kind_of_every_layer_follows_the_familys_rule(
    tmp_path: Path, model_type: str, changes: dict[str, Any], kinds: tuple[LayerKind, ...]
) -> None:
    config = read(tmp_path, model_type, **BIG_VOCABULARY, **changes)
    assert config.layer_types == kinds
    assert config.sliding_window == (64 if SLIDING in kinds else None)


def test_granite_has_four_factors(tmp_path: Path) -> None:
    names = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")
    neutral, given = read(tmp_path, "granite"), read(tmp_path, "granite", **dict.fromkeys(names, 0.5))
    assert [getattr(neutral.scaling, name) for name in names] == [1.0] * 4
    assert [getattr(given.scaling, name) for name in names] == [0.5] * 4
    assert (neutral.attention_scale, given.attention_scale) == (1.0, 0.5)


@pytest.mark.parametrize(("model_type", "caps"), [("gemma2", (50.0, 30.0)), ("gemma3_text", (None, None))])
def test_gemmas_caps_are_defaults_that_null_switches_off(
    tmp_path: Path, model_type: str, caps: tuple[float | None, float | None]
) -> None:
    keys = ("attn_logit_softcapping", "final_logit_softcapping")
    for changes, expected in (({}, caps), (dict.fromkeys(keys), (None, None)), (dict.fromkeys(keys, 7.0), (7.0, 7.0))):
        scaling = read(tmp_path, model_type, **changes).scaling
        assert (scaling.attn_logit_softcapping, scaling.final_logit_softcapping) == expected


def test_gemmas_embeddings_and_scores_are_scaled(tmp_path: Path) -> None:
    config = read(tmp_path, "gemma2", query_pre_attn_scalar=64)
    assert (config.scaling.embedding_multiplier, config.attention_scale) == (8.0, 0.125)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 5e5, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            }
        },
    ],
)
def test_gemma3_has_a_rope_for_each_kind_in_both_spellings(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = read(tmp_path, "gemma3_text", **changes)
    assert config.sliding_rope is not None
    assert (config.rope.rope_type, config.rope.factor, config.rope.rope_theta) == ("linear", 8.0, 5e5)
    assert (config.sliding_rope.rope_type, config.sliding_rope.rope_theta) == ("default", 2e4)


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({}, (3,)),
        ({"no_rope_layers": None, "no_rope_layer_interval": 2}, (1, 3)),
        ({"no_rope_layers": [0, 1, 1, 0]}, (0, 3)),
        ({"no_rope_layers": [1, 1, 1, 1]}, ()),
    ],
)
def test_smollm3_has_layers_without_positions(tmp_path: Path, changes: dict[str, Any], layers: tuple[int, ...]) -> None:
    assert read(tmp_path, "smollm3", **BIG_VOCABULARY, **changes).nope_layers == layers


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 256),  # two thirds of 96, up to a whole multiple of 256
        ({"block_auto_adjust_ff_dim": False}, 96),
        ({"block_multiple_of": 10}, 70),
        ({"block_multiple_of": 10, "block_ffn_dim_multiplier": 2.0}, 130),
        ({"block_multiple_of": 1, "block_ff_dim": 300}, 200),
        ({"block_multiple_of": 1, "block_ffn_dim_multiplier": None}, 64),
    ],
)
def test_lfm2_computes_the_size_of_its_feed_forward_blocks(tmp_path: Path, changes: dict[str, Any], size: int) -> None:
    assert read(tmp_path, "lfm2", **changes).intermediate_size == size


def test_lfm2_has_taps_and_keeps_no_convolution_where_no_layer_has_one(tmp_path: Path) -> None:
    config = read(tmp_path, "lfm2", full_attn_idxs=[0], conv_L_cache=4, conv_bias=True, norm_eps=1e-3)
    assert config.short_conv is not None
    assert (config.short_conv.conv_L_cache, config.short_conv.conv_bias) == (4, True)
    assert (config.rms_norm_eps, config.num_attention_layers) == (1e-3, 1)
    assert read(tmp_path, "lfm2", full_attn_idxs=[0, 1, 2, 3]).short_conv is None


def test_qwen3_moe_has_experts_in_the_layers_that_its_keys_leave(tmp_path: Path) -> None:
    assert read(tmp_path, "qwen3_moe").experts == Experts(128, 8, 768, False, (0, 1, 2, 3))
    config = read(tmp_path, "qwen3_moe", decoder_sparse_step=2, mlp_only_layers=[3], norm_topk_prob=True)
    assert config.experts == Experts(128, 8, 768, True, (1,))
    assert read(tmp_path, "qwen3_moe", mlp_only_layers=[0, 1, 2, 3]).experts is None


def test_mixtral_has_experts_everywhere_whose_shares_sum_to_one(tmp_path: Path) -> None:
    assert read(tmp_path, "mixtral").experts == Experts(8, 2, 96, True, (0, 1, 2, 3))


def test_hunyuans_alpha_stretches_the_base_of_its_rope(tmp_path: Path) -> None:
    rope = read(tmp_path, "hunyuan_v1_dense", rope_scaling={"type": "dynamic", "alpha": 50.0, "factor": 1.0}).rope
    assert rope.rope_type == "default"
    assert rope.rope_theta == pytest.approx(10_000 * 50 ** (16 / 14))


def longrope(**changes: Any) -> dict[str, Any]:
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    parameters = {"type": "su", **factors, **changes}
    return {
        "original_max_position_embeddings": 512,
        "rope_scaling": {key: value for key, value in parameters.items() if value is not REMOVED},
        **BIG_VOCABULARY,
    }


@pytest.mark.parametrize("name", ["su", "yarn", "longrope"])
def test_longrope_is_read_under_its_older_names_with_the_factor_of_its_lengths(tmp_path: Path, name: str) -> None:
    rope = read(tmp_path, "phi3", **longrope(type=name)).rope
    assert (rope.rope_type, rope.factor, rope.original_max_position_embeddings) == ("longrope", 4.0, 512)
    assert rope.attention_factor == pytest.approx((1 + 2 / 9) ** 0.5)
    assert read(tmp_path, "phi3", **longrope(attention_factor=1.5)).rope.attention_factor == 1.5


@pytest.mark.parametrize(
    ("model_type", "changes", "key"),
    [
        ("granite", {"logits_scaling": 0}, "logits_scaling"),
        ("granite", {"logits_scaling": 1e-40}, "logits_scaling"),
        ("granite", {"attention_multiplier": 1e39}, "attention_multiplier"),
        ("gemma2", {"query_pre_attn_scalar": -1}, "query_pre_attn_scalar"),
        ("gemma2", {"query_pre_attn_scalar": 1e-300}, "query_pre_attn_scalar"),
        ("gemma2", {"attn_logit_softcapping": 1e-300}, "attn_logit_softcapping"),
        ("gemma2", {"rms_norm_eps": 1e-40}, "rms_norm_eps"),
        ("gemma3_text", {"final_logit_softcapping": 1e39}, "final_logit_softcapping"),
        ("gemma3_text", {"rope_local_base_freq": 1e300}, "rope_theta"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 4, "use_sliding_window": False}, "use_sliding_window"),
        ("gemma2", {"final_logit_softcapping": 0}, "final_logit_softcapping"),
        ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ("smollm3", {"no_rope_layers": [1, 0, 2, 1]}, "no_rope_layers"),
        ("lfm2", {"full_attn_idxs": [4]}, "full_attn_idxs"),
        ("lfm2", {"full_attn_idxs": []}, "full_attn_idxs"),
        ("lfm2", {"layer_types": ["conv"] * 4}, "layer_types"),
        ("lfm2", {"full_attn_idxs": [True]}, "full_attn_idxs"),
        ("lfm2", {"conv_L_cache": 0}, "conv_L_cache"),
        ("lfm2", {"conv_bias": 1}, "conv_bias"),
        ("qwen3_moe", {"num_experts_per_tok": 129}, "num_experts_per_tok"),
        ("qwen3_moe", {"mlp_only_layers": [9]}, "mlp_only_layers"),
        ("mixtral", {"num_local_experts": 0}, "num_local_experts"),
        ("phi3", longrope(short_factor=[1.0]), "short_factor"),
        ("phi3", longrope(long_factor=REMOVED), "long_factor"),
        ("phi3", longrope(long_factor=[0.0] * 8), r"long_factor\[0\]"),
        ("phi3", longrope(long_factor=[1.0] * 7 + [1e-300]), r"long_factor\[7\]"),
        ("phi3", longrope(attention_factor=1e39), "attention_factor"),
        ("hunyuan_v1_dense", {"rope_scaling": {"type": "dynamic", "alpha": 0}}, "alpha"),
    ],
)
def test_nonsense_is_refused_by_key(tmp_path: Path, model_type: str, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"config\.json: \S*{key} is "):
        read(tmp_path, model_type, **{**BIG_VOCABULARY, **changes})


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("llama", "final_logit_softcapping", 30.0),
        ("qwen3", "num_experts", 8),
        ("mixtral", "attn_logit_softcapping", 50.0),
        ("olmo2", "clip_qkv", 8.0),
        ("gemma2", "embedding_multiplier", 12.0),
        ("gemma3_text", "use_bidirectional_attention", True),
        ("phi3", "residual_multiplier", 0.2),
        ("granite", "num_local_experts", 40),
        ("lfm2", "num_experts", 32),
        ("smollm3", "logits_scaling", 8.0),
        ("ministral", "no_rope_layers", [1, 0, 1, 1]),
        ("hunyuan_v1_dense", "vision_config", {"depth": 1}),
        ("gemma2", "hidden_activation", "relu"),
        ("qwen3_moe", "hidden_act", "gelu"),
        ("mistral", "attention_bias", True),
        ("phi3", "attention_bias", True),
        ("qwen3", "mlp_bias", True),
        ("granite", "use_qk_norm", True),
    ],
)
def test_a_feature_of_another_family_is_refused_by_name(
    tmp_path: Path, model_type: str, key: str, value: object
) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"{key} .* is not supported"):
        read(tmp_path, model_type, **{**BIG_VOCABULARY, key: value})


@pytest.mark.parametrize("model_type", ["qwen3", "qwen3_moe"])
def test_files_of_qwen3_may_say_that_heads_have_norms(tmp_path: Path, model_type: str) -> None:
    assert read(tmp_path, model_type, use_qk_norm=True) == read(tmp_path, model_type)


def test_a_kind_of_layer_that_the_family_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match='layer_types holds "conv"'):
        read(tmp_path, "qwen3", layer_types=["conv", *["full_attention"] * 3])
    with pytest.raises(UnsupportedModelError, match='layer_types holds "sliding_attention"'):
        read(tmp_path, "lfm2", sliding_window=8, layer_types=["sliding_attention", *["conv"] * 3])


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["x\n" * 2**16, *["full_attention"] * 3]},
        {"rope_scaling": {"type": "x\n" * 2**16}},
        {"rope_parameters": {"x\n" * 2**16: {}}},
        {"dtype": "x\n" * 2**16},
        {"model_type": "x\n" * 2**16},
        {"architectures": ["x\n" * 2**16]},
    ],
)
def test_whatever_a_file_says_the_error_is_one_short_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    write(tmp_path, settings(**changes))
    with pytest.raises(UnsupportedModelError) as caught:
        ModelConfig.from_hf(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).removeprefix(str(tmp_path))) < 512


def test_the_smallest_size_of_a_block_is_one_multiple(tmp_path: Path) -> None:
    assert read(tmp_path, "lfm2", intermediate_size=1, block_multiple_of=8).intermediate_size == 8


def test_all_refusals_are_told_at_once_and_the_first_one_is_raised(tmp_path: Path) -> None:
    write(
        tmp_path, settings(architectures=["LlamaForSequenceClassification"], clip_qkv=8.0, vision_config={"depth": 1})
    )
    told = [str(refusal) for refusal in refusals(Settings.of_file(tmp_path / "config.json"))]
    assert [key for line in told for key in ("architectures", "clip_qkv", "vision_config") if key in line] == [
        "architectures",
        "clip_qkv",
        "vision_config",
    ]
    with pytest.raises(UnsupportedModelError, match="architectures"):
        ModelConfig.from_hf(tmp_path)


def test_families_without_factors_have_none(tmp_path: Path) -> None:
    scaled = {"granite", "gemma2", "gemma3_text"}
    for model_type in FAMILIES.keys() - scaled:
        assert read(tmp_path, model_type, **BIG_VOCABULARY).scaling == NO_SCALING
