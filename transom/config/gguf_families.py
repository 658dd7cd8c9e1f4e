"""What the metadata of each GGUF architecture leaves unsaid, and what it says that others do not.

A family is one row of `GGUF_FAMILIES`. What is fixed here is fixed in llama.cpp's source, too: no key says it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from transom.config.family_features import Features
from transom.config.features import Experts, Scaling, ShortConvolution
from transom.config.gguf_model import GgufModel
from transom.config.model_families import WindowRule
from transom.config.settings import Settings, shown
from transom.errors import UnsupportedModelError

__all__ = ["GGUF_FAMILIES", "GgufFamily", "gguf_family_of"]

_MAX_EXPERTS = 65_536
_MAX_SIZE = 2**24

ReadFeatures = Callable[[GgufModel, Settings, int], Features]
"""Of a file, the keys of its architecture, and its number of layers."""


def _no_features(_model: GgufModel, _settings: Settings, _num_layers: int) -> Features:
    return Features()


def _mixtral(_model: GgufModel, settings: Settings, num_layers: int) -> Features:
    """Experts in every layer, as large as the feed-forward block of others."""
    return _experts(settings, num_layers, settings.integer("feed_forward_length", low=1, high=_MAX_SIZE))


def _qwen3_moe(_model: GgufModel, settings: Settings, num_layers: int) -> Features:
    """Many small experts in every layer."""
    used = settings.integer("expert_used_count", low=1, high=_MAX_EXPERTS)
    default = settings.integer("feed_forward_length", low=1, high=_MAX_SIZE) // used
    size = settings.integer("expert_feed_forward_length", default, low=1, high=_MAX_SIZE)
    return _experts(settings, num_layers, size)


def _experts(settings: Settings, num_layers: int, size: int) -> Features:
    """The chosen experts' shares always sum to 1: the files have no key for it."""
    num_experts = settings.integer("expert_count", low=1, high=_MAX_EXPERTS)
    return Features(
        experts=Experts(
            num_experts=num_experts,
            num_experts_per_tok=settings.integer("expert_used_count", low=1, high=num_experts),
            moe_intermediate_size=size,
            norm_topk_prob=True,
            layers=tuple(range(num_layers)),
        )
    )


def _lfm2(model: GgufModel, settings: Settings, num_layers: int) -> Features:
    """Short convolutions in the layers without key-value heads."""
    heads = settings.get("attention.head_count_kv")
    if not isinstance(heads, list) or len(heads) != num_layers:
        raise settings.error("attention.head_count_kv", heads, f"must be a list of {num_layers} numbers, one per layer")
    attention = tuple(index for index in range(num_layers) if heads[index] != 0)
    if not attention:
        raise settings.error("attention.head_count_kv", heads, "must leave at least one layer with attention")
    first = next((index for index in range(num_layers) if index not in attention), None)
    return Features(
        short_conv=ShortConvolution(
            conv_L_cache=settings.integer("shortconv.l_cache", low=1, high=1024),
            conv_bias=f"blk.{first}.shortconv.conv.bias" in model.shapes,
        ),
        attention_layers=attention,
    )


def _smollm3(_model: GgufModel, _settings: Settings, num_layers: int) -> Features:
    """Every fourth layer knows no positions."""
    return Features(nope_layers=tuple(range(3, num_layers, 4)))


def _granite(_model: GgufModel, settings: Settings, _num_layers: int) -> Features:
    """Four factors; 0 stands for none."""
    return Features(
        Scaling(
            embedding_multiplier=_factor(settings, "embedding_scale") or 1.0,
            residual_multiplier=_factor(settings, "residual_scale") or 1.0,
            attention_multiplier=_factor(settings, "attention.scale"),
            logits_scaling=_factor(settings, "logit_scale") or 1.0,
        )
    )


def _factor(settings: Settings, key: str) -> float | None:
    return None if settings.get(key) in (None, 0.0) else settings.factor(key)


def _gemma2(_model: GgufModel, settings: Settings, num_layers: int) -> Features:
    """The largest model, known by its number of layers, scales scores by another size than that of its heads."""
    scaling = _gemma(settings, is_largest=num_layers == 46)
    return Features(
        replace(
            scaling,
            attn_logit_softcapping=settings.factor("attn_logit_softcapping", 50.0),
            final_logit_softcapping=settings.factor("final_logit_softcapping", 30.0),
        )
    )


