"""`ModelConfig`: what an architecture is, read from Hugging Face's `config.json`. Owns all knowledge of its keys.

Keys keep Hugging Face's names. Knows nothing of registry entries, budgets, files of weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from transom.config.family_features import Features
from transom.config.features import NO_SCALING, Experts, Scaling, ShortConvolution
from transom.config.model_families import Family, WindowRule, family_of
from transom.config.plain_data import from_plain, to_plain
from transom.config.rope_config import RopeConfig, read_rope, settings_by_kind
from transom.config.settings import Settings, shown
from transom.errors import ConfigError, UnsupportedModelError

__all__ = [
    "CHECKPOINT_DTYPES",
    "LEAST_NORM_EPS",
    "GenerationDefaults",
    "LayerKind",
    "ModelConfig",
    "RopeConfig",
    "refuse_adapter",
]

# Bounds that no real model comes near. They keep hostile files from asking for absurd amounts of anything, and every
# position and token id within int32.
_MAX_LAYERS = 4096
_MAX_HEADS = 65_536
_MAX_HEAD_DIM = 8192
_MAX_SIZE = 2**24
_MAX_POSITIONS = 2**31 - 1
LEAST_NORM_EPS = 1e-30  # what is less is 0 in f32, or its root is: the norm of a row of zeros would be none

CHECKPOINT_DTYPES = ("bfloat16", "float16", "float32")


class LayerKind(StrEnum):
    """What a layer's token mixer is. The values are those of `layer_types` in `config.json`."""

    FULL_ATTENTION = "full_attention"
    SLIDING_ATTENTION = "sliding_attention"
    SHORT_CONV = "conv"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """An architecture with every default resolved.

    `from_hf` is the only door from Hugging Face's files, `gguf_config.gguf_model_config` that from GGUF files.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    """The context window."""
    layer_types: tuple[LayerKind, ...]  # one per layer
    sliding_window: int | None
    """The attention window of the layers of kind SLIDING_ATTENTION."""
    hidden_act: str
    rms_norm_eps: float
    rope: RopeConfig
    tie_word_embeddings: bool
    attention_bias: bool  # biases on q, k, v
    attention_output_bias: bool  # bias on o
    mlp_bias: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]  # of config.json and generation_config.json together
    pad_token_id: int | None
    dtype: str  # of the checkpoint: float32, float16, bfloat16; of a GGUF file its file type, such as Q4_K_M
    sliding_rope: RopeConfig | None = None
    """Of the sliding layers, where it is not that of the full ones."""
    nope_layers: tuple[int, ...] = ()
    """Attention layers that know no positions."""
    scaling: Scaling = NO_SCALING
    experts: Experts | None = None
    short_conv: ShortConvolution | None = None

    @classmethod
    def from_hf(cls, directory: Path) -> ModelConfig:
        """Reads `config.json` and, for end-of-sequence tokens, `generation_config.json`.

        Raises UnsupportedModelError naming a feature that is not implemented and ConfigError for settings that make no
        sense, naming file, key, value and rule.
        """
        _require_directory(directory)
        refuse_adapter(directory)
        settings = Settings.of_file(directory / "config.json")
        family = family_of(settings)
        num_hidden_layers = settings.integer("num_hidden_layers", low=1, high=_MAX_LAYERS)
        num_attention_heads = settings.integer("num_attention_heads", low=1, high=_MAX_HEADS)
        hidden_size = settings.integer("hidden_size", low=1, high=_MAX_SIZE)
        vocab_size = settings.integer("vocab_size", low=1, high=_MAX_SIZE)
        head_dim = _head_dim(settings, family, hidden_size, num_attention_heads)
        max_position_embeddings = settings.integer("max_position_embeddings", low=1, high=_MAX_POSITIONS)
        features = family.features(settings, num_hidden_layers)
        layer_types, sliding_window = _layer_types(settings, family, features, num_hidden_layers)
        rope, sliding_rope = _ropes(settings, family, head_dim, max_position_embeddings)
        return cls(
            model_type=settings.text("model_type"),
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=features.intermediate_size
            or settings.integer("intermediate_size", low=1, high=_MAX_SIZE),
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            num_key_value_heads=_num_key_value_heads(settings, family, num_attention_heads),
            head_dim=head_dim,
            max_position_embeddings=max_position_embeddings,
            layer_types=layer_types,
            sliding_window=sliding_window,
            hidden_act=family.activation,
            rms_norm_eps=settings.number(family.rms_norm_eps_key, family.rms_norm_eps, above=LEAST_NORM_EPS, up_to=1.0),
            rope=rope,
            tie_word_embeddings=settings.boolean("tie_word_embeddings", family.tie_word_embeddings),
            attention_bias=_bias(settings, "attention_bias", family.attention_bias),
            attention_output_bias=_bias(settings, "attention_bias", family.attention_output_bias),
            mlp_bias=_bias(settings, "mlp_bias", family.mlp_bias),
            bos_token_id=settings.optional_integer("bos_token_id", family.bos_token_id, low=0, high=vocab_size - 1),
            eos_token_ids=_eos_token_ids(settings, _generation_settings(directory), family, vocab_size),
            pad_token_id=_pad_token_id(settings, vocab_size),
            dtype=_dtype(settings),
            sliding_rope=sliding_rope,
            nope_layers=features.nope_layers,
            scaling=features.scaling,
            experts=features.experts,
            short_conv=features.short_conv if LayerKind.SHORT_CONV in layer_types else None,
        )

    @property
    def attention_scale(self) -> float:
        """Factor on the attention scores."""
        multiplier = self.scaling.attention_multiplier
        return self.head_dim**-0.5 if multiplier is None else multiplier

    @property
    def num_attention_layers(self) -> int:
        """Layers that keep keys and values."""
        return sum(kind is not LayerKind.SHORT_CONV for kind in self.layer_types)

    def to_plain(self) -> dict[str, Any]:
        """As values that msgpack and JSON carry."""
        return to_plain(self)

    @classmethod
    def from_plain(cls, plain: object) -> ModelConfig:
        """The inverse of `to_plain`, strict: ConfigError for missing, unknown or wrongly typed keys."""
        return from_plain(cls, plain)


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Sampling settings that the model's authors recommend; None = they say nothing."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None  # 0 = off
    min_p: float | None = None
    repetition_penalty: float | None = None

    @classmethod
    def from_hf(cls, directory: Path) -> GenerationDefaults:
        """Reads `generation_config.json`; all None where there is none. Raises ConfigError as `ModelConfig.from_hf`.

        `do_sample` is not read: how to sample is the request's choice, and its own default is not greedy.
        """
        settings = _generation_settings(directory)
        return cls(
            temperature=settings.share("temperature", up_to=100.0),
            top_p=settings.optional_number("top_p", above=0.0, up_to=1.0),
            top_k=_top_k(settings),
            min_p=settings.share("min_p", up_to=1.0),
            repetition_penalty=settings.optional_number("repetition_penalty", above=0.0, up_to=100.0),
        )


def refuse_adapter(directory: Path) -> None:
    """Raises UnsupportedModelError for what PEFT writes: a model's difference from another one, or a model with one."""
    path = directory / "adapter_config.json"
    if path.exists():
        raise UnsupportedModelError(f"{path}: adapters are not supported; merge this one into its base model")


