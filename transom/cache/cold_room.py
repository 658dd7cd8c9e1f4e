"""How many slots a budget of SSD holds. Arithmetic alone; opens nothing, so that it can be asked before anything is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transom.cache.cold_format import KIND_NAMES, ColdLayout
from transom.cache.cold_tier import metadata_bytes
from transom.cache.layer_group import LayerGroup
from transom.cache.prefix_database import DatabaseSize
from transom.cache.record_format import record_bytes
from transom.config.model_config import LayerKind
from transom.errors import ConfigError

_PAGE = 4096
_FILE_BYTES = 2 * _PAGE
"""What a file may take before anything is in it."""
_REPLACEMENT_BYTES = _PAGE
"""A small file is there twice while it is replaced."""
_LEAST_OTHER_BYTES = 8 * _PAGE
"""Set aside for the directory and its small files, whether they take less or are not there yet: so the room is the same
in every directory that holds nothing else, and is known before it exists."""

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class ColdRoom:
    """What `max_bytes` of a directory hold, for files with these layouts."""

    layouts: Sequence[ColdLayout]
    max_bytes: int
    is_kept: bool
    """Blocks outlive the run: records of them are kept beside the files."""

    @classmethod
    def of(cls, groups: Sequence[LayerGroup], slot_bytes: int, max_bytes: int, *, is_kept: bool) -> ColdRoom:
        """For these groups of layers, each with a file of its own."""
        layouts = tuple(_layout(group, slot_bytes, max_bytes, is_kept=is_kept) for group in groups)
        return cls(layouts, max_bytes, is_kept)

    def num_slots(self, other_bytes: int, path: Path) -> int:
        """Slots that fit beside what else is there, what a file system needs to find them, and their records.

        `other_bytes` is all that is not a cold file or the database. ConfigError when not even one block fits.
        """
        others = max(other_bytes, _LEAST_OTHER_BYTES)
        room = self.max_bytes - others - len(self.layouts) * _FILE_BYTES - _REPLACEMENT_BYTES * self.is_kept
        stride = self.layouts[0].stride
        candidates = range(max(0, room) // stride + 1)
        num_slots = bisect_right(candidates, room, key=self._bytes_of_slots) - 1
        block_slots = sum(layout.num_rows for layout in self.layouts if layout.kind is not LayerKind.SHORT_CONV)
        if num_slots < block_slots:
            raise ConfigError(
                f"max_ssd_mb is {self.max_bytes / _MIB:g} MiB, but one block takes {block_slots * stride} bytes beside "
                f"the {others} bytes of what else is in {path}"
            )
        return num_slots

    def database_size(self, num_slots: int) -> DatabaseSize | None:
        """For the records of so many slots: the fewer of them a block has, the more records there may be."""
        if not self.is_kept:
            return None
        least = min(layout.num_rows for layout in self.layouts)
        return DatabaseSize(num_slots // least, record_bytes(least))

    def _bytes_of_slots(self, num_slots: int) -> int:
        size = self.database_size(num_slots)
        num_bytes = num_slots * self.layouts[0].stride + metadata_bytes(num_slots)
        return num_bytes if size is None else num_bytes + size.num_bytes


def _layout(group: LayerGroup, slot_bytes: int, max_bytes: int, *, is_kept: bool) -> ColdLayout:
    """As if the group had the whole budget: a file is as large as what is in it.

    Where files are kept, rounded up to a power of two: they lie alike under budgets that differ a little.
    """
    one = ColdLayout(KIND_NAMES[group.kind], group.num_layers, 1, slot_bytes)
    capacity = max(1, max_bytes // one.block_bytes)
    return replace(one, capacity=1 << (capacity - 1).bit_length() if is_kept else capacity)
