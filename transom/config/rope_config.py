"""`RopeConfig`: which rotary position embedding a model uses, with every default resolved as transformers 5 does.

Owns the spellings of `config.json`: `rope_scaling` (older files; it wins) and `rope_parameters`, `type` and
`rope_type`, the base inside either or beside them. Computes no frequencies: that is `transom.layers.rotary`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from transom.config.settings import Settings, shown
from transom.errors import UnsupportedModelError

__all__ = ["MAX_ROPE_THETA", "ROPE_TYPES", "RopeConfig", "read_rope", "settings_by_kind"]

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
_ALIASES = {"su": "longrope"}  # as older files of Phi-3 spell it
_MAX_POSITIONS = 2**31 - 1
MAX_ROPE_THETA = 1e20
"""As that of factors (`Settings.factor`): a bound that keeps frequencies within f32."""


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding of one layer kind, `rope_scaling` and `rope_parameters` alike."""

    rope_type: str  # default, linear, dynamic, llama3, yarn, longrope; factors (GGUF files only)
    rope_theta: float
    rotary_dim: int  # head_dim * partial_rotary_factor
    factor: float = 1.0
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None  # llama3
    high_freq_factor: float | None = None  # llama3
    attention_factor: float | None = None  # yarn: None = follows from factor and the two mscales; longrope
    beta_fast: float | None = None  # yarn
    beta_slow: float | None = None  # yarn
    mscale: float | None = None  # yarn
    mscale_all_dim: float | None = None  # yarn
    truncate: bool = True  # yarn
    short_factor: tuple[float, ...] = ()  # longrope: divide the frequencies, one each, up to the original length
    long_factor: tuple[float, ...] = ()  # longrope: the same where the context window is longer
    frequency_factors: tuple[float, ...] = ()  # factors: what divides each of the rotary_dim / 2 frequencies


def read_rope(
    settings: Settings, *, head_dim: int, max_position_embeddings: int, default_theta: float = 10_000.0
) -> RopeConfig:
    """Raises UnsupportedModelError for other rope types and ConfigError for parameters that make no sense.

    `max_position_embeddings` is the checkpoint's own, not one that a registry entry lowered: yarn's factor and the
    pretraining length default from it.
    """
    parameters = settings.section("rope_scaling") or settings.section("rope_parameters") or _EMPTY
    rope_type = _rope_type(parameters, settings)
    theta = settings.number("rope_theta", default_theta, above=1.0, up_to=MAX_ROPE_THETA)
    rope_theta = parameters.number("rope_theta", theta, above=1.0, up_to=MAX_ROPE_THETA)
    rotary_dim = _rotary_dim(parameters if parameters.has("partial_rotary_factor") else settings, head_dim)
    match rope_type:
        case "dynamic" if parameters.has("alpha"):
            return RopeConfig("default", rope_theta * _ntk_stretch(parameters, rotary_dim), rotary_dim)
        case "longrope":
            original = _original_length(settings, parameters, max_position_embeddings)
            return _read_longrope(parameters, rope_theta, rotary_dim, original, max_position_embeddings)
        case "linear" | "dynamic":
            return RopeConfig(rope_type, rope_theta, rotary_dim, factor=parameters.factor("factor"))
        case "llama3":
            original = _original_length(settings, parameters, max_position_embeddings)
            return _read_llama3(parameters, rope_theta, rotary_dim, original)
        case "yarn":
            original = _original_length(settings, parameters, max_position_embeddings)
            return _read_yarn(parameters, rope_theta, rotary_dim, original, max_position_embeddings)
        case _:
            return RopeConfig(rope_type, rope_theta, rotary_dim)


_EMPTY = Settings("", {})


def settings_by_kind(settings: Settings) -> tuple[Settings, Settings]:
    """The settings of full and of sliding layers, where these have ropes of their own (Gemma 3).

    Newer files have a section for each kind in `rope_parameters`; in older ones `rope_theta` and `rope_scaling` are for
    the full layers, `rope_local_base_freq` is for the sliding ones.
    """
    by_kind = settings.section("rope_parameters") or _EMPTY
    full, sliding = by_kind.section("full_attention"), by_kind.section("sliding_attention")
    shared = {key: settings.values[key] for key in ("original_max_position_embeddings",) if settings.has(key)}
    keys = {"rope_theta", "rope_scaling"} if full is None else {"rope_scaling"}
    full_values = {key: settings.values[key] for key in keys if settings.has(key)}
    local = settings.get("rope_local_base_freq")
    sliding_values = {} if local is None else {"rope_theta": local}
    return (
        Settings(settings.source, {**shared, **full_values, **_parameters(full)}),
        Settings(settings.source, {**shared, **sliding_values, **_parameters(sliding)}),
    )


def _parameters(section: Settings | None) -> dict[str, Any]:
    return {} if section is None else {"rope_parameters": dict(section.values)}