def _generation_settings(directory: Path) -> Settings:
    path = directory / "generation_config.json"
    return Settings.of_file(path) if path.exists() else Settings(str(path), {})


def _top_k(settings: Settings) -> int | None:
    """-1, as some files have it, also means off."""
    value = settings.optional_integer("top_k", None, low=-1, high=_MAX_SIZE)
    return None if value is None else max(value, 0)


def _head_dim(settings: Settings, family: Family, hidden_size: int, num_attention_heads: int) -> int:
    explicit = settings.optional_integer("head_dim", family.head_dim, low=1, high=_MAX_HEAD_DIM)
    if explicit is not None:
        return explicit
    if hidden_size % num_attention_heads:
        rule = f"must be a multiple of num_attention_heads, which is {num_attention_heads}, or head_dim must be given"
        raise settings.error("hidden_size", hidden_size, rule)
    return hidden_size // num_attention_heads


def _num_key_value_heads(settings: Settings, family: Family, num_attention_heads: int) -> int:
    key = "num_key_value_heads"
    heads = settings.optional_integer(key, family.num_key_value_heads, low=1, high=_MAX_HEADS)
    if heads is None:
        return num_attention_heads
    if num_attention_heads % heads:
        raise settings.error(key, heads, f"must divide num_attention_heads, which is {num_attention_heads}")
    return heads


def _ropes(
    settings: Settings, family: Family, head_dim: int, max_position_embeddings: int
) -> tuple[RopeConfig, RopeConfig | None]:
    """The rope of the full layers, and that of the sliding ones where they have one of their own."""

    def rope(of: Settings, default_theta: float) -> RopeConfig:
        found = read_rope(
            of, head_dim=head_dim, max_position_embeddings=max_position_embeddings, default_theta=default_theta
        )
        if found.rotary_dim != head_dim and not family.rotates_part_of_heads:
            rotated = f"{found.rotary_dim} of {head_dim} channels of a head"
            raise UnsupportedModelError(
                f"{settings.source}: partial_rotary_factor is not supported "
                f"(rotating {rotated} in a {settings.text('model_type')} model)"
            )
        return found

    if family.sliding_rope_theta is None:
        return rope(settings, family.rope_theta), None
    full, sliding = settings_by_kind(settings)
    return rope(full, family.rope_theta), rope(sliding, family.sliding_rope_theta)


