"""Places of a file: each given out once, and near the others of its run."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from transom.cache.cold_indices import ColdIndices


def test_the_preferred_place_is_given_if_it_is_free() -> None:
    indices = ColdIndices(10)
    assert [indices.take(None), indices.take(1), indices.take(2)] == [0, 1, 2]


@pytest.mark.parametrize("preferred", [-1, 10, 0])
def test_a_preferred_place_that_is_not_to_be_had_begins_a_run_elsewhere(preferred: int) -> None:
    indices = ColdIndices(10)
    indices.take(0)
    assert indices.take(preferred) == 5


def test_a_new_run_begins_where_it_and_its_neighbour_can_grow() -> None:
    indices = ColdIndices(100)
    first = [indices.take(None), *(indices.take(index) for index in range(1, 10))]
    second = indices.take(None)
    assert (first, second) == (list(range(10)), 55)
    assert indices.take(None) == (10 + 55) // 2


def test_the_last_place_is_found_wherever_it_is() -> None:
    indices = ColdIndices(7)
    for _ in range(7):
        indices.take(None)
    indices.release(3)
    assert indices.take(None) == 3
    with pytest.raises(AssertionError, match="none is free"):
        indices.take(None)


def test_a_retired_place_is_never_given_out_again() -> None:
    indices = ColdIndices(2)
    taken = [indices.take(None), indices.take(None)]
    indices.retire(taken[0])
    for index in taken:
        indices.release(index)
    assert (indices.num_free, indices.num_retired) == (1, 1)
    assert indices.take(taken[0]) == taken[1]


def test_a_file_as_large_as_a_file_system_takes_no_memory_for_places_that_nobody_uses() -> None:
    tracemalloc.start()
    indices = ColdIndices(2**48)
    run = [indices.take(None)]
    for _ in range(999):
        run.append(indices.take(run[-1] + 1))
    other = indices.take(None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**18
    assert run == list(range(1000))
    assert other == (1000 + 2**48) // 2


def test_a_place_cannot_be_released_twice() -> None:
    indices = ColdIndices(2)
    indices.release(indices.take(None))
    with pytest.raises(AssertionError, match="nobody had"):
        indices.release(0)


class IndicesMachine(RuleBasedStateMachine):
    """Random takers against a set."""

    def __init__(self) -> None:
        super().__init__()
        self.indices = ColdIndices(30)
        self.taken: set[int] = set()
        self.retired: set[int] = set()

    @precondition(lambda self: self.indices.num_free)
    @rule(preferred=st.none() | st.integers(-5, 35))
    def take(self, preferred: int | None) -> None:
        is_free = preferred is not None and 0 <= preferred < 30 and not self.indices.is_taken(preferred)
        index = self.indices.take(preferred)
        assert index not in self.taken | self.retired
        assert index == preferred or not is_free
        self.taken.add(index)

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), retire=st.booleans())
    def give_back(self, data: st.DataObject, retire: bool) -> None:
        index = data.draw(st.sampled_from(sorted(self.taken)))
        if retire:
            self.indices.retire(index)
            self.retired.add(index)
        self.indices.release(index)
        self.taken.remove(index)

    @invariant()
    def every_place_is_accounted_for(self) -> None:
        assert self.indices.num_free == 30 - len(self.taken | self.retired)
        assert all(self.indices.is_taken(index) == (index in self.taken | self.retired) for index in range(30))


TestIndices = IndicesMachine.TestCase
TestIndices.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
