"""What is still wanted of kept cold files: the places of records are taken, all else goes back to the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transom.cache.cold_store import ColdStore
from transom.cache.prefix_record import BlockRecord
from transom.config.model_config import LayerKind


class KeptPlaces:
    """The places of all kinds, before anything else is in them; `num_slots` may be taken in all."""

    def __init__(self, stores: Mapping[LayerKind, ColdStore], num_slots: int) -> None:
        self._stores = stores
        self._num_slots = num_slots

    def take(self, records: Sequence[BlockRecord]) -> list[BlockRecord]:
        """Those of the records, given least recently used first, that have a place here; as many of the last as fit.

        The bytes of all other places are gone then. Once; blocks for as long as that takes.
        """
        num_free_slots = self._num_slots
        taken: list[BlockRecord] = []
        for record in reversed(records):
            if self._is_possible(record) and len(record.checksums) <= num_free_slots:
                num_free_slots -= len(record.checksums)
                taken.append(record)
        for kind, store in self._stores.items():
            store.restore([record for record in taken if record.kind is kind])
        return taken[::-1]

    def _is_possible(self, record: BlockRecord) -> bool:
        """Whether a place like this exists: a record is proof against damage, not against a mistake of ours."""
        store = self._stores.get(record.kind)
        return store is not None and store.file.layout.has_place(record.cold_index, len(record.checksums))
