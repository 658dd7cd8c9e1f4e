"""Where keys and values live. `CacheManager` is the only door; scheduler and models never look behind it.

`KVSizes` is its arithmetic alone, for those who plan in another process."""

from transom.cache.block import BLOCK_SIZE
from transom.cache.cache_manager import CacheManager
from transom.cache.cold_file import Identify
from transom.cache.kv_sizes import KVSizes
from transom.cache.layer_cache import PagedLayerCache
from transom.cache.lost_block import LostBlockError
from transom.cache.sequence_cache import SequenceCache, TokenIds
from transom.cache.stats import (
    CacheStats,
    ConvStateStats,
    KindStats,
    ReuseStats,
    SequenceStats,
    TierState,
    TierStats,
    TransferStats,
)
from transom.cache.window import BlockRun, Importance, KindWindow, PlaceState, SequenceWindow

__all__ = [
    "BLOCK_SIZE",
    "BlockRun",
    "CacheManager",
    "CacheStats",
    "ConvStateStats",
    "Identify",
    "Importance",
    "KVSizes",
    "KindStats",
    "KindWindow",
    "LostBlockError",
    "PagedLayerCache",
    "PlaceState",
    "ReuseStats",
    "SequenceCache",
    "SequenceStats",
    "SequenceWindow",
    "TierState",
    "TierStats",
    "TokenIds",
    "TransferStats",
]
