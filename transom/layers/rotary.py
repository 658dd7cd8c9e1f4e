"""Rotary position embedding (Su et al., 2021) and its context extensions.

Frequencies follow transformers' `modeling_rope_utils`, in float32 as there, so that logits agree at any position:
`linear` (Chen et al., 2023), `llama3` (Llama 3.1), `yarn` (Peng et al., 2023). `dynamic` changes frequencies only
beyond `max_position_embeddings`; a request never gets there (the context window is checked first), so within the
window it is the default embedding, and a token's rotation depends on its position alone. `longrope` (Ding et al., 2024)
has two sets of frequencies: the served context window decides which, not the sequence's length so far, for else the
keys of earlier tokens would be wrong when a sequence outgrows the original length.
`factors` are numbers that a GGUF file carries: what `llama3` comes to, one for each frequency.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom import kernels
from transom.config.model_config import RopeConfig


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of a batch's positions, [T, rotary_dim / 2] each."""

    cos: NDArray[np.float32]
    sin: NDArray[np.float32]

    def apply(self, x: NDArray[np.float32]) -> None:
        """Rotates [T, heads, head_dim] in place; rows may be strided."""
        kernels.rotate(x, self.cos, self.sin)


@dataclass(frozen=True, slots=True)
class NoRotation:
    """Of layers that know no positions."""

    def apply(self, x: NDArray[np.float32]) -> None:
        """Does nothing."""


Rotations = Sequence[Rotation | NoRotation]
"""Those of one pass: layers name theirs by its index."""


@dataclass(frozen=True, slots=True)
class NoRotaryEmbedding:
    """Positions do not matter (Kazemnejad et al., 2023)."""

    def at(self, _positions: NDArray[np.int32]) -> NoRotation:
        """Always the same."""
        return NoRotation()


@dataclass(frozen=True, slots=True)
class RotaryEmbedding:
    """Turns positions into rotations."""

    inverse_frequencies: NDArray[np.float32]  # [rotary_dim / 2]
    attention_factor: float

    @classmethod
    def from_config(cls, rope: RopeConfig, context_window: int) -> RotaryEmbedding:
        """The frequencies of one layer kind, for sequences of up to `context_window` tokens."""
        match rope.rope_type:
            case "default" | "dynamic":
                return cls(_base_frequencies(rope), 1.0)
            case "linear":
                return cls(_base_frequencies(rope) / np.float32(rope.factor), 1.0)
            case "llama3":
                return cls(_llama3_frequencies(rope), 1.0)
            case "yarn":
                return cls(_yarn_frequencies(rope), _yarn_attention_factor(rope))
            case "longrope":
                return cls(_longrope_frequencies(rope, context_window), rope.attention_factor or 1.0)
            case "factors":
                return cls(_base_frequencies(rope) / _frequency_factors(rope), 1.0)
            case other:
                raise AssertionError(f"config let rope type {other!r} through")

    def at(self, positions: NDArray[np.int32]) -> Rotation:
        """The rotation of every row of a batch."""
        angles = positions[:, None].astype(np.float32) * self.inverse_frequencies
        factor = np.float32(self.attention_factor)
        return Rotation(np.cos(angles) * factor, np.sin(angles) * factor)


def _periods(rope: RopeConfig) -> NDArray[np.float32]:
    """theta^(2i/d) in float32."""
    exponents = np.arange(0, rope.rotary_dim, 2, dtype=np.float32) / np.float32(rope.rotary_dim)
    periods: NDArray[np.float64] = np.power(rope.rope_theta, exponents.astype(np.float64))
    return periods.astype(np.float32)


def _base_frequencies(rope: RopeConfig) -> NDArray[np.float32]:
    return np.float32(1.0) / _periods(rope)


def _frequency_factors(rope: RopeConfig) -> NDArray[np.float32]:
    return np.array(rope.frequency_factors, np.float32)


def _llama3_frequencies(rope: RopeConfig) -> NDArray[np.float32]:
    """Long wavelengths are stretched by `factor`, short ones kept, those between interpolated."""
    original, low, high = _required(rope.original_max_position_embeddings, rope.low_freq_factor, rope.high_freq_factor)
    base = _base_frequencies(rope)
    wavelengths = np.float32(2 * math.pi) / base
    smooth = (np.float32(original) / wavelengths - np.float32(low)) / np.float32(high - low)
    interpolated = (1 - smooth) * base / np.float32(rope.factor) + smooth * base
    stretched = np.where(wavelengths > original / low, base / np.float32(rope.factor), interpolated)
    return np.where(wavelengths < original / high, base, stretched).astype(np.float32)


def _longrope_frequencies(rope: RopeConfig, context_window: int) -> NDArray[np.float32]:
    (original,) = _required(rope.original_max_position_embeddings)
    factors = rope.long_factor if context_window > original else rope.short_factor
    return np.float32(1.0) / (np.array(factors, np.float32) * _periods(rope))


def _yarn_frequencies(rope: RopeConfig) -> NDArray[np.float32]:
    """A ramp over dimensions from extrapolation (fast rotations) to interpolation (slow ones)."""
    periods = _periods(rope)
    first, last = _yarn_correction_range(rope)
    ramp = (np.arange(len(periods), dtype=np.float32) - np.float32(first)) / np.float32(last - first)
    extrapolated_share: NDArray[np.float32] = 1 - np.clip(ramp, 0, 1)
    interpolated = np.float32(1.0) / (np.float32(rope.factor) * periods)
    extrapolated = np.float32(1.0) / periods
    blended = interpolated * (1 - extrapolated_share) + extrapolated * extrapolated_share
    return blended.astype(np.float32)


def _yarn_correction_range(rope: RopeConfig) -> tuple[float, float]:
    (original,) = _required(rope.original_max_position_embeddings)
    dim = rope.rotary_dim

    def dimension_of(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(rope.rope_theta))

    first, last = dimension_of(rope.beta_fast or 32.0), dimension_of(rope.beta_slow or 1.0)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    return first, last if last != first else last + 0.001


def _yarn_attention_factor(rope: RopeConfig) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return _yarn_mscale(rope.factor, rope.mscale) / _yarn_mscale(rope.factor, rope.mscale_all_dim)
    return _yarn_mscale(rope.factor, 1.0)


def _yarn_mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _required(*values: float | None) -> tuple[float, ...]:
    assert all(value is not None for value in values), "config let an incomplete rope through"
    return tuple(value for value in values if value is not None)


def frequency_factors(rope: RopeConfig) -> NDArray[np.float32] | None:
    """What divides each of the base frequencies with rope type `llama3`, [rotary_dim / 2]; None for other types."""
    if rope.rope_type != "llama3":
        return None
    factors: NDArray[np.float32] = _base_frequencies(rope) / _llama3_frequencies(rope)
    return factors
