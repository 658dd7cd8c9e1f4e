"""Promise 3 over two tiers: logits are the same bits, whatever share of the keys and values is on SSD."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fakes import write_tiny_llama
from tests.golden_models import write_golden_model
from tests.harness import Harness, Stream
from transom.config.kv_size import conv_state_bytes
from transom.config.model_config import LayerKind
from transom.registry.model_files import read_model_config
from transom.request import CacheOptions, CacheStrategy

BUNDLED = Path(__file__).parents[1] / "transom" / "models_builtin"
BLOCK, MIB = 64, 2**20
NUM_DECODED = 24
MAX_NUM_SEQS = 8
SLOW = pytest.mark.slow
PERCENTAGES = (pytest.param(50, marks=SLOW), pytest.param(25, marks=SLOW), 10)
"""What the slow ones are to show, the tests with chunks and neighbours show of 25 and 50 % every day."""

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A model and how long its streams are."""

    num_tokens: int
    kv_dtype: str
    num_batched_tokens: int
    """Of each stream of a batch: so many that four blocks that are being written are less than 10 % of four streams."""
    bundled: str | None = None
    family: str | None = None
    architecture: tuple[tuple[str, Any], ...] = ()

    def harness(self, directory: Path, *, kv_bytes: int | None = None, **limits: Any) -> Harness:
        """`kv_bytes`: what of the budget is left for keys and values beside the states of convolutions."""
        path = self._model(directory)
        limits["max_num_seqs"] = MAX_NUM_SEQS
        if kv_bytes is not None:
            limits["kv_cache_ram_bytes"] = kv_bytes + MAX_NUM_SEQS * conv_state_bytes(read_model_config(path))
        return Harness(path, kv_dtype=self.kv_dtype, architecture=dict(self.architecture), **limits)

    def _model(self, directory: Path) -> Path:
        if self.bundled is not None:
            return BUNDLED / self.bundled
        if self.family is not None:
            return write_golden_model(self.family, directory)
        write_tiny_llama(directory)
        return directory


LONG = ("max_position_embeddings", 8192)
FULL, SLIDING = LayerKind.FULL_ATTENTION, LayerKind.SLIDING_ATTENTION

CASES = {
    "llama": Case(4600, "f16", 1500, architecture=(LONG,)),
    "mistral": Case(
        6000, "f16", 1500, architecture=(LONG, ("layer_types", (SLIDING, SLIDING)), ("sliding_window", 4300))
    ),
    "mixed": Case(6000, "f32", 2300, architecture=(LONG, ("layer_types", (FULL, SLIDING)), ("sliding_window", 3000))),
    "llama q8_0": Case(4600, "q8_0", 1500, architecture=(LONG,)),
    "tolstoy": Case(2048, "f16", 1200, bundled="tolstoy"),
    "recall": Case(2048, "f16", 1200, bundled="recall"),
}

FAMILY_CASES = {
    "gemma2": Case(5000, "f32", 2500, family="gemma2", architecture=(LONG, ("sliding_window", 2000))),
    "gemma3": Case(5000, "f16", 2500, family="gemma3_text", architecture=(LONG, ("sliding_window", 2000))),
    "lfm2": Case(5000, "f16", 2500, family="lfm2", architecture=(LONG,)),
    "qwen3_moe": Case(5000, "f32", 2500, family="qwen3_moe", architecture=(LONG,)),
}
"""Soft-capped, with two ropes, hybrid, with experts."""

