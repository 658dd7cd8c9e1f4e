"""The ring: transfers start as early as there is room, in order, and no slot is ever used by two."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.cache.small_models import FULL
from transom.cache.cold_tier import TIMED_OUT, ColdRead
from transom.cache.read_plan import ReadUnit, Round
from transom.cache.staging_ring import StagingRing, num_staging_slots
from transom.config.model_config import LayerKind


@dataclass
class FakeReader:
    """Notes what is read; what nobody waits for is over when the test says so."""

    generation: int = 0
    reads: list[ColdRead] = field(default_factory=list)
    over: bool = True
    error: int = 0

    def read(
        self, kind: LayerKind, row: int, cold_indices: NDArray[np.int64], arena_slots: NDArray[np.int32]
    ) -> ColdRead:
        del row
        self.reads.append(ColdRead(len(self.reads), kind, cold_indices, arena_slots))
        return self.reads[-1]

    def finish_read(self, read: ColdRead) -> NDArray[np.int32]:
        return np.full(len(read.cold_indices), self.error, np.int32)

    def is_over(self, read: ColdRead) -> bool:
        return self.over and read in self.reads

    def wait_for_read(self, read: ColdRead) -> bool:
        return self.is_over(read)

    @property
    def places(self) -> list[int]:
        return [int(index) for read in self.reads for index in read.cold_indices]


def unit(*cold_indices: int, row: int = 0) -> ReadUnit:
    places = np.array(cold_indices, dtype=np.int64)
    return ReadUnit(FULL, row, Round(0, 1, places, places))


def make_ring(reader: FakeReader, num_slots: int = 8) -> StagingRing:
    return StagingRing(reader, first_slot=100, num_slots=num_slots, slot_bytes=4096)


def pass_over(ring: StagingRing, units: list[ReadUnit]) -> None:
    ring.begin(units)
    for each in units:
        slots, errors = ring.take(each)
        assert len(slots) == each.round.num_slots
        assert not errors.any()
        ring.give_back(slots)
    ring.check_integrity()


def test_as_much_is_read_ahead_as_there_are_slots() -> None:
    reader = FakeReader()
    ring = make_ring(reader)
    ring.begin([unit(0, 1, 2), unit(3, 4, 5), unit(6, 7, 8)])
    assert reader.places == [0, 1, 2, 3, 4, 5]
    assert np.concatenate([read.arena_slots for read in reader.reads]).tolist() == list(range(100, 106))


def test_what_was_given_back_is_read_into_at_once() -> None:
    reader = FakeReader()
    ring = make_ring(reader)
    units = [unit(0, 1, 2, 3), unit(4, 5, 6, 7), unit(8, 9, 10, 11)]
    ring.begin(units)
    slots, _ = ring.take(units[0])
    assert reader.places == list(range(8))
    ring.give_back(slots)
    assert reader.places == list(range(12))
    assert reader.reads[-1].arena_slots.tolist() == slots.tolist()


def test_a_second_pass_finds_its_first_units_on_their_way() -> None:
    reader = FakeReader()
    ring = make_ring(reader)
    units = [unit(0, 1, 2, 3), unit(4, 5, 6, 7), unit(8, 9, 10, 11)]
    for _ in range(3):
        pass_over(ring, units)
    assert len(reader.reads) == 9 + 2  # no unit twice per pass; two are read ahead for a fourth one
    assert reader.places[12:16] == [0, 1, 2, 3]


def test_what_was_read_ahead_for_other_blocks_is_given_up() -> None:
    reader = FakeReader()
    ring = make_ring(reader)
    pass_over(ring, [unit(0, 1), unit(2, 3)])
    pass_over(ring, [unit(0, 1), unit(2, 3, 4)])
    pass_over(ring, [unit(9)])


def test_after_a_place_got_other_content_nothing_read_before_is_used() -> None:
    reader = FakeReader()
    ring = make_ring(reader)
    units = [unit(0, 1), unit(2, 3)]
    pass_over(ring, units)
    num_reads = len(reader.reads)
    reader.generation += 1
    ring.begin(units)
    assert reader.places[2 * num_reads :][:2] == [0, 1]


def test_slots_of_transfers_that_were_given_up_are_used_only_when_these_are_over() -> None:
    reader = FakeReader(over=False)
    ring = make_ring(reader, num_slots=8)
    ring.begin([unit(0, 1, 2, 3), unit(4, 5, 6)])
    ring.begin([unit(9, 10, 11)])
    assert reader.places == list(range(7))
    ring.check_integrity()
    reader.over = True
    slots, _ = ring.take(unit(9, 10, 11))
    assert len(slots) == 3


def test_errors_come_with_the_slots() -> None:
    reader = FakeReader(error=5)
    ring = make_ring(reader)
    ring.begin([unit(0, 1)])
    slots, errors = ring.take(unit(0, 1))
    assert errors.tolist() == [5, 5]
    ring.give_back(slots)
    ring.begin([])
    ring.check_integrity()


def test_slots_of_a_transfer_that_takes_too_long_stay_with_it() -> None:
    reader = FakeReader(over=False, error=TIMED_OUT)
    ring = make_ring(reader)
    ring.begin([unit(0, 1)])
    slots, errors = ring.take(unit(0, 1))
    assert (len(slots), errors.tolist()) == (0, [TIMED_OUT] * 2)
    ring.check_integrity()


def test_a_disk_that_keeps_all_slots_too_long_is_an_error_of_the_unit() -> None:
    reader = FakeReader(over=False, error=TIMED_OUT)
    ring = make_ring(reader, num_slots=4)
    ring.begin([unit(0, 1, 2, 3)])
    ring.take(unit(0, 1, 2, 3))
    ring.begin([unit(6, 7, 8)])
    slots, errors = ring.take(unit(6, 7, 8))
    assert (len(slots), errors.tolist()) == (0, [TIMED_OUT] * 3)
    ring.give_back(slots)
    ring.end()
    ring.check_integrity()
    reader.over, reader.error = True, 0
    pass_over(ring, [unit(6, 7, 8)])


def test_units_are_taken_as_planned() -> None:
    ring = make_ring(FakeReader())
    ring.begin([unit(0), unit(1)])
    with pytest.raises(AssertionError, match="another order"):
        ring.take(unit(1))


@given(
    passes=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=8), min_size=1, max_size=6),
    num_slots=st.integers(4, 20),
)
def test_any_passes_over_any_units_go_through_any_ring(passes: list[list[int]], num_slots: int) -> None:
    ring = make_ring(FakeReader(), num_slots)
    for sizes in passes:
        starts = np.cumsum([0, *sizes]).tolist()
        pass_over(ring, [unit(*range(a, a + n)) for a, n in zip(starts, sizes, strict=False)])


@pytest.mark.parametrize(
    ("num_slots", "slot_bytes", "expected"),
    [(12, 8192, 4), (40, 8192, 10), (2000, 32768, 250), (64, 2**18, 16), (10**5, 2**18, 128)],
)
def test_the_ring_is_a_small_part_of_the_arena(num_slots: int, slot_bytes: int, expected: int) -> None:
    assert num_staging_slots(num_slots, slot_bytes) == expected