def _layer_types(
    settings: Settings, family: Family, features: Features, num_layers: int
) -> tuple[tuple[LayerKind, ...], int | None]:
    """The kind of every layer and the attention window of the sliding ones, None where no layer slides."""
    window = _sliding_window(settings, family)
    kinds = _explicit_layer_types(settings, features, num_layers)
    kinds = kinds or _derived_layer_types(settings, family, features, num_layers, window)
    if {*kinds} == {LayerKind.SHORT_CONV}:
        key = "layer_types" if settings.has("layer_types") else "full_attn_idxs"
        raise settings.error(key, settings.get(key), "must leave at least one layer with attention")
    if LayerKind.SLIDING_ATTENTION not in kinds:
        return kinds, None
    if window is None and _has_window_switched_off(settings, family):
        raise settings.error("use_sliding_window", False, "must be true, for layer_types has sliding layers")
    if window is None:
        raise settings.error("sliding_window", settings.get("sliding_window"), "must be set, for layer_types uses it")
    return kinds, window


def _sliding_window(settings: Settings, family: Family) -> int | None:
    if _has_window_switched_off(settings, family):
        return None
    return settings.optional_integer("sliding_window", family.sliding_window, low=1, high=_MAX_POSITIONS)


def _has_window_switched_off(settings: Settings, family: Family) -> bool:
    return family.has_window_switch and not settings.boolean("use_sliding_window", False)


def _explicit_layer_types(settings: Settings, features: Features, num_layers: int) -> tuple[LayerKind, ...]:
    names = settings.strings("layer_types")
    if names and len(names) != num_layers:
        rule = f"must name one kind for each of the {num_layers} layers, names {len(names)}"
        raise settings.error("layer_types", list(names), rule)
    other = LayerKind.SLIDING_ATTENTION if features.short_conv is None else LayerKind.SHORT_CONV
    supported = [LayerKind.FULL_ATTENTION, other]
    unsupported = sorted({*names} - {*supported})
    if unsupported:
        raise UnsupportedModelError(
            f"{settings.source}: layer_types holds {shown(unsupported[0])}; "
            f"supported for this model_type: {', '.join(supported)}"
        )
    return tuple(LayerKind(name) for name in names)


def _derived_layer_types(
    settings: Settings, family: Family, features: Features, num_layers: int, window: int | None
) -> tuple[LayerKind, ...]:
    sliding = _sliding_layers(settings, family, features, num_layers) if window is not None else frozenset()
    attention = range(num_layers) if features.attention_layers is None else features.attention_layers
    return tuple(
        LayerKind.SLIDING_ATTENTION
        if index in sliding
        else LayerKind.FULL_ATTENTION
        if index in attention
        else LayerKind.SHORT_CONV
        for index in range(num_layers)
    )


def _sliding_layers(settings: Settings, family: Family, features: Features, num_layers: int) -> frozenset[int]:
    match family.window_rule:
        case WindowRule.ALL_LAYERS:
            return frozenset(range(num_layers))
        case WindowRule.UPPER_LAYERS:
            return frozenset(range(settings.integer("max_window_layers", 28, low=0, high=_MAX_LAYERS), num_layers))
        case WindowRule.PATTERN:
            default = family.sliding_window_pattern
            pattern = settings.integer("sliding_window_pattern", default, low=1, high=_MAX_LAYERS)
            return frozenset(index for index in range(num_layers) if (index + 1) % pattern)
        case WindowRule.NOPE_LAYERS:
            return frozenset(features.nope_layers)
        case WindowRule.NONE:
            return frozenset()


def _bias(settings: Settings, key: str, family_bias: bool | None) -> bool:
    return settings.boolean(key, False) if family_bias is None else family_bias


def _eos_token_ids(settings: Settings, generation: Settings, family: Family, vocab_size: int) -> tuple[int, ...]:
    """The union of both files. The family's default counts only where neither says anything."""
    holders = [holder for holder in (settings, generation) if "eos_token_id" in holder.values]
    if not holders:
        return () if family.eos_token_id is None else (family.eos_token_id,)
    return tuple(dict.fromkeys(token for holder in holders for token in _token_ids(holder, vocab_size)))


def _token_ids(settings: Settings, vocab_size: int) -> list[int]:
    value = settings.get("eos_token_id")
    tokens = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token) is int and 0 <= token < vocab_size for token in tokens):
        raise settings.error("eos_token_id", value, f"must be token ids from 0 to {vocab_size - 1}")
    return tokens


def _pad_token_id(settings: Settings, vocab_size: int) -> int | None:
    """Published files name pad tokens outside the vocabulary (-1, or its size); nothing here ever pads."""
    token = settings.optional_integer("pad_token_id", None, low=-(2**31), high=2**31)
    return token if token is not None and 0 <= token < vocab_size else None


def _dtype(settings: Settings) -> str:
    """The older key is `torch_dtype`; files without either were saved in float32."""
    key = "dtype" if settings.has("dtype") else "torch_dtype"
    dtype = settings.text(key).removeprefix("torch.") if settings.has(key) else "float32"
    if dtype not in CHECKPOINT_DTYPES:
        raise UnsupportedModelError(
            f"{settings.source}: {key} {shown(dtype)} is not supported; supported: {', '.join(CHECKPOINT_DTYPES)}"
        )
    return dtype


def _require_directory(path: Path) -> None:
    if not path.is_dir():
        raise ConfigError(f"{path}: is not a directory; a model is a directory with config.json and safetensors files")
