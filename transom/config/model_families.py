"""What a `config.json` leaves unsaid: the defaults of each `model_type`, and the features none of them has.

Defaults are those of transformers 5.23's configuration classes. Which architecture computes a family is a table of
`transom.models`; a family needs a line in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from transom.config.settings import Settings, shown
from transom.errors import UnsupportedModelError

__all__ = ["FAMILIES", "Family", "WindowRule", "family_of"]


class WindowRule(Enum):
    """Which layers slide when `layer_types` does not say it."""

    NONE = auto()
    """No layer does; a `sliding_window` without `layer_types` has no effect."""
    ALL_LAYERS = auto()
    """Every layer, unless `sliding_window` is null."""
    UPPER_LAYERS = auto()
    """Layers `max_window_layers` and above, if `use_sliding_window` is true."""


@dataclass(frozen=True, slots=True)
class Family:
    """Defaults for keys that are absent. A bias of None is decided by the file (`attention_bias`, `mlp_bias`)."""

    architecture: str
    num_key_value_heads: int | None  # None = as many as attention heads
    window_rule: WindowRule
    sliding_window: int | None
    bos_token_id: int | None
    eos_token_id: int | None
    attention_bias: bool | None = False
    attention_output_bias: bool | None = False
    mlp_bias: bool | None = False
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = False


FAMILIES = {
    "llama": Family(
        architecture="LlamaForCausalLM",
        num_key_value_heads=None,
        window_rule=WindowRule.NONE,
        sliding_window=None,
        bos_token_id=1,
        eos_token_id=2,
        attention_bias=None,
        attention_output_bias=None,
        mlp_bias=None,
    ),
    "mistral": Family(
        architecture="MistralForCausalLM",
        num_key_value_heads=8,
        window_rule=WindowRule.ALL_LAYERS,
        sliding_window=4096,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        num_key_value_heads=32,
        window_rule=WindowRule.UPPER_LAYERS,
        sliding_window=4096,
        bos_token_id=None,
        eos_token_id=None,
        attention_bias=True,
    ),
}

# Keys that change what a model computes and that no family above knows: anything but these neutral values is refused.
_NEUTRAL: tuple[object, ...] = (None, False, 0, 0.0, [], {})
_NEUTRAL_FACTOR = (*_NEUTRAL, 1)
_FOREIGN_FEATURES = {
    "attn_logit_softcapping": ("soft-capped attention scores", _NEUTRAL),
    "auto_map": ("code inside the model directory is never run", _NEUTRAL),
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
        raise _unsupported(settings, "model_type", f"supported: {', '.join(sorted(FAMILIES))}")
    _refuse_other_heads(settings, family)
    for key, (feature, neutral) in _FOREIGN_FEATURES.items():
        if settings.get(key) not in neutral:
            raise _unsupported(settings, key, f"{feature} in a {model_type} model")
    if settings.text("hidden_act", "silu") not in ("silu", "swish"):
        raise _unsupported(settings, "hidden_act", "supported: silu")
    return family


def _refuse_other_heads(settings: Settings, family: Family) -> None:
    """A classifier or a bare encoder of the same family has no language model head to generate with."""
    architectures = settings.strings("architectures")
    if architectures and family.architecture.lower() not in (name.lower() for name in architectures):
        raise _unsupported(settings, "architectures", f"supported: {family.architecture}")


def _unsupported(settings: Settings, key: str, detail: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{settings.source}: {key} {shown(settings.get(key))} is not supported ({detail})")
