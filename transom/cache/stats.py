"""What the cache says about itself, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from transom.config.model_config import LayerKind


@dataclass(frozen=True, slots=True)
class TierStats:
    """One place for keys and values."""

    name: str
    num_bytes_used: int
    num_bytes_total: int


@dataclass(frozen=True, slots=True)
class KindStats:
    """The layers of one kind."""

    kind: LayerKind
    num_layers: int
    num_blocks_used: int
    num_blocks_total: int
    """Blocks of this kind that would fit if it had all the room; the kinds share one arena."""
    num_bytes_used: int


@dataclass(frozen=True, slots=True)
class CacheStats:
    """A snapshot. A block holds `block_size` tokens of all layers of one kind; a shared block counts once."""

    block_size: int
    num_sequences: int
    """Sequences that hold room, or may."""
    num_tokens: int
    """Tokens of these sequences that are computed."""
    tiers: tuple[TierStats, ...]
    kinds: tuple[KindStats, ...]

    @property
    def num_blocks_used(self) -> int:
        return sum(kind.num_blocks_used for kind in self.kinds)

    @property
    def num_bytes_used(self) -> int:
        return sum(tier.num_bytes_used for tier in self.tiers)

    @property
    def num_bytes_total(self) -> int:
        return sum(tier.num_bytes_total for tier in self.tiers)
