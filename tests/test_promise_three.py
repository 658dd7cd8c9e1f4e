"""Promise 3: a row's logits are the same bits whatever the batch, the chunks, the threads, the history of the cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fakes import write_tiny_llama
from tests.golden_models import write_golden_model
from tests.harness import Harness, Stream
from transom import kernels
from transom.engine.engine import Engine
from transom.request import Pooling, Request, SamplingParams

Isa = Literal["portable", "avx2", "avx512", "avx512vnni"]
NUM_TOKENS = 300  # four full blocks, a part of the fifth, over the border of a split


TINY_LLAMAS = ["full f32", "full f16", "window f16", "full q8_0", "window q8_0"]
FAMILIES = ["gemma2 f32", "gemma3_text f16", "lfm2 f16", "qwen3_moe f32"]  # soft-capped, two ropes, hybrid, experts


@pytest.fixture(scope="module", params=[*TINY_LLAMAS, *FAMILIES])
def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    kind, kv_dtype = request.param.split()
    directory = tmp_path_factory.mktemp("model")
    if request.param in FAMILIES:
        write_golden_model(kind, directory, max_position_embeddings=1024)
    else:
        write_tiny_llama(directory, sliding_window=90 if kind == "window" else None)
    return Harness(directory, kv_dtype=kv_dtype)


@pytest.fixture(scope="module")
def tokens(harness: Harness) -> list[int]:
    return random_tokens(harness, NUM_TOKENS, seed=1)


@pytest.fixture(scope="module")
def alone(harness: Harness, tokens: list[int]) -> NDArray[np.float32]:
    return harness.logits(tokens)


def random_tokens(harness: Harness, count: int, seed: int) -> list[int]:
    generated: list[int] = np.random.default_rng(seed).integers(0, harness.model_config.vocab_size, count).tolist()
    return generated


def same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


@pytest.mark.parametrize("chunk", [1, 7, 64, 100, 299])
def test_chunks_of_prefill_change_no_bit(
    harness: Harness, tokens: list[int], alone: NDArray[np.float32], chunk: int
) -> None:
    assert same_bits(harness.logits(tokens, chunk), alone)


def test_a_batch_of_eight_with_different_phases_changes_no_bit(
    harness: Harness, tokens: list[int], alone: NDArray[np.float32]
) -> None:
    neighbours = [harness.open() for _ in range(7)]
    for index, neighbour in enumerate(neighbours):
        harness.step([(neighbour, random_tokens(harness, 1 + 45 * index, seed=index))])
    stream = harness.open()
    rows: list[NDArray[np.float32]] = []
    for start in range(0, NUM_TOKENS, 50):
        others = [(n, random_tokens(harness, 1 + i % 3, seed=start + i)) for i, n in enumerate(neighbours)]
        parts: list[tuple[Stream, list[int]]] = [*others[:4], (stream, tokens[start : start + 50]), *others[4:]]
        rows.append(harness.step(parts)[4])
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


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "avx512vnni"])
def test_the_instruction_set_changes_no_bit(
    harness: Harness, tokens: list[int], alone: NDArray[np.float32], isa: Isa
) -> None:
    before = kernels.active_isa()
    try:
        kernels.set_active_isa(isa)
    except ValueError:
        pytest.skip(f"this processor cannot run {isa}")
    try:
        assert same_bits(harness.logits(tokens, 128), alone)
    finally:
        kernels.set_active_isa(before)


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


@pytest.mark.parametrize("pooling", Pooling)
def test_vectors_do_not_depend_on_chunks_and_neighbours(harness: Harness, tokens: list[int], pooling: Pooling) -> None:
    """A generating sequence among them."""

    def vectors(chunk: int, num_neighbours: int) -> dict[str, tuple[float, ...] | None]:
        limits = replace(harness.engine_config, max_num_batched_tokens=chunk)
        engine = Engine.of(harness.model, harness.model_config, limits)
        sampling = SamplingParams(max_tokens=0)
        engine.add(Request("v", tokens, sampling, pooling=pooling, reuse_cache=False))
        for index in range(num_neighbours):
            other = random_tokens(harness, 20 + 30 * index, seed=index)
            engine.add(Request(f"n{index}", other, sampling, pooling=pooling, reuse_cache=False))
            engine.add(Request(f"g{index}", other, SamplingParams(max_tokens=5, temperature=0.0)))
        outputs = []
        while engine.has_work():
            outputs += engine.step()
        return {output.request_id: output.vector for output in outputs if output.finish_reason}

    alone = vectors(512, 0)["v"]
    assert alone is not None
    assert len(alone) == harness.model_config.hidden_size
    assert vectors(64, 3)["v"] == alone
    assert vectors(130, 1)["v"] == alone
