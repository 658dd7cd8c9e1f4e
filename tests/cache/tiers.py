"""Caches with a small cold tier in a directory of the test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cache.dense_driver import LAYERS, WINDOW
from tests.cache.small_models import KVDtype, make_cache
from transom.cache import CacheManager, TierStats
from transom.cache.file_system import RealFileSystem
from transom.kernels import IOFault

MIB = 2**20
NUM_RING_SLOTS = 4
"""Of arenas as small as these."""


@contextmanager
def tiered_cache(
    directory: Path,
    *,
    num_hot_slots: int = 12,
    max_ssd_bytes: int = 4 * MIB,
    hot_tokens: int | None = None,
    chunk: int = 128,
    kv_dtype: KVDtype = "f32",
    enable_prefix_cache: bool = False,
    max_reuse_ssd_bytes: int | None = None,
    fault: IOFault | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[CacheManager]:
    """Two full layers and a sliding one; `num_hot_slots` beside the ring, at most 27. A block of all takes 3 slots."""
    cache = make_cache(
        num_hot_slots + NUM_RING_SLOTS,
        LAYERS,
        WINDOW,
        kv_dtype=kv_dtype,
        chunk=chunk,
        max_ssd_bytes=max_ssd_bytes,
        ssd_path=directory / "cold",
        hot_tokens=hot_tokens,
        enable_prefix_cache=enable_prefix_cache,
        max_reuse_ssd_bytes=max_reuse_ssd_bytes,
        file_system=RealFileSystem(fault),
        clock=clock,
    )
    try:
        yield cache
    finally:
        cache.shut_down()


def cold_stats(cache: CacheManager) -> TierStats:
    return cache.stats().tiers[1]


def settled(cache: CacheManager) -> TierStats:
    """What the cold tier says of itself when nothing is being written any more."""
    for _ in range(1000):
        cache.check_integrity()
        stats = cold_stats(cache)
        if cache.stats().num_sequences or stats.num_bytes_used == 0:
            break
        time.sleep(0.005)
    return stats
