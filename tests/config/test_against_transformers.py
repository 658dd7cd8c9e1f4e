"""Every default of `config.json` as transformers resolves it, over random choices of present and absent keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.config.directories import settings, write
from transom.config.model_config import LayerKind, ModelConfig

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


@given(
    st.sampled_from(["llama", "mistral", "qwen2"]),
    st.fixed_dictionaries({}, optional=_KEYS),
)
@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150, deadline=None
)
def test_every_default_is_that_of_transformers(tmp_path: Path, model_type: str, changes: dict[str, Any]) -> None:
    from transformers import AutoConfig

    base = settings(model_type=model_type, num_attention_heads=32, hidden_size=256)
    if "num_key_value_heads" not in changes:
        del base["num_key_value_heads"]
    directory = write(tmp_path, {**base, **changes})
    # transformers 5 refuses null here, as earlier versions did not; files with it exist
    assume(model_type != "mistral" or changes.get("num_key_value_heads", 8) is not None)
    ours, theirs = ModelConfig.from_hf(directory), AutoConfig.from_pretrained(directory)
    _compare(ours, theirs)
    _compare_rope(ours, dict(theirs.rope_parameters))


def _compare(ours: ModelConfig, theirs: Any) -> None:
    for name in ("num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "bos_token_id", "pad_token_id"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    end = theirs.eos_token_id
    assert ours.eos_token_ids == tuple(end if isinstance(end, list) else [] if end is None else [end])
    assert [str(kind) for kind in ours.layer_types] == _layer_types(theirs)
    if LayerKind.SLIDING_ATTENTION in ours.layer_types:
        assert ours.sliding_window == theirs.sliding_window
    if theirs.model_type == "llama":
        assert (ours.attention_bias, ours.attention_output_bias) == (theirs.attention_bias,) * 2
        assert ours.mlp_bias == theirs.mlp_bias


def _layer_types(theirs: Any) -> list[str]:
    """Mistral's model masks every layer alike and writes no `layer_types`."""
    if theirs.model_type == "mistral":
        kind = "full_attention" if theirs.sliding_window is None else "sliding_attention"
        return [kind] * theirs.num_hidden_layers
    return list(getattr(theirs, "layer_types", None) or ["full_attention"] * theirs.num_hidden_layers)


def _compare_rope(ours: ModelConfig, theirs: dict[str, Any]) -> None:
    defaults = {"factor": 1.0, "truncate": True, "beta_fast": 32.0, "beta_slow": 1.0}
    only_yarn = ("beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim", "attention_factor")
    assert (ours.rope.rope_type, ours.rope.rope_theta) == (theirs["rope_type"], theirs["rope_theta"])
    if ours.rope.rope_type in ("llama3", "yarn"):
        assert ours.rope.original_max_position_embeddings == theirs["original_max_position_embeddings"]
    if ours.rope.rope_type != "default":
        assert ours.rope.factor == theirs["factor"]
    if ours.rope.rope_type == "llama3":
        for name in ("low_freq_factor", "high_freq_factor"):
            assert getattr(ours.rope, name) == theirs[name]
    if ours.rope.rope_type == "yarn":
        for name in only_yarn:
            assert getattr(ours.rope, name) == theirs.get(name, defaults.get(name)), name
