"""What single architectures add to the metadata of a GGUF file, and what of it is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.config.test_gguf_config import SHAPES, described, refused
from transom.config.features import Experts, Scaling, ShortConvolution
from transom.config.gguf_config import gguf_model_config
from transom.config.gguf_model import GgufModel
from transom.config.model_config import LayerKind, ModelConfig
from transom.config.rope_config import RopeConfig
from transom.errors import ConfigError, UnsupportedModelError

SHORT, LONG = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)


def f32(value: float) -> float:
    return float(np.float32(value))


def of_architecture(name: str, changes: dict[str, Any], **more: Any) -> GgufModel:
    """The file of `test_gguf_config` under another architecture's keys."""
    model = described(changes, **more)
    own = {key.replace("llama.", f"{name}.", 1): value for key, value in model.metadata.items()}
    factors = (model.rope_factors, model.long_rope_factors, model.short_rope_factors)
    return GgufModel(model.source, {**own, "general.architecture": name}, model.shapes, model.file_type, *factors)


def read(name: str, changes: dict[str, Any] | None = None, **more: Any) -> ModelConfig:
    return gguf_model_config(of_architecture(name, changes or {}, **more))


def refuses(name: str, changes: dict[str, Any], match: str, **more: Any) -> None:
    with pytest.raises(ConfigError, match=match):
        read(name, changes, **more)


def test_llama_with_experts_is_mixtral() -> None:
    config = read("llama", {"expert_count": 8, "expert_used_count": 2, "attention.sliding_window": 100})
    assert config.model_type == "mixtral"
    assert config.experts == Experts(8, 2, 128, norm_topk_prob=True, layers=(0, 1))
    assert config.sliding_window == 100
    refused({"expert_count": 8}, "llama.expert_used_count is missing")
    refused({"expert_count": 8, "expert_used_count": 9}, "expert_used_count", "from 1 to 8")
    for key, value in {"expert_gating_func": 2, "expert_weights_scale": 2.5, "expert_weights_norm": False}.items():
        refused({"expert_count": 8, "expert_used_count": 2, key: value}, key, error=UnsupportedModelError)


def test_qwen3_moe_has_small_experts_in_every_layer() -> None:
    keys = {"expert_count": 6, "expert_used_count": 4}
    assert read("qwen3moe", {**keys, "expert_feed_forward_length": 24}).experts == Experts(6, 4, 24, True, (0, 1))
    assert read("qwen3moe", keys).experts == Experts(6, 4, 32, True, (0, 1))
    refuses("qwen3moe", {}, r"qwen3moe\.expert_used_count is missing")


def test_layers_of_lfm2_without_key_value_heads_are_convolutions() -> None:
    keys = {"attention.head_count_kv": np.array([0, 2], np.int32), "shortconv.l_cache": 4}
    config = read("lfm2", keys)
    assert config.layer_types == (LayerKind.SHORT_CONV, LayerKind.FULL_ATTENTION)
    assert (config.num_key_value_heads, config.short_conv) == (2, ShortConvolution(4, conv_bias=False))
    biased = read("lfm2", keys, shapes={**SHAPES, "blk.0.shortconv.conv.bias": (64,)})
    assert biased.short_conv == ShortConvolution(4, conv_bias=True)
    assert read("lfm2", {**keys, "attention.head_count_kv": np.array([2, 2])}).short_conv is None
    refuses("lfm2", {"shortconv.l_cache": 4}, r"lfm2\.attention\.head_count_kv is null, must be a list of 2")
    refuses(
        "lfm2", {**keys, "attention.head_count_kv": np.array([0, 0])}, "must leave at least one layer with attention"
    )
    refuses("lfm2", {**keys, "attention.head_count_kv": np.array([0, 3])}, "must divide")
    refuses("lfm2", {"attention.head_count_kv": np.array([0, 2])}, r"shortconv\.l_cache is missing")


def test_every_second_layer_of_gemma_2_slides() -> None:
    config = read("gemma2", {"attention.key_length": 16, "final_logit_softcapping": 20.0})
    assert config.layer_types == (LayerKind.SLIDING_ATTENTION, LayerKind.FULL_ATTENTION)
    assert (config.sliding_window, config.hidden_act) == (4096, "gelu_pytorch_tanh")
    assert config.scaling == Scaling(
        embedding_multiplier=8.0,
        attention_multiplier=0.25,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=20.0,
    )


