"""`PrefixRow`: where one published block lies, as one self-checking record. Touches no file; `docs/storage_format.md`."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2b, sha256

from transom.config.model_config import LayerKind

__all__ = ["KEY_BYTES", "PrefixRow", "place_of", "record_bytes", "split_place", "tenant_tag"]

KEY_BYTES = 32
TENANT_BYTES = 16
_DIGEST_BYTES = 16
_CHECKSUM_BYTES = 16
"""Of one slot."""

_HEADER = struct.Struct("<HHIQQ32s32s16s")
_KINDS = (LayerKind.FULL_ATTENTION, LayerKind.SLIDING_ATTENTION, LayerKind.SHORT_CONV)
"""In this order they are numbered on disk."""
_KIND_SHIFT = 56


@dataclass(frozen=True, slots=True)
class PrefixRow:
    """One block of one layer group: which tokens it stands for, where its bytes are, how they are known."""

    key: bytes
    """Of the node: the hash of the chain up to the block's last token."""
    parent: bytes
    """Key of the block before it; the root's for the first."""
    kind: LayerKind
    block_index: int
    cold_index: int
    """Its place in the cold file of its kind."""
    checksums: bytes
    """uint64 [num_layers, 2], little-endian: of each layer's share."""
    tenant: bytes
    """`tenant_tag` of whoever it was computed for."""
    last_use: int
    """Greater is more recent; means nothing beyond the order."""

    @property
    def place(self) -> int:
        """`place_of` this block."""
        return place_of(self.kind, self.cold_index)

    @property
    def num_layers(self) -> int:
        return len(self.checksums) // _CHECKSUM_BYTES

    def to_record(self, identity: bytes) -> bytes:
        """The bytes on disk, which only a reader of the same `identity` (at most 64 bytes) takes for a row."""
        content = _HEADER.pack(
            _KINDS.index(self.kind),
            self.num_layers,
            self.block_index,
            self.cold_index,
            self.last_use,
            self.key,
            self.parent,
            self.tenant,
        )
        content += self.checksums
        return content + _digest(content, identity)

    @classmethod
    def from_record(cls, record: bytes, identity: bytes) -> PrefixRow:
        """The row; ValueError when the record is damaged, or of another identity."""
        content, digest = record[:-_DIGEST_BYTES], record[-_DIGEST_BYTES:]
        if len(content) < _HEADER.size or digest != _digest(content, identity):
            raise ValueError("a damaged record")
        kind, num_layers, block_index, cold_index, last_use, key, parent, tenant = _HEADER.unpack_from(content)
        checksums = content[_HEADER.size :]
        if kind >= len(_KINDS) or len(checksums) != num_layers * _CHECKSUM_BYTES:
            raise ValueError("a record of another form")
        return cls(key, parent, _KINDS[kind], block_index, cold_index, checksums, tenant, last_use)


def place_of(kind: LayerKind, cold_index: int) -> int:
    """One number for a place in any of the cold files: at most one row has it."""
    return _KINDS.index(kind) << _KIND_SHIFT | cold_index


def split_place(place: int) -> tuple[LayerKind, int]:
    """The inverse of `place_of`."""
    return _KINDS[place >> _KIND_SHIFT], place & (1 << _KIND_SHIFT) - 1


def record_bytes(num_layers: int) -> int:
    """What the record of a block of so many layers takes."""
    return _HEADER.size + num_layers * _CHECKSUM_BYTES + _DIGEST_BYTES


def tenant_tag(tenant: str) -> bytes:
    """What a row says of its tenant: enough to find a tenant's rows by name, not to read the name."""
    return sha256(b"transom tenant\0" + tenant.encode()).digest()[:TENANT_BYTES]


def _digest(content: bytes, identity: bytes) -> bytes:
    return blake2b(content, digest_size=_DIGEST_BYTES, key=identity).digest()
