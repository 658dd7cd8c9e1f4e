"""What the cache says about itself, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from transom.config.model_config import LayerKind
from transom.histogram import NOTHING, HistogramCounts
from transom.request import CacheStrategy

HOT_TIER = "hot"
COLD_TIER = "cold"


class TierState(StrEnum):
    """What a tier is able to do."""

    ON = "on"
    PAUSED = "paused"
    """The disk is full or hangs: what is there is read, nothing is written for a while."""
    OFF = "off"
    """The disk fails again and again: what is there is read, nothing is written for longer."""


@dataclass(frozen=True, slots=True)
class TransferStats:
    """Traffic between RAM and a tier on SSD; counted from the tier's birth."""

    num_bytes_read: int = 0
    read_seconds: float = 0.0
    """Summed over transfers, which overlap."""
    num_bytes_written: int = 0
    write_seconds: float = 0.0
    num_blocks_written: int = 0
    stall_seconds: float = 0.0
    """Time that the engine did nothing but wait for a transfer."""
    num_checksum_failures: int = 0
    num_read_errors: int = 0
    """Reads that failed otherwise."""
    num_write_errors: int = 0
    num_pauses: int = 0
    """How often spilling was stopped, because the disk was full or kept failing."""
    read_latency: HistogramCounts = NOTHING
    """Seconds of single transfers into RAM, each of one layer's share of some blocks."""
    write_latency: HistogramCounts = NOTHING
    """The same for transfers to the tier, each of some whole blocks."""


@dataclass(frozen=True, slots=True)
class TierStats:
    """One place for keys and values."""

    name: str
    """`HOT_TIER` or `COLD_TIER`."""
    num_bytes_used: int
    """By open sequences, and by what is on its way."""
    num_bytes_total: int
    num_physical_bytes: int = 0
    """What the file system counts for everything in the tier's directory; 0 in RAM."""
    state: TierState = TierState.ON
    is_direct: bool = True
    """Nothing of it goes through the page cache."""
    transfers: TransferStats = TransferStats()
    num_bytes_reuse: int = 0
    """By what ended sequences left to later ones, as long as nobody wants its room."""


@dataclass(frozen=True, slots=True)
class SequenceStats:
    """One sequence, in tokens of its full-attention layers (of its sliding ones, where it has no others)."""

    request_id: str
    strategy: CacheStrategy
    num_tokens: int
    """Computed ones."""
    num_hot_tokens: int
    num_cold_tokens: int
    num_evicted_tokens: int
    """Forgotten by the strategy; with hot and cold tokens they make up all, up to whole blocks."""


@dataclass(frozen=True, slots=True)
class KindStats:
    """The layers of one kind."""

    kind: LayerKind
    num_layers: int
    num_blocks_used: int
    """Blocks in RAM that open sequences use."""
    num_blocks_total: int
    """Blocks of this kind that would fit in RAM if it had all the room; the kinds share one arena."""
    num_bytes_used: int
    num_cold_blocks: int = 0
    """Blocks on SSD alone that open sequences use."""
    num_reuse_blocks: int = 0
    """Blocks in RAM that ended sequences left."""
    num_cold_reuse_blocks: int = 0
    """The same on SSD alone."""


@dataclass(frozen=True, slots=True)
class ReuseStats:
    """What the reuse of prefixes did; counted from the cache's birth."""

    num_hits: int = 0
    """Sequences that began with KV of others."""
    num_hit_tokens: int = 0
    """Tokens that these did not compute."""
    num_hot_blocks: int = 0
    """Blocks of hits that were in RAM."""
    num_cold_blocks: int = 0
    """Blocks of hits that were on SSD alone."""
    num_recomputed_tokens: int = 0
    """Tokens whose KV was on SSD and was computed again, because reading would have taken longer."""
    num_evicted_blocks: int = 0
    """Blocks that were forgotten because somebody wanted their room."""
    num_lost_blocks: int = 0
    """Blocks that did not come back right from SSD."""
    num_cold_hit_tokens: int = 0
    """Those of the tokens of hits that had keys or values on SSD alone."""


@dataclass(frozen=True, slots=True)
class ConvStateStats:
    """States of short convolutions. They lie beside the hot tier, within the same budget."""

    num_layers: int
    num_sequences_used: int
    """Sequences that have a state: those that are being computed."""
    num_sequences_total: int
    num_bytes_used: int
    num_bytes_total: int


@dataclass(frozen=True, slots=True)
class CacheStats:
    """A snapshot. A block holds `block_size` tokens of all layers of one kind; a shared block counts once."""

    block_size: int
    num_sequences: int
    """Sequences that hold room, or may."""
    num_tokens: int
    """Tokens of these sequences that are computed."""
    tiers: tuple[TierStats, ...]
    """The hot one, and the cold one if there is one."""
    kinds: tuple[KindStats, ...]
    sequences: tuple[SequenceStats, ...] = ()
    reuse: ReuseStats = ReuseStats()
    conv_states: ConvStateStats | None = None
    """None of a model without convolutions."""

    @property
    def num_blocks_used(self) -> int:
        return sum(kind.num_blocks_used for kind in self.kinds)

    @property
    def num_bytes_used(self) -> int:
        return sum(tier.num_bytes_used for tier in self.tiers)

    @property
    def num_bytes_total(self) -> int:
        return sum(tier.num_bytes_total for tier in self.tiers)
