"""Where keys and values live. `CacheManager` is the only door; scheduler and models never look behind it."""

from transom.cache.block import BLOCK_SIZE
from transom.cache.cache_manager import CacheManager
from transom.cache.cold_file import Identify
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

__all__ = [
    "BLOCK_SIZE",
    "CacheManager",
    "CacheStats",
    "ConvStateStats",
    "Identify",
    "KindStats",
    "LostBlockError",
    "PagedLayerCache",
    "ReuseStats",
    "SequenceCache",
    "SequenceStats",
    "TierState",
    "TierStats",
    "TokenIds",
    "TransferStats",
]