SLOW_CASES = ("llama", "mistral", *FAMILY_CASES)
"""What they have, `mixed`, `llama q8_0` and the bundled models show every day: full and sliding layers, f16."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[SLOW] if name in SLOW_CASES else []) for name in (*CASES, *FAMILY_CASES)],
)
def case(request: pytest.FixtureRequest) -> Case:
    return {**CASES, **FAMILY_CASES}[request.param]


@pytest.fixture(scope="module")
def in_ram(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    return case.harness(tmp_path_factory.mktemp("model"))


@contextmanager
def tiered(case: Case, num_bytes: int, directory: Path, percent: int) -> Iterator[Harness]:
    """The same model with room in RAM for `percent` of so many bytes of keys and values."""
    limits = {"max_ssd_bytes": 4 * num_bytes + MIB, "ssd_path": directory / "cold"}
    harness = case.harness(directory / "model", kv_bytes=num_bytes * percent // 100, **limits)
    try:
        yield harness
        harness.cache.check_integrity()
    finally:
        harness.cache.shut_down()


def random_tokens(harness: Harness, count: int, seed: int = 0) -> list[int]:
    generated: list[int] = np.random.default_rng(seed).integers(2, harness.model_config.vocab_size, count).tolist()
    return generated


def prefill(harness: Harness, stream: Stream, tokens: Sequence[int], chunk: int) -> Logits:
    """Logits of all tokens, in chunks of at most `chunk`, or as short as the room demands."""
    rows = []
    while (left := len(tokens) - stream.num_computed_tokens) > 0:
        count = harness.cache.prefill_chunk(stream.handle, min(chunk, left))
        start = stream.num_computed_tokens
        rows.append(harness.step([(stream, tokens[start : start + count])])[0])
    return np.concatenate(rows)


def decode(harness: Harness, streams: Sequence[Stream], tokens: Sequence[Sequence[int]]) -> list[Logits]:
    """Logits of the given tokens of several streams, one token of each per step."""
    steps = [harness.step(list(zip(streams, column, strict=True))) for column in _columns(tokens)]
    return [np.concatenate([step[index] for step in steps]) for index in range(len(streams))]


def _columns(tokens: Sequence[Sequence[int]]) -> Iterator[list[list[int]]]:
    for column in zip(*tokens, strict=True):
        yield [[token] for token in column]


def same_bits(a: Logits, b: Logits) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


def num_bytes_read(harness: Harness) -> int:
    return harness.cache.stats().tiers[-1].transfers.num_bytes_read


@pytest.fixture(scope="module")
def alone(case: Case, in_ram: Harness) -> tuple[list[int], Logits]:
    """Tokens and their logits: a prompt computed at once, then tokens one by one."""
    tokens = random_tokens(in_ram, case.num_tokens)
    stream = in_ram.open()
    first = in_ram.step([(stream, tokens[:-NUM_DECODED])])[0]
    last = decode(in_ram, [stream], [tokens[-NUM_DECODED:]])[0]
    in_ram.close(stream)
    return tokens, np.concatenate([first, last])


@pytest.mark.parametrize("percent", PERCENTAGES)
def test_less_ram_changes_no_bit_of_prefill_and_decode(
    case: Case, in_ram: Harness, alone: tuple[list[int], Logits], percent: int, tmp_path: Path
) -> None:
    tokens, expected = alone
    with tiered(case, in_ram.cache.budget.peak_bytes(case.num_tokens), tmp_path, percent) as harness:
        stream = harness.open(tokens)
        first = prefill(harness, stream, tokens[:-NUM_DECODED], chunk=len(tokens))
        read_before = num_bytes_read(harness)
        last = decode(harness, [stream], [tokens[-NUM_DECODED:]])[0]
        assert read_before > 0
        assert num_bytes_read(harness) > read_before
        harness.close(stream)
    assert same_bits(np.concatenate([first, last]), expected)


@pytest.mark.parametrize("chunk", [333, pytest.param(64, marks=SLOW)])
def test_chunks_over_cold_blocks_change_no_bit(
    case: Case, in_ram: Harness, alone: tuple[list[int], Logits], chunk: int, tmp_path: Path
) -> None:
    tokens, expected = alone
    tokens = tokens[:-NUM_DECODED]
    with tiered(case, in_ram.cache.budget.peak_bytes(case.num_tokens), tmp_path, 25) as harness:
        stream = harness.open(tokens)
        assert same_bits(prefill(harness, stream, tokens, chunk), expected[: len(tokens)])
        harness.close(stream)


@dataclass(frozen=True)
class Batch:
    """Four streams that decode together, and what they said in RAM."""

    prompts: list[list[int]]
    ends: list[list[int]]
    expected_prompts: list[Logits]
    expected_ends: list[Logits]


@pytest.fixture(scope="module")
def batch(case: Case, in_ram: Harness) -> Batch:
    tokens = [random_tokens(in_ram, case.num_batched_tokens - 7 * index, seed=index) for index in range(4)]
    prompts, ends = [each[:-NUM_DECODED] for each in tokens], [each[-NUM_DECODED:] for each in tokens]
    streams = [in_ram.open() for _ in tokens]
    expected = [in_ram.step([(s, p)])[0] for s, p in zip(streams, prompts, strict=True)]
    batch = Batch(prompts, ends, expected, decode(in_ram, streams, ends))
    for stream in streams:
        in_ram.close(stream)
    return batch


@pytest.mark.parametrize("percent", [pytest.param(50, marks=SLOW), pytest.param(25, marks=SLOW), 10])
def test_a_batch_of_four_with_cold_blocks_changes_no_bit(
    case: Case, in_ram: Harness, batch: Batch, percent: int, tmp_path: Path
) -> None:
    num_bytes = 4 * in_ram.cache.budget.peak_bytes(case.num_batched_tokens)
    with tiered(case, num_bytes, tmp_path, percent) as harness:
        streams = [harness.open(prompt) for prompt in batch.prompts]
        prompts = [prefill(harness, s, p, chunk=len(p)) for s, p in zip(streams, batch.prompts, strict=True)]
        ends = decode(harness, streams, batch.ends)
        assert num_bytes_read(harness) > 0
        for stream in streams:
            harness.close(stream)
    assert all(map(same_bits, prompts, batch.expected_prompts))
    assert all(map(same_bits, ends, batch.expected_ends))


def test_a_decoding_neighbour_and_a_prompt_over_cold_blocks_change_no_bit(
    case: Case, in_ram: Harness, alone: tuple[list[int], Logits], tmp_path: Path
) -> None:
    """One stream decodes in the very steps in which the other reads its prompt."""
    tokens, expected = alone
    half = len(tokens) // 2
    with tiered(case, in_ram.cache.budget.peak_bytes(case.num_tokens), tmp_path, 50) as harness:
        decoding, reading = harness.open(tokens[:half]), harness.open(tokens)
        decoded = [prefill(harness, decoding, tokens[: half - 30], chunk=len(tokens))]
        read = []
        while reading.num_computed_tokens < len(tokens) and decoding.num_computed_tokens < half:
            start, at = reading.num_computed_tokens, decoding.num_computed_tokens
            count = harness.cache.prefill_chunk(reading.handle, min(100, len(tokens) - start))
            both = harness.step([(decoding, tokens[at : at + 1]), (reading, tokens[start : start + count])])
            decoded.append(both[0])
            read.append(both[1])
        harness.close(decoding)
        harness.close(reading)
    assert same_bits(np.concatenate(decoded), expected[: sum(map(len, decoded))])
    assert same_bits(np.concatenate(read), expected[: sum(map(len, read))])


@pytest.mark.parametrize("hot_tokens", [64, pytest.param(320, marks=SLOW)])
def test_a_cap_of_hot_tokens_holds_at_every_step_and_changes_no_bit(
    case: Case, in_ram: Harness, alone: tuple[list[int], Logits], hot_tokens: int, tmp_path: Path
) -> None:
    tokens, expected = alone
    tokens = tokens[:1000]
    whole = in_ram.cache.budget.peak_bytes(len(tokens))
    limits = {"max_ssd_bytes": 8 * whole + MIB, "ssd_path": tmp_path / "cold", "hot_tokens": hot_tokens}
    harness = case.harness(tmp_path / "model", kv_bytes=2 * whole, **limits)
    stream = harness.open(tokens)
    rows = []
    while (start := stream.num_computed_tokens) < len(tokens):
        count = harness.cache.prefill_chunk(stream.handle, len(tokens) - start)
        rows.append(harness.step([(stream, tokens[start : start + count])])[0])
        harness.cache.check_integrity()
        [shown] = harness.cache.stats().sequences
        assert shown.num_hot_tokens <= hot_tokens
    harness.close(stream)
    harness.cache.shut_down()
    assert same_bits(np.concatenate(rows), expected[: len(tokens)])


WINDOW = 700
OPTIONS = {
    "sliding_window": CacheOptions(CacheStrategy.SLIDING_WINDOW, WINDOW),
    "keep_first": CacheOptions(CacheStrategy.KEEP_FIRST, WINDOW, 130),
    "fifo": CacheOptions(CacheStrategy.FIFO, WINDOW),
    "adaptive": CacheOptions(CacheStrategy.ADAPTIVE),
}


@pytest.mark.parametrize("strategy", OPTIONS)
def test_what_a_strategy_attends_to_does_not_depend_on_the_tier_it_is_in(
    case: Case, in_ram: Harness, strategy: str, tmp_path: Path
) -> None:
    """`adaptive` forgets nothing where there is a cold tier, so it is compared with `full`."""
    options = OPTIONS[strategy]
    tokens = random_tokens(in_ram, 1500)
    in_ram_options = CacheOptions() if strategy == "adaptive" else options
    stream = in_ram.open(tokens, in_ram_options)
    expected = prefill(in_ram, stream, tokens, chunk=len(tokens))
    in_ram.close(stream)
    num_bytes = in_ram.cache.budget.peak_bytes(WINDOW + BLOCK) // 2
    limits = {"max_ssd_bytes": 8 * num_bytes + MIB, "ssd_path": tmp_path / "cold"}
    harness = case.harness(tmp_path / "model", kv_bytes=num_bytes, **limits)
    stream = harness.open(tokens, options)
    got = prefill(harness, stream, tokens, chunk=len(tokens))
    harness.cache.check_integrity()
    harness.close(stream)
    harness.cache.shut_down()
    assert same_bits(got, expected)


@pytest.mark.parametrize("family", FAMILY_CASES)
def test_a_short_stream_of_every_kind_of_layer_is_the_same_over_two_tiers(family: str, tmp_path: Path) -> None:
    """What the slow cases show at length, in the everyday suite."""
    case = FAMILY_CASES[family]
    in_ram = case.harness(tmp_path / "in-ram")
    tokens = random_tokens(in_ram, 1600)
    expected = in_ram.logits(tokens)
    with tiered(case, in_ram.cache.budget.peak_bytes(len(tokens)), tmp_path, 50) as harness:
        stream = harness.open(tokens)
        first = prefill(harness, stream, tokens[:-4], chunk=500)
        last = decode(harness, [stream], [tokens[-4:]])[0]
        assert num_bytes_read(harness) > 0
        harness.close(stream)
    assert same_bits(np.concatenate([first, last]), expected)
