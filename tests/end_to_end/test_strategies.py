"""What each cache strategy remembers of 64 facts: exactly those whose tokens it attends to, no more and no fewer.

A fact is six tokens that stand for the question and four for the answer; all ten occur nowhere else but where the fact
is asked for, behind the whole context. There the prompt itself says question and answer, and `echo` with `logprobs`
tells how sure the model was of every token of the answer: nearly certain where it could look the token up, and not at
all where it could not. So one request asks for all facts, and every token's place decides what must be known.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest

from tests.running_server import RunningServer

BLOCK = 64
BOS = 0
NUM_FACTS = 64
QUESTION, ANSWER = 6, 4
CERTAIN = -0.7  # nats; one half
Attended = Callable[[int, int], bool]
"""(position of the token that looks, position of the token that is looked at)"""


@dataclass(frozen=True)
class Exam:
    """A text of token ids with facts at random depths, and all of them asked for at its end."""

    num_tokens: int
    seed: int = 0

    @cached_property
    def facts(self) -> list[list[int]]:
        tokens = random.Random(self.seed).sample(range(300, 4096), NUM_FACTS * (QUESTION + ANSWER))
        return [tokens[start : start + QUESTION + ANSWER] for start in range(0, len(tokens), QUESTION + ANSWER)]

    @cached_property
    def places(self) -> list[int]:
        """Where each fact begins: anywhere, but not in another one."""
        rng = random.Random(self.seed + 1)
        spread = QUESTION + ANSWER + 7
        return [
            1 + slot * spread + rng.randrange(7) for slot in rng.sample(range(self.num_tokens // spread), NUM_FACTS)
        ]

    @cached_property
    def prompt(self) -> list[int]:
        rng = random.Random(self.seed + 2)
        used = {token for fact in self.facts for token in fact}
        others = [token for token in range(300, 4096) if token not in used]
        text = [BOS, *rng.choices(others, k=self.num_tokens - 1)]
        for place, fact in zip(self.places, self.facts, strict=True):
            text[place : place + len(fact)] = fact
        return text + [token for fact in self.facts for token in fact]

    def knowable(self, attended: Attended) -> list[bool]:
        """For every token of every answer, whether the token that precedes it sees the place where it was said."""
        asked = range(self.num_tokens, len(self.prompt), QUESTION + ANSWER)
        return [
            attended(start + QUESTION + index - 1, place + QUESTION + index)
            for start, place in zip(asked, self.places, strict=True)
            for index in range(ANSWER)
        ]

    def known(self, token_logprobs: list[float]) -> list[bool]:
        """The same, as the model showed it."""
        asked = range(self.num_tokens, len(self.prompt), QUESTION + ANSWER)
        return [token_logprobs[start + QUESTION + index] > CERTAIN for start in asked for index in range(ANSWER)]


EXAM = Exam(8000)


def everything(_looking: int, _looked_at: int) -> bool:
    return True


def sliding_window(size: int) -> Attended:
    return lambda looking, looked_at: looked_at > looking - size


def keep_first(first: int, size: int) -> Attended:
    return lambda looking, looked_at: looked_at < first or looked_at > looking - (size - first)


def fifo(num_blocks: int) -> Attended:
    return lambda looking, looked_at: looked_at // BLOCK > looking // BLOCK - num_blocks


@pytest.fixture(scope="module")
def tiered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`recall` with less than a fifth of the exam's keys and values in RAM."""
    directory = tmp_path_factory.mktemp("strategies")
    budgets = ("--kv-cache-ram-mb", "3", "--max-ssd-mb", "32", "--ssd-path", str(directory))
    running = RunningServer.start("recall", *budgets, log=directory / "log.txt")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def in_ram(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`recall` with room for half of the exam, and no cold tier."""
    directory = tmp_path_factory.mktemp("in-ram")
    running = RunningServer.start("recall", "--kv-cache-ram-mb", "8", log=directory / "log.txt")
    yield running
    assert running.stop() == 0


def ask(server: RunningServer, **cache: Any) -> tuple[list[bool], int]:
    """Which tokens of the answers were known, and how many tokens were forgotten in the end."""
    body = {"model": "recall", "prompt": EXAM.prompt, "max_tokens": 1, "echo": True, "logprobs": 0, "cache": cache}
    response = server.post("/v1/completions", {**body, "temperature": 0, "ignore_eos": True})
    assert response.status_code == 200, response.text
    answer = response.json()
    details = answer["usage"]["prompt_tokens_details"]
    return EXAM.known(answer["choices"][0]["logprobs"]["token_logprobs"]), details.get("evicted_tokens", 0)


@pytest.mark.parametrize("strategy", ["full", pytest.param("adaptive", marks=pytest.mark.slow)])
def test_what_forgets_nothing_knows_every_fact(tiered: RunningServer, strategy: str) -> None:
    known, num_evicted = ask(tiered, strategy=strategy)
    assert all(known)
    assert num_evicted == 0
    assert tiered.metric("transom_kv_tier_read_bytes_total", tier="cold") > 0


@pytest.mark.parametrize(
    ("server", "size"),
    [
        pytest.param("in_ram", 700, marks=pytest.mark.slow),
        ("tiered", 3000),
        pytest.param("tiered", 6001, marks=pytest.mark.slow),
    ],
)
def test_a_sliding_window_knows_exactly_the_facts_in_it(request: pytest.FixtureRequest, server: str, size: int) -> None:
    known, num_evicted = ask(request.getfixturevalue(server), strategy="sliding_window", window_size=size)
    assert known == EXAM.knowable(sliding_window(size))
    assert 0 < sum(known) < len(known)
    assert num_evicted == len(EXAM.prompt) - size


@pytest.mark.parametrize(
    ("server", "first", "size"),
    [
        pytest.param("in_ram", 1, 900, marks=pytest.mark.slow),
        ("in_ram", 1000, 2000),
        pytest.param("tiered", 2500, 3333, marks=pytest.mark.slow),
    ],
)
def test_keep_first_knows_exactly_the_first_and_the_most_recent_facts(
    request: pytest.FixtureRequest, server: str, first: int, size: int
) -> None:
    known, num_evicted = ask(request.getfixturevalue(server), strategy="keep_first", window_size=size, keep_first=first)
    assert known == EXAM.knowable(keep_first(first, size))
    assert 0 < sum(known) < len(known)
    assert num_evicted == len(EXAM.prompt) - size


@pytest.mark.parametrize(("server", "size"), [("in_ram", 3000), ("tiered", 960)])
def test_fifo_knows_exactly_the_facts_in_its_newest_blocks(
    request: pytest.FixtureRequest, server: str, size: int
) -> None:
    known, num_evicted = ask(request.getfixturevalue(server), strategy="fifo", window_size=size)
    assert known == EXAM.knowable(fifo(size // BLOCK))
    assert 0 < sum(known) < len(known)
    last_block = (len(EXAM.prompt) - 1) // BLOCK
    assert num_evicted == (last_block + 1 - size // BLOCK) * BLOCK


@pytest.mark.slow
def test_fifo_without_a_size_keeps_what_the_budget_holds(in_ram: RunningServer) -> None:
    """8 MiB hold 4096 tokens; some of that is room for the next chunk."""
    known, num_evicted = ask(in_ram, strategy="fifo")
    num_blocks = (len(EXAM.prompt) - 1) // BLOCK + 1 - num_evicted // BLOCK
    assert num_evicted % BLOCK == 0
    assert 3 * 1024 <= num_blocks * BLOCK <= 4 * 1024
    assert known == EXAM.knowable(fifo(num_blocks))


def test_adaptive_without_a_cold_tier_forgets_what_the_budget_cannot_hold(in_ram: RunningServer) -> None:
    """Which facts these are is decided by attention; at least those whose blocks are recent are known."""
    known, num_evicted = ask(in_ram, strategy="adaptive")
    assert len(EXAM.prompt) - num_evicted <= 4 * 1024
    in_recent_blocks = EXAM.knowable(fifo(4))
    assert all(is_known for is_known, is_recent in zip(known, in_recent_blocks, strict=True) if is_recent)
    assert not all(known)


def test_a_generated_answer_is_that_of_the_attended_set(tiered: RunningServer) -> None:
    """The same by sampling: the first fact, whose depth is known, is asked for and said, or not."""
    deepest = min(range(NUM_FACTS), key=lambda number: EXAM.places[number])
    prompt = EXAM.prompt[: EXAM.num_tokens] + EXAM.facts[deepest][:QUESTION]
    expected = EXAM.facts[deepest][QUESTION:]
    body = {"model": "recall", "prompt": prompt, "max_tokens": ANSWER, "temperature": 0, "ignore_eos": True}
    expected_text = tiered.post("/detokenize", {"model": "recall", "tokens": expected}).json()["prompt"]
    for cache, is_known in (
        ({"strategy": "full"}, True),
        ({"strategy": "keep_first", "window_size": 1500, "keep_first": 500}, True),
        ({"strategy": "sliding_window", "window_size": 1500}, False),
    ):
        answer = tiered.post("/v1/completions", {**body, "cache": cache}).json()
        assert (answer["choices"][0]["text"] == expected_text) is is_known
