"""Records on disk: what was written is read, and nothing else is."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.cache.prefix_record import BlockRecord
from transom.cache.record_format import decode, encode, place_of, record_bytes
from transom.config.model_config import LayerKind

IDENTITY = bytes(range(32))
keys = st.binary(min_size=32, max_size=32)
records = st.builds(
    BlockRecord,
    key=keys,
    parent=keys,
    kind=st.sampled_from(LayerKind),
    index=st.integers(0, 2**32 - 1),
    cold_index=st.integers(0, 2**48),
    checksums=st.lists(st.tuples(*[st.integers(0, 2**64 - 1)] * 2), min_size=1, max_size=5).map(
        lambda rows: np.array(rows, np.uint64)
    ),
    tenant=keys,
)


def plain(record: BlockRecord) -> tuple[object, ...]:
    return tuple(each.tolist() if isinstance(each, np.ndarray) else each for each in astuple(record))


@given(records)
def test_what_was_written_is_read(record: BlockRecord) -> None:
    encoded = encode(record, IDENTITY)
    assert plain(decode(encoded, IDENTITY)) == plain(record)
    assert len(encoded) == record_bytes(len(record.checksums))


@given(records, st.data())
def test_a_change_of_any_byte_and_any_cut_is_refused(record: BlockRecord, data: st.DataObject) -> None:
    encoded = bytearray(encode(record, IDENTITY))
    place = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(ValueError):
        decode(bytes(encoded[:place]), IDENTITY)
    encoded[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError):
        decode(bytes(encoded), IDENTITY)


@given(records)
def test_another_identity_takes_it_for_nothing(record: BlockRecord) -> None:
    with pytest.raises(ValueError):
        decode(encode(record, IDENTITY), IDENTITY[::-1])


def test_places_of_the_kinds_differ() -> None:
    assert len({place_of(kind, index) for kind in LayerKind for index in (0, 1, 2**40)}) == 3 * len(LayerKind)
