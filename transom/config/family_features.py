"""What single families have beyond Llama, read from their keys of `config.json`; defaults are transformers'."""

from __future__ import annotations

from dataclasses import dataclass

from transom.config.features import NO_SCALING, Experts, Scaling, ShortConvolution
from transom.config.settings import Settings

_MAX_EXPERTS = 65_536
_MAX_SIZE = 2**24
_MAX_LAYERS = 4096


@dataclass(frozen=True, slots=True)
class Features:
    """Fields of `ModelConfig` that most families leave at their defaults."""

    scaling: Scaling = NO_SCALING
    experts: Experts | None = None
    short_conv: ShortConvolution | None = None
    nope_layers: tuple[int, ...] = ()
    attention_layers: tuple[int, ...] | None = None
    """The layers with attention, where the others have short convolutions; None = all."""
    intermediate_size: int | None = None
    """Of the feed-forward blocks, where it is not just the key's value."""


def no_features(_settings: Settings, _num_layers: int) -> Features:
    """Llama's."""
    return Features()


def granite_features(settings: Settings, _num_layers: int) -> Features:
    """Four factors."""
    return Features(
        Scaling(
            embedding_multiplier=settings.factor("embedding_multiplier", 1.0),
            residual_multiplier=settings.factor("residual_multiplier", 1.0),
            attention_multiplier=settings.factor("attention_multiplier", 1.0),
            logits_scaling=settings.factor("logits_scaling", 1.0),
        )
    )


def gemma2_features(settings: Settings, _num_layers: int) -> Features:
    """Scaled embeddings, scores scaled by a size that need not be head_dim, and two soft caps."""
    return _gemma(settings, attention_cap=50.0, final_cap=30.0)


def gemma3_features(settings: Settings, _num_layers: int) -> Features:
    """As Gemma 2, but caps only where the file asks for them."""
    return _gemma(settings, attention_cap=None, final_cap=None)


def _gemma(settings: Settings, attention_cap: float | None, final_cap: float | None) -> Features:
    hidden_size = settings.integer("hidden_size", low=1, high=_MAX_SIZE)
    return Features(
        Scaling(
            embedding_multiplier=hidden_size**0.5,
            attention_multiplier=settings.factor("query_pre_attn_scalar", 256.0) ** -0.5,
            attn_logit_softcapping=_cap(settings, "attn_logit_softcapping", attention_cap),
            final_logit_softcapping=_cap(settings, "final_logit_softcapping", final_cap),
        )
    )


def _cap(settings: Settings, key: str, default: float | None) -> float | None:
    """null is a choice: no cap."""
    if key in settings.values:
        return settings.optional_factor(key)
    return default


def smollm3_features(settings: Settings, num_layers: int) -> Features:
    """Layers without rotary positions: those that `no_rope_layers` gives a 0, or every so many."""
    interval = settings.integer("no_rope_layer_interval", 4, low=1, high=_MAX_LAYERS)
    has_rope = settings.get("no_rope_layers")
    if has_rope is None:
        return Features(nope_layers=tuple(range(interval - 1, num_layers, interval)))
    if not isinstance(has_rope, list) or len(has_rope) < num_layers or not all(each in (0, 1) for each in has_rope):
        raise settings.error("no_rope_layers", has_rope, f"must be a list of {num_layers} numbers, each 0 or 1")
    return Features(nope_layers=tuple(index for index in range(num_layers) if not has_rope[index]))


def lfm2_features(settings: Settings, num_layers: int) -> Features:
    """Gated short convolutions in all layers but those that `full_attn_idxs` names."""
    return Features(
        short_conv=ShortConvolution(
            conv_L_cache=settings.integer("conv_L_cache", 3, low=1, high=1024),
            conv_bias=settings.boolean("conv_bias", False),
        ),
        attention_layers=_layer_indices(settings, "full_attn_idxs", num_layers),
        intermediate_size=_lfm2_intermediate_size(settings),
    )


def _lfm2_intermediate_size(settings: Settings) -> int:
    """Files may give the size that it is made from: two thirds of that, times a factor, up to a whole multiple."""
    key = "block_ff_dim" if settings.has("block_ff_dim") else "intermediate_size"
    size = settings.integer(key, 12288, low=1, high=_MAX_SIZE)
    if not settings.boolean("block_auto_adjust_ff_dim", True):
        return size
    factor = settings.optional_number("block_ffn_dim_multiplier", 1.0, above=0.0, up_to=1000.0)
    multiple = settings.integer("block_multiple_of", 256, low=1, high=_MAX_SIZE)
    scaled = int((factor or 1.0) * int(2 * size / 3))
    return multiple * -(-max(scaled, 1) // multiple)


def qwen3_moe_features(settings: Settings, num_layers: int) -> Features:
    """Experts in every `decoder_sparse_step`-th layer that `mlp_only_layers` does not name."""
    step = settings.integer("decoder_sparse_step", 1, low=1, high=_MAX_LAYERS)
    dense = _layer_indices(settings, "mlp_only_layers", num_layers) or ()
    key = "num_local_experts" if settings.has("num_local_experts") else "num_experts"
    num_experts = settings.integer(key, 128, low=1, high=_MAX_EXPERTS)
    experts = Experts(
        num_experts=num_experts,
        num_experts_per_tok=settings.integer("num_experts_per_tok", 8, low=1, high=num_experts),
        moe_intermediate_size=settings.integer("moe_intermediate_size", 768, low=1, high=_MAX_SIZE),
        norm_topk_prob=settings.boolean("norm_topk_prob", False),
        layers=tuple(index for index in range(step - 1, num_layers, step) if index not in dense),
    )
    return Features(experts=experts if experts.layers else None)


def mixtral_features(settings: Settings, num_layers: int) -> Features:
    """Experts in every layer, as large as the feed-forward block of others."""
    key = "num_experts" if settings.has("num_experts") else "num_local_experts"
    num_experts = settings.integer(key, 8, low=1, high=_MAX_EXPERTS)
    return Features(
        experts=Experts(
            num_experts=num_experts,
            num_experts_per_tok=settings.integer("num_experts_per_tok", 2, low=1, high=num_experts),
            moe_intermediate_size=settings.integer("intermediate_size", low=1, high=_MAX_SIZE),
            norm_topk_prob=True,
            layers=tuple(range(num_layers)),
        )
    )


def _layer_indices(settings: Settings, key: str, num_layers: int) -> tuple[int, ...] | None:
    """A list of layers; None when absent or null."""
    value = settings.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(each) is int and 0 <= each < num_layers for each in value):
        raise settings.error(key, value, f"must be a list of layers from 0 to {num_layers - 1}")
    return tuple(sorted(set(value)))