def _gemma3(_model: GgufModel, settings: Settings, num_layers: int) -> Features:
    """As Gemma 2; a cap only where the file has one."""
    scaling = _gemma(settings, is_largest=num_layers == 62)
    return Features(replace(scaling, final_logit_softcapping=_factor(settings, "final_logit_softcapping")))


def _gemma(settings: Settings, *, is_largest: bool) -> Scaling:
    hidden_size = settings.integer("embedding_length", low=1, high=_MAX_SIZE)
    num_heads = settings.integer("attention.head_count", low=1, high=_MAX_SIZE)
    own_size = hidden_size // num_heads
    head_dim = settings.integer("attention.key_length", max(own_size, 1), low=1, high=_MAX_SIZE)
    size = own_size if is_largest and own_size else head_dim
    return Scaling(embedding_multiplier=hidden_size**0.5, attention_multiplier=size**-0.5)


@dataclass(frozen=True, slots=True)
class GgufFamily:
    """One `general.architecture`."""

    model_type: str
    """The family of `transom.models` that computes it."""
    rotates_whole_heads: bool = False
    """The rows of query and key are permuted in the file, which makes sense for heads that are rotated whole."""
    activation: str = "silu"
    window_rule: WindowRule = WindowRule.NONE
    """Which layers slide where `attention.sliding_window` is set; with NONE the key is refused."""
    sliding_window: int | None = None
    """Where the key is absent."""
    sliding_window_pattern: int = 0
    sliding_rope_theta: float | None = None
    """The sliding layers have a rope of their own, with this base."""
    own_keys: frozenset[str] = frozenset()
    """Keys of features that most families do not have, and this one has."""
    features: ReadFeatures = _no_features


_MIXTRAL = GgufFamily(
    "mixtral",
    rotates_whole_heads=True,
    window_rule=WindowRule.ALL_LAYERS,
    own_keys=frozenset({"expert_count", "expert_used_count"}),
    features=_mixtral,
)

GGUF_FAMILIES = {
    "llama": GgufFamily("llama", rotates_whole_heads=True, window_rule=WindowRule.ALL_LAYERS),
    "qwen2": GgufFamily("qwen2", window_rule=WindowRule.ALL_LAYERS),
    "qwen3": GgufFamily("qwen3", window_rule=WindowRule.ALL_LAYERS),
    "qwen3moe": GgufFamily(
        "qwen3_moe",
        window_rule=WindowRule.ALL_LAYERS,
        own_keys=frozenset({"expert_count", "expert_used_count"}),
        features=_qwen3_moe,
    ),
    "hunyuan-dense": GgufFamily("hunyuan_v1_dense"),
    "lfm2": GgufFamily("lfm2", features=_lfm2),
    "gemma2": GgufFamily(
        "gemma2",
        activation="gelu_pytorch_tanh",
        window_rule=WindowRule.PATTERN,
        sliding_window=4096,
        sliding_window_pattern=2,
        own_keys=frozenset({"attn_logit_softcapping", "final_logit_softcapping"}),
        features=_gemma2,
    ),
    "gemma3": GgufFamily(
        "gemma3_text",
        activation="gelu_pytorch_tanh",
        window_rule=WindowRule.PATTERN,
        sliding_window_pattern=6,
        sliding_rope_theta=10_000.0,
        own_keys=frozenset({"attention.sliding_window_pattern", "final_logit_softcapping", "rope.freq_base_swa"}),
        features=_gemma3,
    ),
    "phi3": GgufFamily("phi3", window_rule=WindowRule.ALL_LAYERS),
    "smollm3": GgufFamily("smollm3", rotates_whole_heads=True, features=_smollm3),
    "granite": GgufFamily(
        "granite",
        rotates_whole_heads=True,
        own_keys=frozenset({"attention.scale", "embedding_scale", "logit_scale", "residual_scale"}),
        features=_granite,
    ),
    "olmo2": GgufFamily("olmo2"),
}

