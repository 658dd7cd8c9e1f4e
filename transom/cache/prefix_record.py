"""What outlives a run: a record of each block of reuse data on SSD, and the door of whoever keeps the records.

Plain data and a protocol. Knows neither how records are stored nor what they are used for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transom.config.model_config import LayerKind

__all__ = ["BlockName", "BlockRecord", "NoPrefixStore", "PrefixStore"]

BlockName = tuple[bytes, LayerKind]
"""The key of a chain and the kind of layers: names one block."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockRecord:
    """One block of one kind of layers whose bytes are in the file of its kind."""

    key: bytes
    """Of the chain that ends with this block; 32 bytes."""
    parent: bytes
    """Key of the chain without it; the root key for the first block."""
    kind: LayerKind
    """SHORT_CONV: what the convolutions remember behind the chain's last token."""
    index: int
    """Which block of its sequence it is."""
    cold_index: int
    """Its place in the file."""
    checksums: NDArray[np.uint64]
    """[slots of the block, 2]"""
    tenant: bytes
    """`tenant_tag` of the salt."""

    @property
    def name(self) -> BlockName:
        return self.key, self.kind


class PrefixStore(Protocol):
    """Records that outlive a run. Called by the engine's thread: every method is quick, waits for no disk and raises
    nothing; whatever goes wrong with the records is a miss later."""

    def load(self) -> Iterable[BlockRecord]:
        """Called once, first: what an earlier run left, least recently used first. Their places are taken in the cold
        files, with these checksums."""
        ...

    def publish(self, records: Sequence[BlockRecord]) -> None:
        """These blocks are written. They may be recorded as soon as their bytes are durable."""
        ...

    def forget(self, names: Sequence[BlockName]) -> None:
        """These blocks leave their places, which other bytes will soon be written to."""
        ...

    def touch(self, keys: Sequence[bytes]) -> None:
        """These chains were used just now."""
        ...

    def flush(self, seconds: float) -> bool:
        """Waits until everything said so far is durable; False: it is not yet, or never will be."""
        ...

    def close(self) -> None:
        """The last call; may wait for a short time. Idempotent."""
        ...


class NoPrefixStore:
    """Nothing outlives the run."""

    def load(self) -> Iterable[BlockRecord]:
        return ()

    def publish(self, records: Sequence[BlockRecord]) -> None:
        """They are known as long as the process lives."""

    def forget(self, names: Sequence[BlockName]) -> None:
        """There is no record of them."""

    def touch(self, keys: Sequence[bytes]) -> None:
        """There is no record of them."""

    def flush(self, _seconds: float) -> bool:
        """Nothing will ever be, and nobody needs it."""
        return True

    def close(self) -> None:
        """There is nothing."""
