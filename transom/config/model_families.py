"""What a `config.json` leaves unsaid: the defaults of each `model_type`, and the features none of them has.

Defaults are those of transformers 5.24's configuration classes. Which architecture computes a family is a table of
`transom.models`; a family needs a line in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto

from transom.config.family_features import (
    Features,
    gemma2_features,
    gemma3_features,
    granite_features,
    lfm2_features,
    mixtral_features,
    no_features,
    qwen3_moe_features,
    smollm3_features,
)
from transom.config.settings import Settings, shown
from transom.errors import UnsupportedModelError

__all__ = ["FAMILIES", "Family", "WindowRule", "family_of", "refusals"]


class WindowRule(Enum):
    """Which layers slide when `layer_types` does not say it."""

    NONE = auto()
    """No layer does; a `sliding_window` without `layer_types` has no effect."""
    ALL_LAYERS = auto()
    """Every layer, unless `sliding_window` is null."""
    UPPER_LAYERS = auto()
    """Layers `max_window_layers` and above."""
    PATTERN = auto()
    """All but every `sliding_window_pattern`-th layer."""
    NOPE_LAYERS = auto()
    """The layers without rotary positions."""


@dataclass(frozen=True, slots=True)
class Family:
    """Defaults for keys that are absent. A bias of None is decided by the file (`attention_bias`, `mlp_bias`)."""

    architecture: str
    num_key_value_heads: int | None = None  # None = as many as attention heads
    head_dim: int | None = None  # None = hidden_size / num_attention_heads
    window_rule: WindowRule = WindowRule.NONE
    has_window_switch: bool = False
    """`sliding_window` counts only where `use_sliding_window` is true."""
    sliding_window: int | None = None
    sliding_window_pattern: int = 0
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    attention_bias: bool | None = False
    attention_output_bias: bool | None = False
    mlp_bias: bool | None = False
    activation_key: str = "hidden_act"
    activation: str = "silu"
    rms_norm_eps_key: str = "rms_norm_eps"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    sliding_rope_theta: float | None = None
    """The sliding layers have a rope of their own, with this base."""
    tie_word_embeddings: bool = False
    own_keys: frozenset[str] = frozenset()
    """Keys of features that most families do not have, and this one has."""
    rotates_part_of_heads: bool = False
    """`partial_rotary_factor` counts."""
    features: Callable[[Settings, int], Features] = no_features


_MISTRAL = Family(
    "MistralForCausalLM",
    num_key_value_heads=8,
    window_rule=WindowRule.ALL_LAYERS,
    sliding_window=4096,
    bos_token_id=1,
    eos_token_id=2,
)

FAMILIES = {
    "llama": Family(
        "LlamaForCausalLM",
        bos_token_id=1,
        eos_token_id=2,
        attention_bias=None,
        attention_output_bias=None,
        mlp_bias=None,
    ),
    "mistral": _MISTRAL,
    "ministral": replace(_MISTRAL, architecture="MinistralForCausalLM"),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        num_key_value_heads=32,
        window_rule=WindowRule.UPPER_LAYERS,
        has_window_switch=True,
        sliding_window=4096,
        attention_bias=True,
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        num_key_value_heads=32,
        head_dim=128,
        window_rule=WindowRule.UPPER_LAYERS,
        has_window_switch=True,
        sliding_window=4096,
        attention_bias=None,
        attention_output_bias=None,
        own_keys=frozenset({"use_qk_norm"}),
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        num_key_value_heads=4,
        window_rule=WindowRule.ALL_LAYERS,
        has_window_switch=True,
        sliding_window=4096,
        attention_bias=None,
        attention_output_bias=None,
        own_keys=frozenset({"num_experts", "num_local_experts", "moe_intermediate_size", "use_qk_norm"}),
        features=qwen3_moe_features,
    ),
    "mixtral": Family(
        "MixtralForCausalLM",
        num_key_value_heads=8,
        window_rule=WindowRule.ALL_LAYERS,
        bos_token_id=1,
        eos_token_id=2,
        rms_norm_eps=1e-5,
        rope_theta=1_000_000.0,
        own_keys=frozenset({"num_local_experts", "num_experts"}),
        features=mixtral_features,
    ),
    "hunyuan_v1_dense": Family(
        "HunYuanDenseV1ForCausalLM",
        bos_token_id=1,
        eos_token_id=2,
        attention_bias=None,
        attention_output_bias=None,
        rms_norm_eps=1e-5,
        own_keys=frozenset({"use_qk_norm"}),
    ),
    "lfm2": Family(
        "Lfm2ForCausalLM",
        num_key_value_heads=8,
        bos_token_id=1,
        eos_token_id=2,
        rms_norm_eps_key="norm_eps",
        rms_norm_eps=1e-5,
        rope_theta=1_000_000.0,
        tie_word_embeddings=True,
        features=lfm2_features,
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        num_key_value_heads=4,
        head_dim=256,
        window_rule=WindowRule.PATTERN,
        sliding_window=4096,
        sliding_window_pattern=2,
        bos_token_id=2,
        eos_token_id=1,
        attention_bias=None,
        attention_output_bias=None,
        activation_key="hidden_activation",
        activation="gelu_pytorch_tanh",
        tie_word_embeddings=True,
        own_keys=frozenset({"attn_logit_softcapping", "final_logit_softcapping"}),
        features=gemma2_features,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        num_key_value_heads=4,
        head_dim=256,
        window_rule=WindowRule.PATTERN,
        sliding_window=4096,
        sliding_window_pattern=6,
        bos_token_id=2,
        eos_token_id=1,
        attention_bias=None,
        attention_output_bias=None,
        activation_key="hidden_activation",
        activation="gelu_pytorch_tanh",
        rope_theta=1_000_000.0,
        sliding_rope_theta=10_000.0,
        tie_word_embeddings=True,
        own_keys=frozenset({"attn_logit_softcapping", "final_logit_softcapping"}),
        features=gemma3_features,
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        window_rule=WindowRule.ALL_LAYERS,
        bos_token_id=1,
        eos_token_id=32000,
        rms_norm_eps=1e-5,
        rotates_part_of_heads=True,
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        num_key_value_heads=4,
        window_rule=WindowRule.NOPE_LAYERS,
        has_window_switch=True,
        bos_token_id=128000,
        eos_token_id=128001,
        attention_bias=None,
        attention_output_bias=None,
        mlp_bias=None,
        rope_theta=2_000_000.0,
        tie_word_embeddings=True,
        own_keys=frozenset({"no_rope_layers"}),
        features=smollm3_features,
    ),
    "granite": Family(
        "GraniteForCausalLM",
        bos_token_id=1,
        eos_token_id=2,
        attention_bias=None,
        attention_output_bias=None,
        mlp_bias=None,
        own_keys=frozenset({"attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier"}),
        features=granite_features,
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        eos_token_id=50279,
        attention_bias=None,
        attention_output_bias=None,
        rms_norm_eps=1e-5,
    ),
}

# Keys that change what a model computes and that no family above knows: anything but these neutral values is refused.
_NEUTRAL: tuple[object, ...] = (None, False, 0, 0.0, [], {})
_NEUTRAL_FACTOR = (*_NEUTRAL, 1)
_ACTIVATION_NAMES = {"silu": ("silu", "swish"), "gelu_pytorch_tanh": ("gelu_pytorch_tanh", "gelu_tanh")}
_FOREIGN_FEATURES = {
    "attn_logit_softcapping": ("soft-capped attention scores", _NEUTRAL),
    "attention_multiplier": ("scaled attention", _NEUTRAL),
    "clip_qkv": ("clipped attention inputs", _NEUTRAL),
    "compression_config": ("quantized weights", _NEUTRAL),
    "embedding_multiplier": ("scaled embeddings", _NEUTRAL_FACTOR),
    "final_logit_softcapping": ("soft-capped logits", _NEUTRAL),
    "is_encoder_decoder": ("encoder-decoder models", _NEUTRAL),
    "kv_lora_rank": ("multi-head latent attention", _NEUTRAL),
    "logits_scaling": ("scaled logits", _NEUTRAL_FACTOR),
    "moe_intermediate_size": ("mixture of experts", _NEUTRAL),
    "n_routed_experts": ("mixture of experts", _NEUTRAL),
    "no_rope_layers": ("layers without rotary positions", _NEUTRAL),
    "num_experts": ("mixture of experts", _NEUTRAL_FACTOR),
    "num_local_experts": ("mixture of experts", _NEUTRAL_FACTOR),
    "per_layer_config": ("layers of different shape", _NEUTRAL),
    "quantization_config": ("quantized weights", _NEUTRAL),
    "qk_layernorm": ("normalised queries and keys", _NEUTRAL),
    "residual_multiplier": ("scaled residuals", _NEUTRAL_FACTOR),
    "text_config": ("multimodal models", _NEUTRAL),
    "use_bidirectional_attention": ("attention to later tokens", _NEUTRAL),
    "use_qk_norm": ("normalised queries and keys", _NEUTRAL),
    "vision_config": ("multimodal models", _NEUTRAL),
}


def family_of(settings: Settings) -> Family:
    """The family of a `config.json`. Raises UnsupportedModelError naming what is not implemented."""
    model_type = settings.text("model_type")
    family = FAMILIES.get(model_type)
    if family is None:
        multimodal = "no multimodal models; " if settings.has("text_config") else ""
        raise _unsupported(settings, "model_type", f"{multimodal}supported: {', '.join(sorted(FAMILIES))}")
    for refusal in _refusals(settings, family):
        raise refusal
    return family


def refusals(settings: Settings) -> list[UnsupportedModelError]:
    """Everything by which `family_of` refuses a `config.json`, not just the first of it. ConfigError as there."""
    family = FAMILIES.get(settings.text("model_type"))
    return [] if family is None else list(_refusals(settings, family))


def _refusals(settings: Settings, family: Family) -> Iterator[UnsupportedModelError]:
    yield from _other_heads(settings, family)
    yield from _other_code(settings, family)
    for key, (feature, neutral) in _FOREIGN_FEATURES.items():
        if key not in family.own_keys and settings.get(key) not in neutral:
            yield _unsupported(settings, key, f"{feature} in a {settings.text('model_type')} model")
    for key, bias in (("attention_bias", family.attention_bias), ("mlp_bias", family.mlp_bias)):
        if bias is False and settings.get(key) is True:
            yield _unsupported(settings, key, f"biases in a {settings.text('model_type')} model")
    yield from _other_activations(settings, family)


def _other_activations(settings: Settings, family: Family) -> Iterator[UnsupportedModelError]:
    """Gemma's files name the activation twice; the newer key counts, the older is there for older programs."""
    names = _ACTIVATION_NAMES[family.activation]
    if settings.has(family.activation_key) and settings.text(family.activation_key) not in names:
        yield _unsupported(settings, family.activation_key, f"supported: {family.activation}")


def _other_heads(settings: Settings, family: Family) -> Iterator[UnsupportedModelError]:
    """A classifier or a bare encoder of the same family has no language model head to generate with."""
    architectures = settings.strings("architectures")
    if architectures and family.architecture.lower() not in (name.lower() for name in architectures):
        yield _unsupported(settings, "architectures", f"supported: {family.architecture}")


def _other_code(settings: Settings, family: Family) -> Iterator[UnsupportedModelError]:
    """Code inside the model's directory is never run. Files of Phi-3 name some, of the class that is built in here."""
    auto_map = settings.get("auto_map")
    name = auto_map.get("AutoModelForCausalLM", family.architecture) if isinstance(auto_map, dict) else auto_map
    if name is not None and str(name).rpartition(".")[2] != family.architecture:
        yield _unsupported(settings, "auto_map", "code inside the model's directory is never run")


def _unsupported(settings: Settings, key: str, detail: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{settings.source}: {key} {shown(settings.get(key))} is not supported ({detail})")
