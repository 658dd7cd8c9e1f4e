"""What a benchmark measures: lengths, depths, and which of them the time allows. Arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transom.errors import ConfigError

DEPTH_STEP = 512
"""Default depths are multiples of the usual chunk, so that a chunk of a prompt begins at each."""
MAX_PREFILL_TOKENS = 512
MAX_DECODE_TOKENS = 32
DEFAULT_SECONDS = 100.0
"""What default depths may take, all series together, without the loading of the model."""

_FIRST_DEPTH = 1024
_GROWTH = 4
_SLOWER = 1.3  # a longer context than the last one is read so many times as slowly, by experience


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of one measurement behind its depth."""

    num_prefill_tokens: int
    num_decode_tokens: int

    @property
    def num_tokens(self) -> int:
        """All of them, with the token that the prefill gives."""
        return self.num_prefill_tokens + 1 + self.num_decode_tokens

    @classmethod
    def of(cls, context_window: int, num_prefill_tokens: int | None, num_decode_tokens: int | None) -> Lengths:
        """What is not given is the usual, or less where the context window is small. ConfigError for too much."""
        lengths = cls(
            num_prefill_tokens or max(1, min(MAX_PREFILL_TOKENS, context_window // 4)),
            num_decode_tokens or max(1, min(MAX_DECODE_TOKENS, context_window // 8)),
        )
        if lengths.num_tokens > context_window:
            raise ConfigError(
                f"{lengths.num_prefill_tokens} tokens of prefill and {lengths.num_decode_tokens} of decode (with the "
                f"one between them) do not fit the context window of {context_window} tokens"
            )
        return lengths


def default_depths(num_tokens: int) -> tuple[int, ...]:
    """0, 1024, and so on by factors of 4, and the deepest at which `num_tokens` are not exceeded."""
    deepest = num_tokens // DEPTH_STEP * DEPTH_STEP
    depths = [0]
    depth = _FIRST_DEPTH
    while depth < deepest:
        depths.append(depth)
        depth *= _GROWTH
    return (*depths, deepest) if deepest > 0 else tuple(depths)


def check_depths(depths: Sequence[int], lengths: Lengths, context_window: int) -> tuple[int, ...]:
    """`depths` in order, each once. ConfigError for one at which there is no room to measure."""
    most = context_window - lengths.num_tokens
    for depth in depths:
        if not 0 <= depth <= most:
            raise ConfigError(
                f"--depths {depth}: must be 0 to {most}, so that {lengths.num_tokens} tokens behind it fit the "
                f"context window of {context_window}"
            )
    return tuple(sorted(set(depths)))


def expected_seconds(
    num_more_tokens: int, num_rounds: int, lengths: Lengths, prefill_rate: float, decode_rate: float
) -> float:
    """What the next depth takes, `num_more_tokens` deeper than the last one, whose rates are given."""
    per_round = lengths.num_prefill_tokens / prefill_rate + lengths.num_decode_tokens / decode_rate
    return _SLOWER * (num_more_tokens / prefill_rate + num_rounds * per_round)
