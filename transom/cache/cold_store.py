"""`ColdStore`: the blocks of one kind in their file. Owns places and checksums; knows neither budget nor transfers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom.cache.block import NO_INDEX, Block
from transom.cache.cold_file import ColdFile
from transom.cache.cold_indices import ColdIndices
from transom.cache.prefix_record import BlockRecord


@dataclass(slots=True)
class Run:
    """Where the blocks of one kind of a sequence lie if nothing is in the way: block i at place `base` + i."""

    base: int | None = None


class ColdStore:
    """Places `0 .. capacity` of a file, each for one block: a slot in every layer's part."""

    def __init__(self, file: ColdFile) -> None:
        self.file = file
        self.num_used = 0
        """Places with a block."""
        self._indices = ColdIndices(file.capacity)
        self._checksums = np.zeros((file.num_rows, file.capacity, 2), np.uint64)  # in RAM where written to
        self._has_bytes = np.zeros(file.capacity, np.bool_)  # the file may hold bytes there
        self._is_from_earlier = np.zeros(file.capacity, np.bool_)  # nobody of this run wrote the bytes there
        self._freed: list[int] = []  # places without a block, not yet given back to the disk

    @property
    def num_layers(self) -> int:
        return self.file.num_rows

    @property
    def block_bytes(self) -> int:
        """What a block takes in the file."""
        return self.num_layers * self.file.stride

    @property
    def num_retired(self) -> int:
        """Places that are used no more, because they could not be read."""
        return self._indices.num_retired

    @property
    def num_free(self) -> int:
        return self._indices.num_free + len(self._freed)

    def place(self, blocks: Sequence[Block], run: Run) -> int:
        """Gives each block a place, near the others of its run; the bytes by which the file may grow. Trim first."""
        num_new = 0
        for block in blocks:
            block.cold_index = self._indices.take(None if run.base is None else run.base + block.index)
            run.base = block.cold_index - block.index
            num_new += not self._has_bytes[block.cold_index]
            self._has_bytes[block.cold_index] = True
            self._is_from_earlier[block.cold_index] = False
        self.num_used += len(blocks)
        return num_new * self.block_bytes

    def restore(self, records: Sequence[BlockRecord]) -> None:
        """The places of blocks that an earlier run wrote, each once, are taken; all others are emptied. First, once."""
        indices = sorted(record.cold_index for record in records)
        for index in indices:
            self._indices.take(index)
        for record in records:
            self._checksums[:, record.cold_index] = record.checksums
        self.num_used += len(records)
        self._has_bytes[:] = True
        for first, count in gaps(indices, self.file.capacity):
            self._punch(first, count)
        self._is_from_earlier[indices] = True

    def is_from_earlier(self, cold_indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[blocks]: whether an earlier run wrote the bytes at these places; they may not be what its record says."""
        is_from_earlier: NDArray[np.bool_] = self._is_from_earlier[cold_indices]
        return is_from_earlier

    def unplace(self, block: Block) -> None:
        """The block leaves its place, which is free from the next `trim` on."""
        self._freed.append(block.cold_index)
        self.num_used -= 1
        block.cold_index = NO_INDEX

    def retire(self, cold_indices: Iterable[int]) -> None:
        """Places that could not be read: nobody gets them once their blocks have left."""
        for index in cold_indices:
            self._indices.retire(index)

    def offsets(self, cold_indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """[num_layers, blocks]: where the shares of blocks begin in the file."""
        return self.file.offsets(np.arange(self.num_layers)[:, np.newaxis], cold_indices)

    def checksums(self, row: int | slice, cold_indices: NDArray[np.int64]) -> NDArray[np.uint64]:
        """[blocks, 2], of one layer's share, or [layers, blocks, 2]; a copy."""
        checksums: NDArray[np.uint64] = self._checksums[row, cold_indices]
        return checksums

    def keep_checksums(self, cold_indices: NDArray[np.int64], checksums: NDArray[np.uint64]) -> None:
        """What a write found, [num_layers, blocks, 2]."""
        self._checksums[:, cold_indices] = checksums

    def trim(self) -> bool:
        """Gives the bytes of freed places back to the disk, run by run; the places can be used again in any case.

        False: the disk kept some of them.
        """
        freed, self._freed = sorted(self._freed), []
        for index in freed:
            self._indices.release(index)
        emptied = [self._punch(first, count) for first, count in _runs(freed)]
        return all(emptied)

    def _punch(self, first: int, count: int) -> bool:
        try:
            self.file.punch(first, count)
        except OSError:
            return False
        self._has_bytes[first : first + count] = False
        return True

    def check_integrity(self, blocks: Sequence[Block]) -> None:
        """`blocks` are all that have a place here. Raises AssertionError when places do not add up."""
        indices = [block.cold_index for block in blocks]
        assert len(set(indices)) == len(indices), "two blocks have one place in the cold tier"
        assert not set(indices) & set(self._freed), "a block lies at a place that is being freed"
        assert all(self._indices.is_taken(index) for index in indices), "a block lies at a place that is free"
        assert len(indices) == self.num_used, f"{self.num_used} places in use, {len(indices)} owned by blocks"


def _runs(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of consecutive ascending numbers."""
    for _, group in itertools.groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        run = [index for _, index in group]
        yield run[0], len(run)


def gaps(indices: Sequence[int], end: int) -> Iterator[tuple[int, int]]:
    """(first, count) of what ascending numbers leave of `0 .. end`."""
    for before, after in itertools.pairwise([-1, *indices, end]):
        if after - before > 1:
            yield before + 1, after - before - 1
