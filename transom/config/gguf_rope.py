"""`RopeConfig` of a GGUF file: the keys `rope.*` of an architecture, and the factors some files carry as a tensor."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from transom.config.gguf_model import GgufModel, as_written
from transom.config.rope_config import MAX_ROPE_THETA, RopeConfig
from transom.config.settings import Settings, shown
from transom.errors import UnsupportedModelError

__all__ = ["read_gguf_rope", "read_sliding_rope"]

_MAX_POSITIONS = 2**31 - 1
_SCALING_TYPES = ("none", "linear", "yarn")
_LEAST_FREQUENCY_FACTOR, _MOST_FREQUENCY_FACTOR = 1e-6, 1e30  # some files stop a rotation by a huge one


def read_gguf_rope(model: GgufModel, head_dim: int, max_position_embeddings: int) -> RopeConfig:
    """Raises UnsupportedModelError for other types of scaling and ConfigError for parameters that make no sense.

    The factors of `rope_freqs.weight` divide the frequencies: Llama 3.1's scaling, computed when the file was made.
    """
    settings, factors = model.architecture, model.rope_factors
    theta = settings.number("rope.freq_base", 10_000.0, above=1.0, up_to=MAX_ROPE_THETA)
    if head_dim < 2:
        raise settings.error("attention.key_length", head_dim, "must be 2 or more, for heads are rotated")
    rotary_dim = settings.integer("rope.dimension_count", head_dim, low=2, high=head_dim)
    if rotary_dim % 2:
        raise settings.error("rope.dimension_count", rotary_dim, "must be even")
    if model.long_rope_factors or model.short_rope_factors:
        return _read_longrope(model, RopeConfig("longrope", theta, rotary_dim), max_position_embeddings)
    scaling = _scaling_type(settings)
    if scaling != "yarn" and _attention_factor(settings) != 1.0:
        raise _unsupported(settings, "rope.scaling.attn_factor", "an attention factor without yarn")
    if factors:
        return _with_factors(settings, RopeConfig("factors", theta, rotary_dim), factors, scaling)
    if scaling == "none":
        return RopeConfig("default", theta, rotary_dim)
    if scaling == "linear":
        return RopeConfig("linear", theta, rotary_dim, factor=_factor(settings))
    return _read_yarn(settings, theta, rotary_dim, max_position_embeddings)


def read_sliding_rope(settings: Settings, rotary_dim: int, default_theta: float | None) -> RopeConfig | None:
    """The rope of sliding layers that have one of their own, which no scaling concerns. None without a default."""
    if default_theta is None:
        return None
    theta = settings.number("rope.freq_base_swa", default_theta, above=1.0, up_to=MAX_ROPE_THETA)
    return RopeConfig("default", theta, rotary_dim)


def _scaling_type(settings: Settings) -> str:
    """`none` for a factor that changes nothing, too; without a type a factor is linear."""
    scaling = settings.text("rope.scaling.type", "linear")
    if scaling not in _SCALING_TYPES:
        known = ", ".join(_SCALING_TYPES)
        name = f"{settings.prefix}rope.scaling.type {scaling[:64]!r}"
        raise UnsupportedModelError(f"{settings.source}: {name} is not supported; supported: {known}")
    return "none" if scaling == "linear" and _factor(settings) == 1.0 else scaling


def _factor(settings: Settings) -> float:
    """The older key is `rope.scale_linear`; 0 stands for 1 in some files."""
    key = "rope.scaling.factor" if settings.has("rope.scaling.factor") else "rope.scale_linear"
    return 1.0 if settings.get(key) == 0.0 else settings.factor(key, 1.0)


def _attention_factor(settings: Settings) -> float:
    """What the file itself multiplies rotated queries and keys by."""
    keys = ("rope.scaling.yarn_attn_factor", "rope.scaling.attn_factor")
    return math.prod(settings.factor(key, 1.0) for key in keys)


def _read_longrope(model: GgufModel, rope: RopeConfig, max_position_embeddings: int) -> RopeConfig:
    """Ding et al., 2024. The attention factor follows from the lengths; files hold it at 32 bits."""
    settings = model.architecture
    scaling = settings.text("rope.scaling.type", "longrope")
    if scaling not in ("longrope", "none"):
        raise _unsupported(settings, "rope.scaling.type", "together with the tensors 'rope_factors_*.weight'")
    original = settings.integer(
        "rope.scaling.original_context_length", max_position_embeddings, low=1, high=_MAX_POSITIONS
    )
    factor = max_position_embeddings / original
    exact = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
    own = _attention_factor(settings)
    short_name, long_name = "rope_factors_short.weight", "rope_factors_long.weight"
    return replace(
        rope,
        factor=factor,
        original_max_position_embeddings=original,
        attention_factor=exact if np.float32(exact) == np.float32(own) else own,
        short_factor=tuple(map(as_written, _checked(settings, short_name, model.short_rope_factors, rope.rotary_dim))),
        long_factor=tuple(map(as_written, _checked(settings, long_name, model.long_rope_factors, rope.rotary_dim))),
    )


def _checked(settings: Settings, name: str, factors: tuple[float, ...], rotary_dim: int) -> tuple[float, ...]:
    """The factors, where there are as many as there are frequencies."""
    low, high = _LEAST_FREQUENCY_FACTOR, _MOST_FREQUENCY_FACTOR
    if len(factors) != rotary_dim // 2 or not all(low <= each <= high for each in factors):
        rule = f"must be {rotary_dim // 2} numbers from {low:g} to {high:g}, one for each pair of rotated channels"
        raise settings.error("rope.dimension_count", rotary_dim, f"so the tensor {name!r} {rule}")
    return factors


def _with_factors(settings: Settings, rope: RopeConfig, factors: tuple[float, ...], scaling: str) -> RopeConfig:
    if scaling != "none":
        raise _unsupported(settings, "rope.scaling.type", "together with the tensor 'rope_freqs.weight'")
    factors = _checked(settings, "rope_freqs.weight", factors, rope.rotary_dim)
    return RopeConfig(rope.rope_type, rope.rope_theta, rope.rotary_dim, frequency_factors=factors)


def _read_yarn(settings: Settings, theta: float, rotary_dim: int, max_position_embeddings: int) -> RopeConfig:
    """The attention factor is what yarn gives for the factor, times the file's own."""
    _require_full_extrapolation(settings)
    factor = _factor(settings)
    original = settings.integer(
        "rope.scaling.original_context_length", max_position_embeddings, low=1, high=_MAX_POSITIONS
    )
    own = _attention_factor(settings)
    return RopeConfig(
        "yarn",
        theta,
        rotary_dim,
        factor=factor,
        original_max_position_embeddings=original,
        attention_factor=None if own == 1.0 else own * (0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0),
        beta_fast=settings.factor("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=settings.factor("rope.scaling.yarn_beta_slow", 1.0),
    )


def _require_full_extrapolation(settings: Settings) -> None:
    neutral: dict[str, tuple[float, ...]] = {
        "rope.scaling.yarn_ext_factor": (1.0, -1.0),
        "rope.scaling.yarn_log_multiplier": (0.0,),
    }
    for key, values in neutral.items():
        if settings.has(key) and settings.get(key) not in values:
            raise _unsupported(settings, key, "yarn of another kind")


def _unsupported(settings: Settings, key: str, detail: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{settings.source}: {settings.prefix}{key} {shown(settings.get(key))} is not supported ({detail})"
    )
