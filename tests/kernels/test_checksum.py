"""The checksum of stored slots: equal on every instruction set, and sensitive to everything that disks do to bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.kernels.instruction_sets import everywhere
from transom import kernels
from transom.kernels import reference

SLOT_BYTES = 4096


def random_bytes(num_bytes: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, num_bytes, dtype=np.uint8)


def test_the_crc_of_the_reference_is_the_published_one() -> None:
    assert reference._crc32c(b"123456789") == 0xE3069283


def test_the_empty_array_has_a_checksum() -> None:
    empty = np.zeros(0, np.uint8)
    assert kernels.checksum(empty) == reference.checksum(empty)


@given(st.binary(max_size=130))
@settings(max_examples=100, deadline=None)
def test_every_instruction_set_computes_what_the_reference_says(data: bytes) -> None:
    array = np.frombuffer(data, np.uint8)
    assert {kernels.checksum(array)} | set(everywhere(lambda: kernels.checksum(array))) == {reference.checksum(array)}


@pytest.mark.parametrize("num_bytes", [32, 4096, 10_000, 65_537])
def test_large_arrays_have_the_reference_s_checksum_too(num_bytes: int) -> None:
    array = random_bytes(num_bytes)
    assert set(everywhere(lambda: kernels.checksum(array))) == {reference.checksum(array)}


def test_every_flipped_bit_of_a_slot_changes_it() -> None:
    array = random_bytes(SLOT_BYTES)
    expected = kernels.checksum(array)
    seen = set()
    for position in range(8 * SLOT_BYTES):
        array[position // 8] ^= 1 << position % 8
        seen.add(kernels.checksum(array))
        array[position // 8] ^= 1 << position % 8
    assert expected not in seen
    assert kernels.checksum(array) == expected


@pytest.mark.parametrize("fill", [0, 255, None])
def test_every_truncation_of_a_slot_changes_it(fill: int | None) -> None:
    array = random_bytes(SLOT_BYTES) if fill is None else np.full(SLOT_BYTES, fill, np.uint8)
    assert len({kernels.checksum(array[:size]) for size in range(SLOT_BYTES + 1)}) == SLOT_BYTES + 1


def test_every_end_of_a_slot_that_became_zeros_changes_it() -> None:
    array = random_bytes(SLOT_BYTES) | np.uint8(1)
    sums = set()
    for size in range(SLOT_BYTES, -1, -1):
        array[size:] = 0
        sums.add(kernels.checksum(array))
    assert len(sums) == SLOT_BYTES + 1


def test_words_that_changed_places_change_it() -> None:
    words = random_bytes(SLOT_BYTES).view(np.uint64)
    expected = kernels.checksum(words.view(np.uint8))
    for other in range(1, len(words)):
        swapped = words.copy()
        swapped[[0, other]] = swapped[[other, 0]]
        assert kernels.checksum(swapped.view(np.uint8)) != expected


def test_an_array_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="uint8"):
        kernels.checksum(np.zeros(4, np.float32))


def test_an_array_with_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="array"):
        kernels.checksum(np.zeros(8, np.uint8)[::2])
