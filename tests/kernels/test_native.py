"""Threads and instruction sets."""

from __future__ import annotations

import threading
from typing import cast

import numpy as np
import pytest

from tests.kernels.instruction_sets import Isa, available_isas, using
from transom import kernels


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_number_of_threads_is_what_was_set(count: int) -> None:
    with using(kernels.active_isa(), count):
        assert kernels.num_threads() == count


@pytest.mark.parametrize("count", [0, -1, 1025])
def test_an_unreasonable_number_of_threads_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.1024"):
        kernels.set_num_threads(count)


def test_the_instruction_set_is_what_was_set() -> None:
    for isa in available_isas():
        with using(isa, 1):
            assert kernels.active_isa() == isa


def test_the_best_instruction_set_is_in_use_unless_told_otherwise() -> None:
    assert kernels.active_isa() == kernels.best_isa()


def test_an_unknown_instruction_set_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="mmx"):
        kernels.set_active_isa(cast(Isa, "mmx"))


def test_callers_on_several_threads_get_their_own_results() -> None:
    weight = kernels.PackedMatrix(160, 300, "f32")
    weight.fill(0, np.random.default_rng(0).standard_normal((160, 300), np.float32))
    inputs = [np.random.default_rng(seed).standard_normal((9, 300), np.float32) for seed in range(4)]
    expected = [kernels.matmul(x, weight) for x in inputs]
    failures: list[int] = []

    def compute(index: int) -> None:
        for _ in range(50):
            if not np.array_equal(kernels.matmul(inputs[index], weight), expected[index]):
                failures.append(index)

    threads = [threading.Thread(target=compute, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
