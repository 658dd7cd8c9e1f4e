"""What a layer may forget of one sequence. Owns the arithmetic of attended sets; knows no block, no byte and no kernel.

Attended sets follow from positions alone, but for `adaptive` without a cold tier, where measured attention decides.
They are fixed when a sequence is opened, so neither chunks nor neighbours change them.
"""

from __future__ import annotations

from dataclasses import dataclass

from transom.cache.block import BLOCK_SIZE, max_blocks_of_run, num_blocks
from transom.request import CacheOptions, CacheStrategy

RECENT_BLOCKS = 4
"""`adaptive` never forgets so many of the last blocks, nor the first one; none of them is demoted before others."""


@dataclass(frozen=True, slots=True)
class AttendedSet:
    """What the token at position p sees: positions below `keep_first`, and p itself back to `first_recent(p)`.

    The recent part is everything, or the last `window` tokens, or the last `window_blocks` blocks, p's own included.
    """

    keep_first: int = 0
    window: int | None = None
    window_blocks: int | None = None

    def first_recent(self, position: int) -> int:
        """Where the recent part begins for the token at `position`."""
        if self.window is not None:
            return max(0, position - self.window + 1)
        if self.window_blocks is not None:
            return BLOCK_SIZE * max(0, position // BLOCK_SIZE + 1 - self.window_blocks)
        return 0

    def num_forgotten(self, num_tokens: int) -> int:
        """How many of the first `num_tokens` tokens the last of them does not see."""
        return max(0, self.first_recent(num_tokens - 1) - self.keep_first) if num_tokens else 0

    def dead_blocks(self, num_computed_tokens: int) -> range:
        """The blocks that neither the token at position `num_computed_tokens` nor any later one can see."""
        return range(num_blocks(self.keep_first), self.first_recent(num_computed_tokens) // BLOCK_SIZE)

    def peak_blocks(self, num_tokens: int, chunk: int) -> int:
        """The most blocks a sequence of `num_tokens` ever holds at once when it is computed in chunks of `chunk`.

        A chunk needs its own tokens and what the first of them sees behind itself.
        """
        everything, pinned = num_blocks(num_tokens), num_blocks(self.keep_first)
        if self.window is not None:
            return min(everything, pinned + max_blocks_of_run(self.window - 1 + chunk))
        if self.window_blocks is not None:
            return min(everything, pinned + self.window_blocks - 1 + num_blocks(chunk))
        return everything


EVERYTHING = AttendedSet()


@dataclass(frozen=True, slots=True)
class Strategy:
    """How the full-attention layers of one sequence are kept."""

    name: CacheStrategy = CacheStrategy.FULL
    attended: AttendedSet = EVERYTHING
    max_chunk_blocks: int | None = None
    """A chunk may touch so many blocks: what the capacity leaves for it. None = no such limit."""
    capacity_blocks: int | None = None
    """Between steps so many blocks remain, those that are attended to most. None = attention decides nothing."""
    follows_mass: bool = False
    """Attention mass is measured, and decides which blocks leave RAM first."""

    @property
    def is_lossy(self) -> bool:
        """Tokens may be forgotten, if the sequence is long enough."""
        return self.capacity_blocks is not None or self.attended != EVERYTHING

    def peak_blocks(self, num_tokens: int, chunk: int) -> int:
        """As `AttendedSet.peak_blocks`."""
        if self.max_chunk_blocks is not None:
            chunk = min(chunk, self.max_chunk_blocks * BLOCK_SIZE)
        peak = self.attended.peak_blocks(num_tokens, chunk)
        return peak if self.capacity_blocks is None else min(peak, self.capacity_blocks + num_blocks(chunk))


FULL = Strategy()


def strategy_of(options: CacheOptions, *, capacity_blocks: int, chunk: int, has_cold_tier: bool) -> Strategy:
    """The strategy of a sequence for which the budgets hold `capacity_blocks` blocks in full-attention layers.

    `chunk` is the most tokens of one step. The options were validated at the edge.
    """
    match options.strategy:
        case CacheStrategy.FULL:
            return FULL
        case CacheStrategy.SLIDING_WINDOW:
            return Strategy(options.strategy, AttendedSet(window=options.window_size))
        case CacheStrategy.KEEP_FIRST:
            return Strategy(options.strategy, _first_and_recent(options))
        case CacheStrategy.FIFO:
            return _fifo(options, capacity_blocks, chunk)
        case CacheStrategy.ADAPTIVE if has_cold_tier:
            return Strategy(options.strategy, follows_mass=True)
        case CacheStrategy.ADAPTIVE:
            return _adaptive(capacity_blocks, chunk)


def _first_and_recent(options: CacheOptions) -> AttendedSet:
    if options.window_size is None:
        raise ValueError("keep_first without a window_size")
    return AttendedSet(options.keep_first, options.window_size - options.keep_first)


def _fifo(options: CacheOptions, capacity_blocks: int, chunk: int) -> Strategy:
    chunk_blocks = _chunk_blocks(capacity_blocks, chunk)
    window_blocks = capacity_blocks + 1 - chunk_blocks
    if options.window_size is not None:
        window_blocks = min(window_blocks, max(1, options.window_size // BLOCK_SIZE))
    return Strategy(options.strategy, AttendedSet(window_blocks=window_blocks), chunk_blocks)


def _adaptive(capacity_blocks: int, chunk: int) -> Strategy:
    chunk_blocks = _chunk_blocks(capacity_blocks, chunk)
    kept = max(1, capacity_blocks - chunk_blocks)
    return Strategy(CacheStrategy.ADAPTIVE, max_chunk_blocks=chunk_blocks, capacity_blocks=kept, follows_mass=True)


def _chunk_blocks(capacity_blocks: int, chunk: int) -> int:
    """A chunk takes at most a quarter of the capacity, so that most of it serves memory, not computation."""
    return max(1, min(chunk // BLOCK_SIZE, capacity_blocks // 4))