@pytest.mark.parametrize(("architecture", "num_layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemmas_scale_scores_by_a_size_of_their_own(architecture: str, num_layers: int) -> None:
    keys = {"attention.key_length": 32, "attention.sliding_window": 8}
    assert read(architecture, keys).scaling.attention_multiplier == 32**-0.5
    largest = read(architecture, {**keys, "block_count": num_layers})
    assert largest.scaling.attention_multiplier == 16**-0.5


def test_sliding_layers_of_gemma_3_have_a_rope_of_their_own() -> None:
    keys = {"block_count": 7, "attention.sliding_window": 512, "rope.freq_base": 1e6}
    config = read("gemma3", {**keys, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0})
    full = LayerKind.FULL_ATTENTION
    assert [index for index, kind in enumerate(config.layer_types) if kind is full] == [5]
    assert config.rope == RopeConfig("linear", 1e6, 16, factor=8.0)
    assert config.sliding_rope == RopeConfig("default", 10_000.0, 16)
    assert config.scaling.final_logit_softcapping is None
    assert read("gemma3", {**keys, "rope.freq_base_swa": 5000.0}).sliding_rope == RopeConfig("default", 5000.0, 16)
    assert read("gemma3", {"attention.sliding_window": None}).sliding_window is None


def test_a_pattern_is_a_number_or_says_it_of_each_layer() -> None:
    keys = {"block_count": 4, "attention.sliding_window": 9}
    sliding, full = LayerKind.SLIDING_ATTENTION, LayerKind.FULL_ATTENTION
    of_each = read("gemma3", {**keys, "attention.sliding_window_pattern": np.array([True, True, False, True])})
    assert of_each.layer_types == (sliding, sliding, full, sliding)
    assert read("gemma3", {**keys, "attention.sliding_window_pattern": 3}).layer_types == of_each.layer_types
    refuses("gemma3", {**keys, "attention.sliding_window_pattern": np.array([True])}, "one value for each of the 4")
    refuses("gemma3", {**keys, "attention.sliding_window_pattern": 0}, "sliding_window_pattern is 0")


def test_factors_of_granite_are_read_and_0_means_none() -> None:
    keys = {"attention.scale": f32(0.015625), "embedding_scale": 12.0, "residual_scale": f32(0.22), "logit_scale": 8.0}
    assert read("granite", keys).scaling == Scaling(12.0, 0.22, 0.015625, logits_scaling=8.0)
    assert read("granite", dict.fromkeys(keys, 0.0)).scaling == Scaling()
    refuses("granite", {"rope.scaling.finetuned": False}, "a model without positions")


def test_every_fourth_layer_of_smollm3_knows_no_positions() -> None:
    assert read("smollm3", {"block_count": 9}).nope_layers == (3, 7)


@pytest.mark.parametrize("architecture", ["granite", "hunyuan-dense", "lfm2", "olmo2", "smollm3"])
def test_windows_are_refused_where_the_architecture_has_none(architecture: str) -> None:
    refuses(architecture, {"attention.sliding_window": 100}, r"sliding_window 100 is not supported \(attention windows")


def longrope(**changes: Any) -> RopeConfig:
    factor = math.sqrt(1 + math.log(4096 / 512) / math.log(512))
    keys = {"rope.scaling.original_context_length": 512, "rope.scaling.attn_factor": f32(factor), **changes}
    factors = {"long_rope_factors": LONG, "short_rope_factors": tuple(map(f32, SHORT))}
    return read("phi3", keys, **factors).rope


def test_longrope_is_read_from_tensors() -> None:
    assert longrope() == RopeConfig(
        "longrope",
        10_000.0,
        16,
        factor=8.0,
        original_max_position_embeddings=512,
        attention_factor=math.sqrt(1 + math.log(4096 / 512) / math.log(512)),
        short_factor=SHORT,
        long_factor=LONG,
    )
    assert longrope(**{"rope.scaling.attn_factor": 1.5}).attention_factor == 1.5
    with pytest.raises(UnsupportedModelError, match=r'rope\.scaling\.type "yarn"'):
        longrope(**{"rope.scaling.type": "yarn"})
    refuses("phi3", {}, r"rope_factors_short\.weight' must be 8 numbers", long_rope_factors=LONG)
    refuses("phi3", {}, r"rope_factors_long\.weight'", long_rope_factors=LONG[1:], short_rope_factors=SHORT)
