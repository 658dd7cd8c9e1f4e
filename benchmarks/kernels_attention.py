"""How near does paged attention come to what the machine allows?

    python -m benchmarks.kernels_attention [--threads 2] [--isa avx2|avx512|portable] [--context 16384] [--seconds 1.0]

Decode: one row of one sequence over a long context, several layers so that nothing stays in a cache; bytes of KV read
per second beside the memory bandwidth measured before and after it, as that comes and goes on a virtual machine. The
same for one row of each of 16 sequences of 512 tokens. Prefill: a chunk of rows at the end of that context;
arithmetic per second beside that of the f32 matrix product in the same run. Rounds: how much longer decode takes when
it is called for every four splits, as with staged blocks. Each of these figures is the best of the repetitions that fit
in the time: neighbours on the machine only ever slow a run down.

Mass: how much longer attention takes when the share of each block is measured, as `adaptive` does. With and without
take turns, and the figure is the median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Literal

import numpy as np

from transom import kernels

ARENA_BYTES = 1 << 29  # far more than any cache


@dataclass(frozen=True)
class Shape:
    """Attention of one model."""

    name: str
    num_key_value_heads: int
    group: int
    head_dim: int
    dtype: Literal["f32", "f16", "q8_0"] = "f16"

    @property
    def layout(self) -> kernels.KVLayout:
        return kernels.KVLayout(self.num_key_value_heads, self.head_dim, self.dtype)

    @property
    def num_heads(self) -> int:
        return self.num_key_value_heads * self.group


SHAPES = [
    Shape("1B, GQA 8 x 4 x 64", 8, 4, 64),
    Shape("8B, GQA 8 x 4 x 128", 8, 4, 128),
    Shape("MHA 32 x 1 x 128", 32, 1, 128),
    Shape("GQA 4 x 8 x 64", 4, 8, 64),
    Shape("1B in f32", 8, 4, 64, "f32"),
    Shape("1B in q8_0", 8, 4, 64, "q8_0"),
    Shape("8B in q8_0", 8, 4, 128, "q8_0"),
]


class Layers:
    """KV of one sequence in as many layers as the arena holds, blocks of the layers interleaved."""

    def __init__(self, shape: Shape, context: int) -> None:
        self.shape, self.context = shape, context
        num_blocks = -(-context // 64)
        self.count = max(1, ARENA_BYTES // (num_blocks * shape.layout.slot_bytes))
        self.arena = kernels.allocate_arena(self.count * num_blocks * shape.layout.slot_bytes)
        self.arena[:] = 0x2C  # numbers of moderate size, whatever the type
        slots = np.arange(num_blocks * self.count, dtype=np.int32).reshape(num_blocks, self.count)
        self.tables = [np.ascontiguousarray(slots[None, :, layer]) for layer in range(self.count)]

    def caller(self, num_rows: int) -> Callable[[], object]:
        """Each call attends with that many last rows in the next layer."""
        shape, tables = self.shape, cycle(self.tables)
        query = np.random.default_rng(0).standard_normal((num_rows, shape.num_heads, shape.head_dim), np.float32)
        starts, first = np.array([0, num_rows], np.int32), np.array([self.context - num_rows], np.int32)
        scale = shape.head_dim**-0.5
        return lambda: kernels.attend(self.arena, shape.layout, next(tables), starts, first, query, scale)

    def batch_caller(self, num_sequences: int) -> Callable[[], object]:
        """Each call decodes one row of each of as many sequences, which share the context out among them."""
        shape, each = self.shape, self.context // num_sequences
        tables = cycle([table.reshape(num_sequences, each // 64) for table in self.tables])
        query = np.random.default_rng(0).standard_normal((num_sequences, shape.num_heads, shape.head_dim), np.float32)
        starts, first = np.arange(num_sequences + 1, dtype=np.int32), np.full(num_sequences, each - 1, np.int32)
        scale = shape.head_dim**-0.5
        return lambda: kernels.attend(self.arena, shape.layout, next(tables), starts, first, query, scale)

    def stepper(
        self, num_rows: int, splits_per_round: int | None = None, measure_mass: bool = False
    ) -> Callable[[], object]:
        """As `caller`, in rounds; None: a single one."""
        shape, tables, num_splits = self.shape, cycle(self.tables), -(-self.context // 256)
        splits_per_round = splits_per_round or num_splits
        query = np.random.default_rng(0).standard_normal((num_rows, shape.num_heads, shape.head_dim), np.float32)
        starts, first = np.array([0, num_rows], np.int32), np.array([self.context - num_rows], np.int32)

        def attend() -> object:
            table = next(tables)
            state = kernels.AttentionState(
                shape.layout, starts, first, query, shape.head_dim**-0.5, measure_mass=measure_mass
            )
            for split in range(0, num_splits, splits_per_round):
                state.attend_splits(self.arena, table, split, splits_per_round)
            return state.finish(), state.mass() if measure_mass else None

        return attend


def best_seconds(call: Callable[[], object], seconds: float) -> float:
    return best_of_each([call], seconds)[0]


def best_of_each(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Seconds of each call, taking turns, so that they meet the same neighbours."""
    for call in calls:
        call()
    best, end = [np.inf] * len(calls), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[index] = min(best[index], time.perf_counter() - start)
    return best