# Keys of an architecture that change what a model computes and that a family does not know, with their neutral values.
_NEUTRAL: tuple[object, ...] = (None, False, 0, 0.0)
_NEUTRAL_FACTOR = (*_NEUTRAL, 1)
_FOREIGN_FEATURES = {
    "attention.causal": ("attention to later tokens", (None, True)),
    "attention.clamp_kqv": ("clipped attention inputs", _NEUTRAL),
    "attention.group_norm_epsilon": ("group norms", _NEUTRAL),
    "attention.kv_lora_rank": ("multi-head latent attention", _NEUTRAL),
    "attention.layer_norm_epsilon": ("layer norms", _NEUTRAL),
    "attention.max_alibi_bias": ("linear attention biases", _NEUTRAL),
    "attention.q_lora_rank": ("multi-head latent attention", _NEUTRAL),
    "attention.scale": ("scaled attention", _NEUTRAL),
    "attention.shared_kv_layers": ("layers that share keys and values", _NEUTRAL),
    "attention.sliding_window_pattern": ("layers of different attention windows", _NEUTRAL),
    "attention.temperature_length": ("attention temperature", _NEUTRAL),
    "attention.temperature_scale": ("attention temperature", _NEUTRAL),
    "attn_logit_softcapping": ("soft-capped attention scores", _NEUTRAL),
    "embedding_length_out": ("embedding models", _NEUTRAL),
    "embedding_scale": ("scaled embeddings", _NEUTRAL_FACTOR),
    "expert_count": ("mixture of experts", _NEUTRAL_FACTOR),
    "expert_gating_func": ("experts not chosen by a softmax", _NEUTRAL_FACTOR),
    "expert_group_count": ("experts in groups", _NEUTRAL_FACTOR),
    "expert_shared_count": ("experts that see every token", _NEUTRAL),
    "expert_used_count": ("mixture of experts", _NEUTRAL_FACTOR),
    "expert_weights_norm": ("experts whose shares do not sum to 1", (None, True)),
    "expert_weights_scale": ("scaled shares of experts", _NEUTRAL_FACTOR),
    "final_logit_softcapping": ("soft-capped logits", _NEUTRAL),
    "logit_scale": ("scaled logits", _NEUTRAL_FACTOR),
    "nextn_predict_layers": ("layers that predict further tokens", _NEUTRAL),
    "residual_scale": ("scaled residuals", _NEUTRAL_FACTOR),
    "rope.dimension_sections": ("rotary positions in sections", _NEUTRAL),
    "rope.scaling.alpha": ("a base stretched while the model is loaded", _NEUTRAL_FACTOR),
    "rope.freq_base_swa": ("a rope of its own per layer kind", _NEUTRAL),
    "ssm.state_size": ("state space layers", _NEUTRAL),
    "use_parallel_residual": ("parallel residuals", _NEUTRAL),
}


def gguf_family_of(model: GgufModel) -> GgufFamily:
    """The family of a file. Raises UnsupportedModelError naming what is not implemented."""
    name = model.general.text("general.architecture")
    if name not in GGUF_FAMILIES:
        known = ", ".join(sorted(GGUF_FAMILIES))
        raise UnsupportedModelError(
            f"{model.source}: general.architecture {name[:64]!r} is not supported; supported: {known}"
        )
    settings = model.architecture
    has_experts = settings.get("expert_count") not in _NEUTRAL
    family = _MIXTRAL if name == "llama" and has_experts else GGUF_FAMILIES[name]
    _refuse_foreign_features(settings, family)
    return family


def _refuse_foreign_features(settings: Settings, family: GgufFamily) -> None:
    for key, (feature, neutral) in _FOREIGN_FEATURES.items():
        if key not in family.own_keys and settings.get(key) not in neutral:
            raise _unsupported(settings, key, feature)
    if family.window_rule is WindowRule.NONE and settings.get("attention.sliding_window") not in _NEUTRAL:
        raise _unsupported(settings, "attention.sliding_window", "attention windows in this architecture")
    if family.model_type == "granite" and settings.get("rope.scaling.finetuned") is False:
        raise _unsupported(settings, "rope.scaling.finetuned", "a model without positions")


def _unsupported(settings: Settings, key: str, feature: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{settings.source}: {settings.prefix}{key} {shown(settings.get(key))} is not supported ({feature})"
    )
