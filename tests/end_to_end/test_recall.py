"""`recall` at its full context window: a fact planted at any depth comes back, each by one HTTP request."""

from __future__ import annotations

import random

import pytest

from tests.running_server import RunningServer

WINDOW = 32768
MAX_TOKENS = 12
FACT = " The secret code of Anna is 4711-falcon."
QUESTION = " The secret code of Anna is"


def count_tokens(server: RunningServer, text: str) -> int:
    count: int = server.post("/tokenize", {"model": "recall", "prompt": text}).json()["count"]
    return count


def filler_sentence(rng: random.Random) -> str:
    people = ["Pierre", "Natasha", "the general", "an old soldier", "her brother", "the prince"]
    verbs = ["saw", "remembered", "wrote about", "asked for", "sold", "found"]
    things = ["a horse", "the river", "two letters", "the house", "some bread", "a map"]
    return f" {rng.choice(people)} {rng.choice(verbs)} {rng.choice(things)} in {rng.randrange(1700, 1900)}."


@pytest.fixture(scope="module")
def filler(server: RunningServer) -> list[str]:
    """Sentences that fill the window, up to some tokens, together with fact and question."""
    rng = random.Random(4)
    sentences = [filler_sentence(rng) for _ in range(4000)]
    per_sentence = count_tokens(server, "".join(sentences)) / len(sentences)
    room = WINDOW - MAX_TOKENS - count_tokens(server, FACT + QUESTION)
    sentences = sentences[: int(room / per_sentence) + 50]
    while count_tokens(server, "".join(sentences)) > room:
        sentences = sentences[: -max(1, int((count_tokens(server, "".join(sentences)) - room) / per_sentence))]
    return sentences


@pytest.mark.slow
@pytest.mark.parametrize("depth", [0, 25, 50, 75, 100])
def test_a_fact_planted_at_any_depth_of_a_full_window_comes_back(
    server: RunningServer, filler: list[str], depth: int
) -> None:
    place = len(filler) * depth // 100
    prompt = "".join(filler[:place]) + FACT + "".join(filler[place:]) + QUESTION
    answer = server.client().completions.create(model="recall", prompt=prompt, max_tokens=MAX_TOKENS, temperature=0)
    assert answer.choices[0].text.startswith(" 4711-falcon.")
    assert answer.usage is not None
    assert WINDOW - 60 < answer.usage.prompt_tokens + MAX_TOKENS <= WINDOW