def median_ratio(call: Callable[[], object], base: Callable[[], object], seconds: float) -> float:
    """How much longer `call` takes than `base`: the median over pairs that follow each other."""
    ratios: list[float] = []
    order, end = [base, call], time.perf_counter() + seconds
    while len(ratios) < 15 or time.perf_counter() < end:
        taken = {}
        for each in order:
            start = time.perf_counter()
            each()
            taken[each] = time.perf_counter() - start
        ratios.append(taken[call] / taken[base])
        order.reverse()
    return float(np.median(ratios))


def bandwidth(seconds: float) -> float:
    """Bytes per second that all threads read from huge pages."""
    measured, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        measured = max(measured, kernels.measure_read_bandwidth(ARENA_BYTES))
    return measured


def matmul_rate(seconds: float) -> float:
    """Operations per second of the f32 matrix product."""
    size = 1024
    weight = kernels.PackedMatrix(size, size, "f32")
    x = np.ones((size, size), np.float32)
    return 2 * size**3 / best_seconds(lambda: kernels.matmul(x, weight), seconds)


def print_speed(arguments: argparse.Namespace, product: float) -> None:
    print(
        f"{'':22} {'memory':>11}  {'decode':>21}  {'16 x 512 tokens':>14}  {'rounds':>6}"
        f"   {'prefill of ' + str(arguments.rows):>24}"
    )
    for shape in SHAPES:
        layers = Layers(shape, arguments.context)
        memory = bandwidth(arguments.seconds / 2)
        whole, rounds = best_of_each([layers.caller(1), layers.stepper(1, splits_per_round=4)], 2 * arguments.seconds)
        decode = layers.arena.nbytes / layers.count / whole
        many = Layers(shape, 16 * 512)
        batch = many.arena.nbytes / many.count / best_seconds(many.batch_caller(16), arguments.seconds)
        memory = max(memory, bandwidth(arguments.seconds / 2))
        seen = arguments.rows * (arguments.context - arguments.rows / 2)
        operations = 4 * seen * shape.num_heads * shape.head_dim
        prefill = operations / best_seconds(layers.caller(arguments.rows), arguments.seconds)
        print(
            f"{shape.name:22} {memory / 1e9:6.1f} GB/s"
            f"  {whole * 1e6:5.0f} us {decode / 1e9:4.1f} GB/s {decode / memory:4.0%}"
            f"  {batch / 1e9:4.1f} GB/s {batch / memory:4.0%}"
            f"  {rounds / whole - 1:+6.1%}"
            f"   {prefill / 1e9:5.0f} GFLOP/s {prefill / product:5.0%} of product"
        )


def print_mass(arguments: argparse.Namespace) -> None:
    contexts = sorted({4096, arguments.context})
    columns = [(context, rows) for context in contexts for rows in (1, arguments.rows)]
    print(f"{'mass':22}" + "".join(f" {f'{rows} at {context}':>14}" for context, rows in columns))
    for shape in SHAPES:
        cells = []
        for context, rows in columns:
            layers = Layers(shape, context)
            with_mass, without = layers.stepper(rows, measure_mass=True), layers.stepper(rows)
            cells.append(f" {median_ratio(with_mass, without, arguments.seconds) - 1:+14.1%}")
        print(f"{shape.name:22}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=kernels.num_threads())
    parser.add_argument("--isa", choices=("portable", "avx2", "avx512", "avx512vnni"), default=kernels.best_isa())
    parser.add_argument("--context", type=int, default=16384)
    parser.add_argument("--rows", type=int, default=192, help="rows of the prefill chunk")
    parser.add_argument("--table", choices=("all", "speed", "mass"), default="all")
    parser.add_argument("--seconds", type=float, default=1.0, help="per figure")
    arguments = parser.parse_args()
    kernels.set_num_threads(arguments.threads)
    kernels.set_active_isa(arguments.isa)

    product = matmul_rate(arguments.seconds)
    print(f"{platform.machine()}, {arguments.threads} threads, {arguments.isa}, NumPy {np.__version__}")
    print(f"f32 matrix product {product / 1e9:.0f} GFLOP/s, context {arguments.context}")
    if arguments.table in ("all", "speed"):
        print_speed(arguments, product)
    if arguments.table in ("all", "mass"):
        print_mass(arguments)


if __name__ == "__main__":
    main()
