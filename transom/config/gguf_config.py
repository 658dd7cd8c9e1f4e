"""`ModelConfig` of a GGUF file: the metadata's keys about architecture, ids and sampling.

Takes plain values; who reads the file is not known here. What only some families have is in `gguf_families`. Key names
are those of the GGUF specification (ggml/docs/gguf.md); their defaults are llama.cpp's.
"""

from __future__ import annotations

import numpy as np

from transom.config.family_features import Features
from transom.config.gguf_families import GgufFamily, gguf_family_of
from transom.config.gguf_model import GgufModel
from transom.config.gguf_rope import read_gguf_rope, read_sliding_rope
from transom.config.model_config import LEAST_NORM_EPS, GenerationDefaults, LayerKind, ModelConfig
from transom.config.model_families import WindowRule
from transom.config.settings import REQUIRED, Settings
from transom.errors import ConfigError, UnsupportedModelError

__all__ = ["gguf_generation_defaults", "gguf_model_config"]

_MAX_LAYERS = 4096
_MAX_HEADS = 65_536
_MAX_HEAD_DIM = 8192
_MAX_SIZE = 2**24
_MAX_POSITIONS = 2**31 - 1

_CONTROL_TOKEN = 3
_TURN_ENDS = frozenset(
    {
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<end_of_turn>",
        "<EOT>",
        "</s>",
        "<｜end▁of▁sentence｜>",
    }
)
"""Control tokens that end a turn by their very text: files name one end-of-sequence token where models have several."""


def gguf_model_config(model: GgufModel) -> ModelConfig:
    """The architecture with every default resolved.

    Equal to what `ModelConfig.from_hf` makes of the same model, but for `dtype`, and for families that GGUF does not
    tell apart: Mistral is `llama`. Raises UnsupportedModelError naming what is not implemented, and ConfigError naming
    file, key and rule.
    """
    family, settings = gguf_family_of(model), model.architecture
    num_hidden_layers = settings.integer("block_count", low=1, high=_MAX_LAYERS)
    hidden_size = settings.integer("embedding_length", low=1, high=_MAX_SIZE)
    num_attention_heads = _size(settings, "attention.head_count", _MAX_HEADS)
    head_dim = _head_dim(settings, hidden_size, num_attention_heads)
    max_position_embeddings = settings.integer("context_length", low=1, high=_MAX_POSITIONS)
    features = family.features(model, settings, num_hidden_layers)
    layer_types, sliding_window = _layer_types(settings, family, features, num_hidden_layers)
    vocab_size = _vocab_size(model)
    rope = read_gguf_rope(model, head_dim, max_position_embeddings)
    if family.rotates_whole_heads and rope.rotary_dim != head_dim:
        rule = f"must be the size of a head, {head_dim}, in this architecture"
        raise settings.error("rope.dimension_count", rope.rotary_dim, rule)
    return ModelConfig(
        model_type=family.model_type,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=_size(settings, "feed_forward_length", _MAX_SIZE),
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=_num_key_value_heads(settings, features, num_attention_heads),
        head_dim=head_dim,
        max_position_embeddings=max_position_embeddings,
        layer_types=layer_types,
        sliding_window=sliding_window,
        hidden_act=family.activation,
        rms_norm_eps=settings.number("attention.layer_norm_rms_epsilon", above=LEAST_NORM_EPS, up_to=1.0),
        rope=rope,
        tie_word_embeddings="output.weight" not in model.shapes,
        attention_bias="blk.0.attn_q.bias" in model.shapes,
        attention_output_bias="blk.0.attn_output.bias" in model.shapes,
        mlp_bias="blk.0.ffn_down.bias" in model.shapes,
        bos_token_id=_token_id(model, "bos", vocab_size),
        eos_token_ids=_eos_token_ids(model, vocab_size),
        pad_token_id=_token_id(model, "padding", vocab_size),
        dtype=model.file_type,
        sliding_rope=read_sliding_rope(settings, rope.rotary_dim, family.sliding_rope_theta),
        nope_layers=features.nope_layers,
        scaling=features.scaling,
        experts=features.experts,
        short_conv=features.short_conv if LayerKind.SHORT_CONV in layer_types else None,
    )


def gguf_generation_defaults(model: GgufModel) -> GenerationDefaults:
    """The sampling settings that some files recommend (`general.sampling.*`); None where they say nothing."""
    settings = model.section("general.sampling.")
    return GenerationDefaults(
        temperature=settings.share("temp", up_to=100.0),
        top_p=settings.optional_number("top_p", above=0.0, up_to=1.0),
        top_k=settings.optional_integer("top_k", None, low=0, high=_MAX_SIZE),
        min_p=settings.share("min_p", up_to=1.0),
        repetition_penalty=settings.optional_number("penalty_repeat", above=0.0, up_to=100.0),
    )


def _size(settings: Settings, key: str, high: int, default: int | None = None) -> int:
    """A number from 1 on, or a list of the same one for every layer. Layers of different shape are refused."""
    value = settings.get(key)
    if isinstance(value, list) and len({*map(str, value)}) != 1:
        raise UnsupportedModelError(
            f"{settings.source}: {settings.prefix}{key} is not supported (layers of different shape)"
        )
    one = {**settings.values, key: value[0]} if isinstance(value, list) else settings.values
    holder = Settings(settings.source, one, settings.prefix)
    return holder.integer(key, REQUIRED if default is None else default, low=1, high=high)


