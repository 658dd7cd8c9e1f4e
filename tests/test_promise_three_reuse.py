"""Promise 3 over prefix reuse: logits behind a hit are the same bits as without one, wherever the hit lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.harness import Harness, Stream
from tests.test_promise_three_tiers import LONG, MIB, Case, random_tokens, same_bits
from transom.config.model_config import LayerKind

FULL, SLIDING = LayerKind.FULL_ATTENTION, LayerKind.SLIDING_ATTENTION
Logits = NDArray[np.float32]

LENGTH = 900
"""Of the prompt that is there; no multiple of a block."""

CASES = {
    "llama f32": Case(0, "f32", 0, architecture=(LONG,)),
    "llama f16": Case(0, "f16", 0, architecture=(LONG,)),
    "llama q8_0": Case(0, "q8_0", 0, architecture=(LONG,)),
    "mistral": Case(0, "f16", 0, architecture=(LONG, ("layer_types", (SLIDING, SLIDING)), ("sliding_window", 300))),
    "mixed": Case(0, "f32", 0, architecture=(LONG, ("layer_types", (FULL, SLIDING)), ("sliding_window", 200))),
    "gemma2": Case(0, "f32", 0, family="gemma2", architecture=(LONG, ("sliding_window", 200))),
    "lfm2": Case(0, "f16", 0, family="lfm2", architecture=(LONG,)),
    "gemma3": Case(0, "q8_0", 0, family="gemma3_text", architecture=(LONG, ("sliding_window", 100))),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


class Text:
    """Tokens, and the logits that a model without any reuse says behind each of them."""

    def __init__(self, harness: Harness, tokens: list[int]) -> None:
        self.tokens = tokens
        self.logits = harness.logits(tokens)


@pytest.fixture(scope="module")
def fresh(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    return case.harness(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def first(fresh: Harness) -> Text:
    return Text(fresh, random_tokens(fresh, LENGTH))


@pytest.fixture(scope="module")
def second(fresh: Harness, first: Text) -> Text:
    """Begins like the first text and goes on otherwise."""
    return Text(fresh, first.tokens[:500] + random_tokens(fresh, 300, seed=1))


@contextmanager
def reusing(case: Case, fresh: Harness, directory: Path, **limits: Any) -> Iterator[Harness]:
    harness = case.harness(directory / "model", enable_prefix_cache=True, model=fresh.model, **limits)
    try:
        yield harness
        harness.cache.check_integrity()
    finally:
        harness.cache.shut_down()


def compute(harness: Harness, tokens: list[int], chunk: int = 256) -> tuple[int, Logits]:
    """What a request does: how many tokens were there, and the logits of all others."""
    stream = harness.open(tokens)
    num_cached = stream.num_computed_tokens
    rows = read(harness, stream, tokens, chunk)
    harness.close(stream)
    return num_cached, rows


def read(harness: Harness, stream: Stream, tokens: list[int], chunk: int) -> Logits:
    rows = []
    while (start := stream.num_computed_tokens) < len(tokens):
        count = harness.cache.prefill_chunk(stream.handle, min(chunk, len(tokens) - start))
        rows.append(harness.step([(stream, tokens[start : start + count])])[0])
    return np.concatenate(rows)


def check(harness: Harness, text: Text, num_cached: int | None, length: int | None = None) -> None:
    """A request for the first `length` tokens finds so many of them (None: some), and says the same as without."""
    tokens = text.tokens[:length]
    found, logits = compute(harness, tokens)
    assert found > 0 if num_cached is None else found == num_cached
    assert same_bits(logits, text.logits[found : len(tokens)])


def whole(case: Case, length: int) -> int:
    """What a prompt of so many tokens, whole blocks that are all there, finds: all of them but the last token.

    Convolutions remember what is behind a block only where a pass crossed its end, which these did every 256 tokens.
    """
    return (length - 1) // 256 * 256 if case.family == "lfm2" else length - 1


def partly(case: Case, length: int) -> int:
    """What the first `length` tokens find, in the middle of what is there."""
    return length // 256 * 256 if case.family == "lfm2" else length // 64 * 64


def test_hits_in_ram_change_no_bit(case: Case, fresh: Harness, first: Text, second: Text, tmp_path: Path) -> None:
    with reusing(case, fresh, tmp_path) as harness:
        check(harness, first, 0)
        check(harness, first, LENGTH // 64 * 64)
        check(harness, second, partly(case, 500))
        check(harness, second, whole(case, 448), length=448)
        check(harness, first, whole(case, 64), length=64)
        check(harness, first, partly(case, 641), length=641)


def test_two_sequences_that_share_their_beginning_and_decode_together_change_no_bit(
    case: Case, fresh: Harness, first: Text, second: Text, tmp_path: Path
) -> None:
    with reusing(case, fresh, tmp_path) as harness:
        compute(harness, first.tokens[:448])
        streams = [harness.open(text.tokens) for text in (first, second)]
        assert [stream.num_computed_tokens for stream in streams] == [448, 448]
        for _ in range(70):
            at = streams[0].num_computed_tokens
            rows = harness.step([(s, t.tokens[at : at + 1]) for s, t in zip(streams, (first, second), strict=True)])
            assert same_bits(rows[0], first.logits[at : at + 1])
            assert same_bits(rows[1], second.logits[at : at + 1])
        for stream in streams:
            harness.close(stream)
        check(harness, second, 512, length=518)


def tiers(fresh: Harness, directory: Path, percent: int) -> dict[str, Any]:
    whole = fresh.cache.budget.peak_bytes(LENGTH)
    return {
        "kv_bytes": whole * percent // 100,
        "max_ssd_bytes": 8 * whole + MIB,
        "ssd_path": directory / "cold",
    }


def test_hits_on_ssd_change_no_bit(case: Case, fresh: Harness, first: Text, second: Text, tmp_path: Path) -> None:
    stopped: dict[str, Any] = {"clock": lambda: 0.0}  # no rate is ever known, so what is there is read
    with reusing(case, fresh, tmp_path, **tiers(fresh, tmp_path, 50), **stopped) as harness:
        check(harness, first, 0)
        harness.cache.flush(5.0)
        check(harness, Text(fresh, random_tokens(fresh, 600, seed=2)), 0)  # takes all of RAM
        harness.cache.flush(5.0)
        assert harness.cache.stats().reuse.num_cold_blocks == 0
        is_hybrid = case.family == "lfm2"  # whose passes end where the room demands
        check(harness, first, None if is_hybrid else LENGTH // 64 * 64)
        check(harness, second, None if is_hybrid else 448)
        check(harness, second, None if is_hybrid else 448 - 1, length=448)
        assert harness.cache.stats().reuse.num_cold_blocks > 0
        assert harness.cache.stats().tiers[-1].transfers.num_bytes_read > 0


def test_what_was_evicted_and_computed_again_changes_no_bit(
    case: Case, fresh: Harness, first: Text, tmp_path: Path
) -> None:
    with reusing(case, fresh, tmp_path, kv_bytes=fresh.cache.budget.peak_bytes(LENGTH) * 5 // 4) as harness:
        check(harness, first, 0)
        other = Text(fresh, random_tokens(fresh, 700, seed=5))
        check(harness, other, 0)
        found, logits = compute(harness, first.tokens)
        assert found < LENGTH // 64 * 64
        assert same_bits(logits, first.logits[found:])
        check(harness, first, LENGTH // 64 * 64)


class Clock:
    """Time passes only when it is asked for."""

    def __init__(self, seconds_per_call: float) -> None:
        self.now = 0.0
        self.seconds_per_call = seconds_per_call

    def __call__(self) -> float:
        self.now += self.seconds_per_call
        return self.now


@pytest.mark.parametrize(("seconds", "recomputes"), [(1e-9, True), (10.0, False)])
def test_what_is_sooner_computed_again_than_read_is_computed_and_changes_no_bit(
    case: Case, fresh: Harness, first: Text, seconds: float, recomputes: bool, tmp_path: Path
) -> None:
    limits = tiers(fresh, tmp_path, 50)
    with reusing(case, fresh, tmp_path, clock=Clock(seconds), **limits) as harness:
        check(harness, first, 0)
        harness.cache.flush(5.0)
        check(harness, Text(fresh, random_tokens(fresh, 600, seed=2)), 0)
        found, logits = compute(harness, first.tokens)
        assert same_bits(logits, first.logits[found:])
        assert (harness.cache.stats().reuse.num_recomputed_tokens > 0) == recomputes
        assert (found < LENGTH // 2) == recomputes
