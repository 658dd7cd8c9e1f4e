"""Runs a computation on every instruction set and number of threads this machine has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

from transom import kernels

Isa = Literal["portable", "avx2", "avx512", "avx512vnni"]
T = TypeVar("T")
ALL_ISAS: tuple[Isa, ...] = ("portable", "avx2", "avx512", "avx512vnni")


def available_isas() -> tuple[Isa, ...]:
    return ALL_ISAS[: ALL_ISAS.index(kernels.best_isa()) + 1]


@contextmanager
def using(isa: Isa, num_threads: int) -> Iterator[None]:
    """The given setting within, the one before it afterwards."""
    isa_before, threads_before = kernels.active_isa(), kernels.num_threads()
    kernels.set_active_isa(isa)
    kernels.set_num_threads(num_threads)
    try:
        yield
    finally:
        kernels.set_active_isa(isa_before)
        kernels.set_num_threads(threads_before)


def everywhere(compute: Callable[[], T]) -> Iterator[T]:
    """The result of compute() on each instruction set, with one thread and with three."""
    for isa in available_isas():
        for num_threads in (1, 3):
            with using(isa, num_threads):
                yield compute()
