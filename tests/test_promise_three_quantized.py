"""Promise 3 over quantised weights, as they come from GGUF files: the same bits whatever the batch, chunks, threads.

Query, key and value of one layer are of different types, so that a fused product is several matrices.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.harness import Harness, Stream
from tests.random_gguf import write_random_gguf
from tests.test_promise_three import random_tokens, same_bits
from transom import kernels

NUM_TOKENS = 300  # four full blocks, a part of the fifth, over the border of a split
MIB = 2**20


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_gguf(tmp_path_factory.mktemp("model") / "m.gguf", ["Q4_K", "Q4_K", "Q6_K"])


@pytest.fixture(scope="module")
def harness(path: Path) -> Harness:
    return Harness(path, kv_dtype="f16")


@pytest.fixture(scope="module")
def tokens(harness: Harness) -> list[int]:
    return random_tokens(harness, NUM_TOKENS, seed=1)


@pytest.fixture(scope="module")
def alone(harness: Harness, tokens: list[int]) -> NDArray[np.float32]:
    return harness.logits(tokens)


def test_the_model_says_something(alone: NDArray[np.float32]) -> None:
    assert np.isfinite(alone).all()
    assert len({*alone.argmax(axis=1).tolist()}) > 20


@pytest.mark.parametrize("chunk", [1, 7, 64, 100, 299])
def test_chunks_of_prefill_change_no_bit(
    harness: Harness, tokens: list[int], alone: NDArray[np.float32], chunk: int
) -> None:
    assert same_bits(harness.logits(tokens, chunk), alone)


def test_a_batch_with_different_phases_changes_no_bit(
    harness: Harness, tokens: list[int], alone: NDArray[np.float32]
) -> None:
    neighbours = [harness.open() for _ in range(5)]
    stream = harness.open()
    rows: list[NDArray[np.float32]] = []
    for start in range(0, NUM_TOKENS, 50):
        others = [(n, random_tokens(harness, 1 + 7 * i, seed=start + i)) for i, n in enumerate(neighbours)]
        parts: list[tuple[Stream, list[int]]] = [*others[:3], (stream, tokens[start : start + 50]), *others[3:]]
        rows.append(harness.step(parts)[3])
    for each in (stream, *neighbours):
        harness.close(each)
    assert same_bits(np.concatenate(rows), alone)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(
    harness: Harness, tokens: list[int], alone: NDArray[np.float32], count: int
) -> None:
    before = kernels.num_threads()
    kernels.set_num_threads(count)
    try:
        assert same_bits(harness.logits(tokens, 128), alone)
    finally:
        kernels.set_num_threads(before)


def test_preemption_and_computing_again_over_other_blocks_changes_no_bit(
    harness: Harness, tokens: list[int], alone: NDArray[np.float32]
) -> None:
    stream, neighbour = harness.open(), harness.open()
    harness.step([(stream, tokens[:130])])
    harness.close(stream)
    harness.step([(neighbour, random_tokens(harness, 200, seed=9))])  # takes the blocks that were given up
    again = harness.open()
    first = harness.step([(again, tokens[:130])])[0]
    rest = [harness.step([(again, tokens[i : i + 1])])[0] for i in range(130, NUM_TOKENS)]
    harness.close(again)
    harness.close(neighbour)
    assert same_bits(np.concatenate([first, *rest]), alone)


def test_keys_and_values_on_disk_change_no_bit(path: Path, harness: Harness, tmp_path: Path) -> None:
    """16 blocks of context where RAM holds a quarter of them, prefill and decode."""
    tokens = random_tokens(harness, 1040, seed=3)
    expected = harness.logits(tokens, 1024)
    num_bytes = harness.cache.budget.peak_bytes(len(tokens))
    limits: dict[str, Any] = {
        "kv_cache_ram_bytes": num_bytes // 4,
        "max_ssd_bytes": 4 * num_bytes + MIB,
        "ssd_path": tmp_path / "cold",
    }
    tiered = Harness(path, kv_dtype="f16", model=harness.model, **limits)
    try:
        stream, rows = tiered.open(tokens), []
        while (start := stream.num_computed_tokens) < len(tokens):
            wanted = 1 if start >= 1024 else 1024 - start
            count = tiered.cache.prefill_chunk(stream.handle, wanted)
            rows.append(tiered.step([(stream, tokens[start : start + count])])[0])
        assert tiered.cache.stats().tiers[-1].transfers.num_bytes_read > 0
    finally:
        tiered.cache.shut_down()
    assert same_bits(np.concatenate(rows), expected)


@pytest.mark.parametrize(
    "type_name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
)
def test_every_type_gives_the_same_bits_token_by_token_and_at_once(tmp_path: Path, type_name: str) -> None:
    """Beside f32, too, so that a product is of blocks and of floats."""
    harness = Harness(write_random_gguf(tmp_path / "m.gguf", [type_name, "F32"]), kv_dtype="f16")
    tokens = random_tokens(harness, 70, seed=2)
    at_once = harness.logits(tokens)
    assert np.isfinite(at_once).all()
    assert same_bits(harness.logits(tokens, 1), at_once)
