"""`RopeConfig`: which rotary position embedding a model uses, with every default resolved as transformers 5 does.

Owns the spellings of `config.json`: `rope_scaling` (older files; it wins) and `rope_parameters`, `type` and
`rope_type`, the base inside either or beside them. Computes no frequencies: that is `transom.layers.rotary`.
"""

from __future__ import annotations

from dataclasses import dataclass

from transom.config.settings import Settings
from transom.errors import UnsupportedModelError

__all__ = ["ROPE_TYPES", "RopeConfig", "read_rope"]

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
_MAX_POSITIONS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding of one layer kind, `rope_scaling` and `rope_parameters` alike."""

    rope_type: str  # default, linear, dynamic, llama3, yarn; factors (GGUF files only)
    rope_theta: float
    rotary_dim: int  # head_dim * partial_rotary_factor
    factor: float = 1.0
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None  # llama3
    high_freq_factor: float | None = None  # llama3
    attention_factor: float | None = None  # yarn; None = follows from factor and the two mscales
    beta_fast: float | None = None  # yarn
    beta_slow: float | None = None  # yarn
    mscale: float | None = None  # yarn
    mscale_all_dim: float | None = None  # yarn
    truncate: bool = True  # yarn
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
    theta = settings.number("rope_theta", default_theta, above=1.0)
    rope_theta = parameters.number("rope_theta", theta, above=1.0)
    rotary_dim = _rotary_dim(parameters if parameters.has("partial_rotary_factor") else settings, head_dim)
    match rope_type:
        case "linear" | "dynamic":
            return RopeConfig(rope_type, rope_theta, rotary_dim, factor=parameters.number("factor", above=0.0))
        case "llama3":
            original = _original_length(settings, parameters, max_position_embeddings)
            return _read_llama3(parameters, rope_theta, rotary_dim, original)
        case "yarn":
            original = _original_length(settings, parameters, max_position_embeddings)
            return _read_yarn(parameters, rope_theta, rotary_dim, original, max_position_embeddings)
        case _:
            return RopeConfig(rope_type, rope_theta, rotary_dim)


_EMPTY = Settings("", {})


def _rope_type(parameters: Settings, settings: Settings) -> str:
    nested = [key for key, value in parameters.values.items() if isinstance(value, dict)]
    if nested:
        raise UnsupportedModelError(f"{settings.source}: a rope of its own per layer kind ({', '.join(nested)})")
    rope_type = parameters.text("rope_type" if "rope_type" in parameters.values else "type", "default")
    if rope_type not in ROPE_TYPES:
        known = ", ".join(ROPE_TYPES)
        raise UnsupportedModelError(f"{settings.source}: rope type {rope_type!r} is not supported; supported: {known}")
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


def _read_llama3(parameters: Settings, rope_theta: float, rotary_dim: int, original: int) -> RopeConfig:
    low = parameters.number("low_freq_factor", above=0.0)
    high = parameters.number("high_freq_factor", above=0.0)
    if high <= low:
        raise parameters.error("high_freq_factor", high, f"must be greater than low_freq_factor, which is {low:g}")
    return RopeConfig(
        "llama3",
        rope_theta,
        rotary_dim,
        factor=parameters.number("factor", above=0.0),
        original_max_position_embeddings=original,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _read_yarn(
    parameters: Settings, rope_theta: float, rotary_dim: int, original: int, max_position_embeddings: int
) -> RopeConfig:
    if "factor" not in parameters.values:
        raise parameters.error("factor", None, "must be given for rope type yarn (null: the ratio of the lengths)")
    factor = parameters.optional_number("factor", max_position_embeddings / original, above=0.0)
    assert factor is not None
    return RopeConfig(
        "yarn",
        rope_theta,
        rotary_dim,
        factor=factor,
        original_max_position_embeddings=original,
        attention_factor=parameters.optional_number("attention_factor", above=0.0),
        beta_fast=parameters.optional_number("beta_fast", 32.0, above=0.0),
        beta_slow=parameters.optional_number("beta_slow", 1.0, above=0.0),
        mscale=parameters.optional_number("mscale"),
        mscale_all_dim=parameters.optional_number("mscale_all_dim"),
        truncate=parameters.boolean("truncate", True),
    )