def _rope_type(parameters: Settings, settings: Settings) -> str:
    nested = [key for key, value in parameters.values.items() if isinstance(value, dict)]
    if nested:
        raise UnsupportedModelError(f"{settings.source}: a rope of its own per layer kind ({shown(nested)})")
    key = "rope_type" if "rope_type" in parameters.values else "type"
    rope_type = parameters.text(key, "default")
    rope_type = _ALIASES.get(rope_type, rope_type)
    if rope_type == "yarn" and parameters.has("short_factor"):  # older files of Phi-3, too
        rope_type = "longrope"
    if rope_type not in ROPE_TYPES:
        raise UnsupportedModelError(
            f"{settings.source}: {parameters.prefix}{key} {shown(rope_type)} is not supported "
            f"(supported: {', '.join(ROPE_TYPES)})"
        )
    return rope_type


def _rotary_dim(settings: Settings, head_dim: int) -> int:
    """Channels of a head that are rotated, the first ones; they come in pairs."""
    factor = settings.optional_number("partial_rotary_factor", 1.0, above=0.0, up_to=1.0)
    assert factor is not None
    rotary_dim = int(head_dim * factor)
    if rotary_dim < 2 or rotary_dim % 2:
        rule = f"of head_dim {head_dim} leaves {rotary_dim} rotated channels, must leave an even number of 2 or more"
        raise settings.error("partial_rotary_factor", factor, rule)
    return rotary_dim


def _original_length(settings: Settings, parameters: Settings, max_position_embeddings: int) -> int:
    """The pretraining length; one that stands beside the rope's parameters wins over one among them."""
    key = "original_max_position_embeddings"
    holder = settings if settings.has(key) else parameters
    length = holder.optional_integer(key, max_position_embeddings, low=1, high=_MAX_POSITIONS)
    return max_position_embeddings if length is None else length


def _ntk_stretch(parameters: Settings, rotary_dim: int) -> float:
    """HunYuan: a fixed `alpha` stretches the base (NTK-aware scaling), whatever the length."""
    if rotary_dim <= 2:
        raise parameters.error("alpha", parameters.get("alpha"), "needs more than two rotated channels")
    return math.pow(parameters.factor("alpha"), rotary_dim / (rotary_dim - 2))


def _read_longrope(
    parameters: Settings, rope_theta: float, rotary_dim: int, original: int, max_position_embeddings: int
) -> RopeConfig:
    """Ding et al., 2024. Without a factor of its own, the lengths' ratio decides on the attention factor."""
    factor = parameters.optional_factor("factor", max_position_embeddings / original)
    assert factor is not None
    default = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
    return RopeConfig(
        "longrope",
        rope_theta,
        rotary_dim,
        factor=factor,
        original_max_position_embeddings=original,
        attention_factor=parameters.optional_factor("attention_factor", default),
        short_factor=_factors(parameters, "short_factor", rotary_dim // 2),
        long_factor=_factors(parameters, "long_factor", rotary_dim // 2),
    )


def _factors(parameters: Settings, key: str, count: int) -> tuple[float, ...]:
    """As many; each is a factor of its own."""
    value = parameters.get(key)
    if not isinstance(value, list) or len(value) != count:
        raise parameters.error(key, value, f"must be a list of {count} positive numbers")
    each = {f"{key}[{index}]": number for index, number in enumerate(value)}
    numbers = Settings(parameters.source, each, parameters.prefix)
    return tuple(numbers.factor(name) for name in each)


def _read_llama3(parameters: Settings, rope_theta: float, rotary_dim: int, original: int) -> RopeConfig:
    low = parameters.factor("low_freq_factor")
    high = parameters.factor("high_freq_factor")
    if high <= low:
        raise parameters.error("high_freq_factor", high, f"must be greater than low_freq_factor, which is {low:g}")
    return RopeConfig(
        "llama3",
        rope_theta,
        rotary_dim,
        factor=parameters.factor("factor"),
        original_max_position_embeddings=original,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _read_yarn(
    parameters: Settings, rope_theta: float, rotary_dim: int, original: int, max_position_embeddings: int
) -> RopeConfig:
    if "factor" not in parameters.values:
        raise parameters.error("factor", None, "must be given for rope type yarn (null: the ratio of the lengths)")
    factor = parameters.optional_factor("factor", max_position_embeddings / original)
    assert factor is not None
    return RopeConfig(
        "yarn",
        rope_theta,
        rotary_dim,
        factor=factor,
        original_max_position_embeddings=original,
        attention_factor=parameters.optional_factor("attention_factor"),
        beta_fast=parameters.optional_factor("beta_fast", 32.0),
        beta_slow=parameters.optional_factor("beta_slow", 1.0),
        mscale=parameters.share("mscale", up_to=1e6),
        mscale_all_dim=parameters.share("mscale_all_dim", up_to=1e6),
        truncate=parameters.boolean("truncate", True),
    )