def _head_dim(settings: Settings, hidden_size: int, num_attention_heads: int) -> int:
    key_length = settings.optional_integer("attention.key_length", None, low=1, high=_MAX_HEAD_DIM)
    if key_length is None:
        if hidden_size % num_attention_heads:
            rule = f"must be a multiple of {settings.prefix}attention.head_count, which is {num_attention_heads}"
            raise settings.error("embedding_length", hidden_size, rule)
        key_length = hidden_size // num_attention_heads
    value_length = settings.optional_integer("attention.value_length", key_length, low=1, high=_MAX_HEAD_DIM)
    if value_length != key_length:
        raise UnsupportedModelError(
            f"{settings.source}: {settings.prefix}attention.value_length {value_length} is not supported "
            f"(values of another length than keys, {key_length})"
        )
    return key_length


def _layer_types(
    settings: Settings, family: GgufFamily, features: Features, num_layers: int
) -> tuple[tuple[LayerKind, ...], int | None]:
    """The kind of every layer and the attention window of the sliding ones, None where no layer slides."""
    window = (
        settings.optional_integer("attention.sliding_window", family.sliding_window, low=0, high=_MAX_POSITIONS) or None
    )
    sliding = frozenset() if window is None else _sliding_layers(settings, family, num_layers)
    attention = range(num_layers) if features.attention_layers is None else features.attention_layers
    kinds = tuple(
        LayerKind.SLIDING_ATTENTION
        if index in sliding
        else LayerKind.FULL_ATTENTION
        if index in attention
        else LayerKind.SHORT_CONV
        for index in range(num_layers)
    )
    return kinds, window if sliding else None


def _sliding_layers(settings: Settings, family: GgufFamily, num_layers: int) -> frozenset[int]:
    """All, or all but every so many: the pattern's key holds that number, or for each layer whether it slides."""
    if family.window_rule is WindowRule.ALL_LAYERS:
        return frozenset(range(num_layers))
    key = "attention.sliding_window_pattern"
    pattern = settings.get(key)
    if isinstance(pattern, list):
        if len(pattern) != num_layers:
            raise settings.error(key, pattern, f"must have one value for each of the {num_layers} layers")
        return frozenset(index for index in range(num_layers) if pattern[index])
    interval = settings.integer(key, family.sliding_window_pattern, low=1, high=_MAX_LAYERS)
    return frozenset(index for index in range(num_layers) if (index + 1) % interval)


def _num_key_value_heads(settings: Settings, features: Features, num_attention_heads: int) -> int:
    """Layers without attention have none."""
    key = "attention.head_count_kv"
    if features.attention_layers is not None:
        of_attention = [settings.values[key][index] for index in features.attention_layers]
        settings = Settings(settings.source, {**settings.values, key: of_attention}, settings.prefix)
    heads = _size(settings, key, _MAX_HEADS, default=num_attention_heads)
    if num_attention_heads % heads:
        rule = f"must divide {settings.prefix}attention.head_count, which is {num_attention_heads}"
        raise settings.error(key, heads, rule)
    return heads


def _vocab_size(model: GgufModel) -> int:
    """The rows of the embedding: tokens that were added for the sake of alignment have rows, but no text."""
    if not model.shapes:
        raise ConfigError(f"{model.source}: holds no weights, only a vocabulary and other metadata")
    shape = model.shapes.get("token_embd.weight")
    if shape is None or len(shape) != 2 or not 1 <= shape[0] <= _MAX_SIZE:
        found = "is missing" if shape is None else f"has shape {list(shape)}"
        raise ConfigError(f"{model.source}: tensor 'token_embd.weight' {found}, must be a matrix of one row per token")
    return shape[0]


def _token_id(model: GgufModel, name: str, vocab_size: int) -> int | None:
    """A special token; ids outside the vocabulary mean that there is none."""
    token = model.general.optional_integer(f"tokenizer.ggml.{name}_token_id", None, low=0, high=2**32 - 1)
    return token if token is not None and token < vocab_size else None


def _eos_token_ids(model: GgufModel, vocab_size: int) -> tuple[int, ...]:
    """The named ends of text, of a turn, of a message; then the control tokens that are one by their text."""
    named = [_token_id(model, name, vocab_size) for name in ("eos", "eot", "eom")]
    tokens, types = model.metadata.get("tokenizer.ggml.tokens"), model.metadata.get("tokenizer.ggml.token_type")
    by_text: list[int] = []
    if isinstance(tokens, list) and isinstance(types, np.ndarray) and len(tokens) == len(types):
        control = np.flatnonzero(types == _CONTROL_TOKEN).tolist()
        texts = {token: tokens[token] for token in control if isinstance(tokens[token], str)}  # else an array
        by_text = [token for token, text in texts.items() if text in _TURN_ENDS and token < vocab_size]
    return tuple(dict.fromkeys(token for token in (*named, *by_text) if token is not None))
