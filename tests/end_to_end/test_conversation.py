"""A conversation of twenty turns: each computes what is new in it and nothing else, with most of it on SSD or none."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.running_server import RunningServer
from transom.cli.sources import bundled_registry

NUM_TURNS, ANSWER_TOKENS, QUESTION_WORDS = 20, 24, 40
BLOCK, MIB = 64, 2**20
TOKEN_BYTES = 5 * 4 * 32 * 2 * 2
"""Layers, heads, channels, key and value, f16."""
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'user' %}\n\n— {{ m.content }}\n\n—{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}"
)
WORDS = ("Pierre", "Natasha", "saw", "the", "river", "and", "in", "Moscow", "sky", "war", "of", "was", "he", "she")


@dataclass(frozen=True)
class Turn:
    """A streamed answer: what it said and counted."""

    text: str
    prompt_ids: list[int]
    answer_ids: list[int]
    num_cached: int


@contextmanager
def serving(directory: Path, *budgets: str) -> Iterator[RunningServer]:
    """`tolstoy` with a template, so that an answer stands in the next prompt where it was generated."""
    model = directory / "tolstoy"
    shutil.copytree(bundled_registry().parent / "tolstoy", model)
    settings = model / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": TEMPLATE}))
    server = RunningServer.start(str(model), *budgets, log=directory / "log.txt")
    try:
        yield server
    finally:
        assert server.stop() == 0


def ask(server: RunningServer, messages: list[dict[str, str]], seed: int) -> Turn:
    body = {
        "model": "tolstoy",
        "messages": messages,
        "max_tokens": ANSWER_TOKENS,
        "seed": seed,
        "ignore_eos": True,
        "return_token_ids": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=120) as response:
        assert response.status_code == 200
        events = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if "{" in line]
    choices: list[dict[str, Any]] = [choice for event in events for choice in event["choices"]]
    usage = events[-1]["usage"]
    prompt_ids = next(event["prompt_token_ids"] for event in events if event.get("prompt_token_ids"))
    assert usage["prompt_tokens"] == len(prompt_ids)
    return Turn(
        text="".join(choice["delta"].get("content") or "" for choice in choices),
        prompt_ids=prompt_ids,
        answer_ids=[token for choice in choices for token in choice.get("token_ids") or ()],
        num_cached=usage["prompt_tokens_details"]["cached_tokens"],
    )


def converse(server: RunningServer) -> list[Turn]:
    words, messages, turns = random.Random(5), list[dict[str, str]](), list[Turn]()
    for number in range(NUM_TURNS):
        messages.append({"role": "user", "content": " ".join(words.choices(WORDS, k=QUESTION_WORDS))})
        turns.append(ask(server, messages, seed=number))
        messages.append({"role": "assistant", "content": turns[-1].text})
    return turns


def num_shared(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def check_only_new_tokens_were_computed(turns: list[Turn]) -> None:
    """What was computed or said before is there, but for the block that it ends in, whose last tokens are new."""
    known: list[int] = []
    for turn in turns:
        num_known = num_shared(known, turn.prompt_ids)
        num_new = len(turn.prompt_ids) - num_known
        num_computed = len(turn.prompt_ids) - turn.num_cached
        assert num_new <= num_computed < num_new + BLOCK
        assert num_new < 2 * (QUESTION_WORDS + ANSWER_TOKENS)
        known = turn.prompt_ids + turn.answer_ids[:-1]  # nobody has computed with the last token so far


def size_of(turns: list[Turn]) -> int:
    return (len(turns[-1].prompt_ids) + ANSWER_TOKENS) * TOKEN_BYTES


@pytest.mark.slow
def test_with_a_third_of_it_in_ram_every_turn_computes_only_what_is_new(tmp_path: Path) -> None:
    budgets = ("--kv-cache-ram-mb", "1", "--max-ssd-mb", "16", "--ssd-path", str(tmp_path / "cold"))
    with serving(tmp_path, *budgets) as server:
        turns = converse(server)
        assert size_of(turns) > 3 * MIB
        check_only_new_tokens_were_computed(turns)
        assert server.metric("transom_kv_tier_read_bytes_total", tier="cold") > 0


@pytest.mark.slow
def test_with_just_enough_ram_every_turn_computes_only_what_is_new(tmp_path: Path) -> None:
    with serving(tmp_path, "--kv-cache-ram-mb", "4") as server:
        turns = converse(server)
        assert 3 * MIB < size_of(turns) < 4 * MIB
        check_only_new_tokens_were_computed(turns)
