"""Every default of `config.json` as transformers resolves it, over random choices of present and absent keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.config.directories import settings, write
from transom.config.model_config import LayerKind, ModelConfig, RopeConfig
from transom.config.model_families import FAMILIES

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

_ORIGINAL = st.fixed_dictionaries({}, optional={"original_max_position_embeddings": st.just(512)})
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_SCALINGS = [
    {"rope_type": "default"},
    {"type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
    {"rope_type": "llama3", **_LLAMA3},
    {"type": "yarn", "factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0, "mscale": 0.7, "mscale_all_dim": 0.5, "truncate": False},
]
_ROPE = st.builds(lambda scaling, original: {**scaling, **original}, st.sampled_from(_SCALINGS), _ORIGINAL)
_KEYS: dict[str, st.SearchStrategy[Any]] = {
    "num_key_value_heads": st.sampled_from([None, 1, 2, 8]),
    "head_dim": st.sampled_from([None, 8, 24]),
    "rms_norm_eps": st.sampled_from([1e-5, 1e-3]),
    "tie_word_embeddings": st.booleans(),
    "rope_theta": st.sampled_from([10_000.0, 500_000]),
    "rope_scaling": st.none() | _ROPE,
    "rope_parameters": st.none() | _ROPE,
    "attention_bias": st.booleans(),
    "mlp_bias": st.booleans(),
    "sliding_window": st.sampled_from([None, 64]),
    "use_sliding_window": st.booleans(),
    "max_window_layers": st.integers(0, 5),
    "bos_token_id": st.sampled_from([None, 3]),
    "eos_token_id": st.sampled_from([None, 4, [5, 6]]),
    "dtype": st.sampled_from(["float16", "bfloat16"]),
}
_MULTIPLIER = st.sampled_from([0.5, 3.0])
_CAP = st.sampled_from([None, 20.0])
_GEMMA = {
    "query_pre_attn_scalar": st.sampled_from([64, 100]),
    "attn_logit_softcapping": _CAP,
    "final_logit_softcapping": _CAP,
}
_OWN_KEYS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "gemma2": _GEMMA,
    "gemma3_text": {
        **_GEMMA,
        "sliding_window_pattern": st.integers(1, 5),
        "rope_local_base_freq": st.sampled_from([5_000.0]),
        # The reference takes these alone: one rope for both kinds is an error there, the older `type` is overlooked.
        "rope_scaling": st.sampled_from([None, {"rope_type": "linear", "factor": 8.0}]),
        "rope_parameters": st.none(),
    },
    "granite": {
        "embedding_multiplier": _MULTIPLIER,
        "residual_multiplier": _MULTIPLIER,
        "attention_multiplier": _MULTIPLIER,
        "logits_scaling": _MULTIPLIER,
    },
    "lfm2": {
        "full_attn_idxs": st.lists(st.integers(0, 3), min_size=1, unique=True),
        "conv_L_cache": st.integers(1, 5),
        "conv_bias": st.booleans(),
        "norm_eps": st.sampled_from([1e-3]),
    },
    "mixtral": {"num_local_experts": st.integers(2, 5), "num_experts_per_tok": st.just(2)},
    "qwen3_moe": {
        "num_experts": st.integers(8, 12),
        "num_experts_per_tok": st.integers(1, 4),
        "moe_intermediate_size": st.integers(1, 99),
        "norm_topk_prob": st.booleans(),
    },
    "smollm3": {
        "no_rope_layers": st.none() | st.lists(st.integers(0, 1), min_size=4, max_size=4),
        "no_rope_layer_interval": st.integers(1, 5),
    },
}


@pytest.fixture(scope="module")
def auto_config() -> Any:
    """Imported once, and not while an example is being timed."""
    from transformers import AutoConfig

    return AutoConfig


@pytest.mark.parametrize("model_type", FAMILIES)
@given(data=st.data())
@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60, deadline=None
)
def test_every_default_is_that_of_transformers(
    tmp_path: Path, auto_config: Any, model_type: str, data: st.DataObject
) -> None:
    from huggingface_hub.errors import StrictDataclassError

    keys = {**_KEYS, **_OWN_KEYS.get(model_type, {})}
    family = FAMILIES[model_type]
    if family.attention_bias is False:  # the reference overlooks it
        keys["attention_bias"] = st.just(False)
    if family.mlp_bias is False:
        keys["mlp_bias"] = st.just(False)
    changes = data.draw(st.fixed_dictionaries({}, optional=keys))

    base = settings(model_type=model_type, num_attention_heads=32, hidden_size=256)
    if "num_key_value_heads" not in changes:
        del base["num_key_value_heads"]
    base["vocab_size"] = 200_000
    directory = write(tmp_path, {**base, **changes})
    try:
        theirs = auto_config.from_pretrained(directory)
    except StrictDataclassError:  # some nulls, which earlier versions took and files hold
        reject()
    except KeyError:  # of Phi-3, for which yarn is an older name of longrope
        assert model_type == "phi3"
        reject()
    ours = ModelConfig.from_hf(directory)
    _compare(ours, theirs)
    _compare_features(ours, theirs)
    _compare_ropes(ours, dict(theirs.rope_parameters))


def _compare(ours: ModelConfig, theirs: Any) -> None:
    for name in ("num_key_value_heads", "tie_word_embeddings", "bos_token_id"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.rms_norm_eps == (theirs.norm_eps if theirs.model_type == "lfm2" else theirs.rms_norm_eps)
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    end = theirs.eos_token_id
    assert ours.eos_token_ids == tuple(end if isinstance(end, list) else [] if end is None else [end])
    assert [str(kind) for kind in ours.layer_types] == _layer_types(theirs)
    if LayerKind.SLIDING_ATTENTION in ours.layer_types:
        assert ours.sliding_window == theirs.sliding_window
    family = FAMILIES[theirs.model_type]
    if family.attention_bias is None:
        assert (ours.attention_bias, ours.attention_output_bias) == (theirs.attention_bias,) * 2
    if family.mlp_bias is None:
        assert ours.mlp_bias == theirs.mlp_bias


def _layer_types(theirs: Any) -> list[str]:
    """Some models mask every layer alike and write no `layer_types`."""
    if theirs.model_type in ("mistral", "mixtral", "phi3", "qwen3_moe"):
        kind = "full_attention" if theirs.sliding_window is None else "sliding_attention"
        return [kind] * theirs.num_hidden_layers
    kinds = list(getattr(theirs, "layer_types", None) or ["full_attention"] * theirs.num_hidden_layers)
    if theirs.model_type.startswith("gemma") and theirs.sliding_window is None:
        return ["full_attention"] * len(kinds)  # the reference's own model cannot mask these
    return kinds


def _compare_features(ours: ModelConfig, theirs: Any) -> None:
    scaling, experts = ours.scaling, ours.experts
    match theirs.model_type:
        case "granite":
            for name in ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"):
                assert getattr(scaling, name) == getattr(theirs, name), name
        case "gemma2" | "gemma3_text":
            assert scaling.attention_multiplier == theirs.query_pre_attn_scalar**-0.5
            assert scaling.embedding_multiplier == theirs.hidden_size**0.5
            for name in ("attn_logit_softcapping", "final_logit_softcapping"):
                assert getattr(scaling, name) == getattr(theirs, name), name
        case "smollm3":
            assert ours.nope_layers == tuple(index for index, has in enumerate(theirs.no_rope_layers) if not has)
        case "lfm2" if ours.short_conv is not None:
            assert (ours.short_conv.conv_L_cache, ours.short_conv.conv_bias) == (theirs.conv_L_cache, theirs.conv_bias)
        case "mixtral" | "qwen3_moe":
            assert experts is not None
            assert experts.num_experts == theirs.num_local_experts
            assert experts.num_experts_per_tok == theirs.num_experts_per_tok
            if theirs.model_type == "qwen3_moe":
                assert experts.moe_intermediate_size == theirs.moe_intermediate_size
                assert experts.norm_topk_prob == theirs.norm_topk_prob


def _compare_ropes(ours: ModelConfig, theirs: dict[str, Any]) -> None:
    if ours.model_type == "gemma3_text":
        assert ours.sliding_rope is not None
        _compare_rope(ours.rope, theirs["full_attention"])
        _compare_rope(ours.sliding_rope, theirs["sliding_attention"])
    else:
        _compare_rope(ours.rope, theirs)


def _compare_rope(ours: RopeConfig, theirs: dict[str, Any]) -> None:
    defaults = {"factor": 1.0, "truncate": True, "beta_fast": 32.0, "beta_slow": 1.0}
    only_yarn = ("beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim", "attention_factor")
    assert (ours.rope_type, ours.rope_theta) == (theirs["rope_type"], theirs["rope_theta"])
    if ours.rope_type in ("llama3", "yarn"):
        assert ours.original_max_position_embeddings == theirs["original_max_position_embeddings"]
    if ours.rope_type != "default":
        assert ours.factor == theirs["factor"]
    if ours.rope_type == "llama3":
        for name in ("low_freq_factor", "high_freq_factor"):
            assert getattr(ours, name) == theirs[name]
    if ours.rope_type == "yarn":
        for name in only_yarn:
            assert getattr(ours, name) == theirs.get(name, defaults.get(name)), name
