"""The bytes of a `BlockRecord` on disk, self-checking. Touches no file; `docs/storage_format.md`."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from transom.cache.prefix_record import BlockName, BlockRecord
from transom.config.model_config import LayerKind

__all__ = ["IDENTITY_BYTES", "SoundRecords", "decode", "encode", "place_of", "record_bytes", "sound_records"]

IDENTITY_BYTES = 32

_DIGEST_BYTES = 16
_CHECKSUM_BYTES = 16
"""Of one slot."""

_HEADER = struct.Struct("<HHIQ32s32s32s")
_KINDS = (LayerKind.FULL_ATTENTION, LayerKind.SLIDING_ATTENTION, LayerKind.SHORT_CONV)
"""In this order they are numbered on disk."""
_KIND_SHIFT = 56


def encode(record: BlockRecord, identity: bytes) -> bytes:
    """What only a reader of the same identity takes for a record: IDENTITY_BYTES that say what the KV was made by."""
    header = _HEADER.pack(
        _KINDS.index(record.kind),
        len(record.checksums),
        record.index,
        record.cold_index,
        record.key,
        record.parent,
        record.tenant,
    )
    content = header + record.checksums.astype("<u8").tobytes()
    return content + _digest(content, identity)


def decode(encoded: bytes, identity: bytes) -> BlockRecord:
    """The inverse; ValueError when a byte of it is wrong, or it is of another identity."""
    content, digest = encoded[:-_DIGEST_BYTES], encoded[-_DIGEST_BYTES:]
    if digest != _digest(content, identity) or len(content) < _HEADER.size:
        raise ValueError("a damaged record, or one of another identity")
    kind, num_slots, index, cold_index, key, parent, tenant = _HEADER.unpack_from(content)
    if kind >= len(_KINDS) or len(content) != _HEADER.size + num_slots * _CHECKSUM_BYTES:
        raise ValueError("a record of another form")
    checksums = np.frombuffer(content, "<u8", offset=_HEADER.size).reshape(num_slots, 2)
    return BlockRecord(key, parent, _KINDS[kind], index, cold_index, checksums, tenant)


@dataclass(frozen=True, slots=True)
class SoundRecords:
    """What of encoded records is what somebody wrote."""

    records: list[BlockRecord]
    """Least recently used first; each name once, each place once."""
    damaged_places: list[int]
    last_use: int
    """The greatest of all."""


def sound_records(encoded: Iterable[tuple[int, int, bytes]], identity: bytes) -> SoundRecords:
    """Of (place, last use, encoded record), each place once: the records that are of this identity and at their place.

    Takes two microseconds or three for each.
    """
    found: dict[BlockName, tuple[int, BlockRecord]] = {}
    damaged: list[int] = []
    for place, last_use, each in encoded:
        try:
            record = decode(each, identity)
        except ValueError:
            damaged.append(place)
            continue
        if place_of(record.kind, record.cold_index) != place or record.name in found:
            damaged.append(place)
        else:
            found[record.name] = last_use, record
    ordered = sorted(found.values(), key=lambda each: each[0])
    return SoundRecords([record for _, record in ordered], damaged, ordered[-1][0] if ordered else 0)


def place_of(kind: LayerKind, cold_index: int) -> int:
    """One number for a place in any of the cold files: at most one record has it."""
    return _KINDS.index(kind) << _KIND_SHIFT | cold_index


def record_bytes(num_slots: int) -> int:
    """What the record of a block of so many slots takes."""
    return _HEADER.size + num_slots * _CHECKSUM_BYTES + _DIGEST_BYTES


def _digest(content: bytes, identity: bytes) -> bytes:
    return blake2b(content, digest_size=_DIGEST_BYTES, key=identity).digest()
