"""The request field `cache`: what reaches the engine, what is refused, and what the answer says was forgotten."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.server.asgi import ask, chat, complete
from tests.server.served import REPORT, WINDOW, RecitingEngine, make_app, served_model
from transom.engine import LoadReport
from transom.registry import ModelRegistry
from transom.request import CacheOptions, CacheStrategy, Request, RequestOutput
from transom.server.app import create_app
from transom.server.settings import ServerSettings

FULL, SLIDING, FIFO, KEEP_FIRST, ADAPTIVE = (
    CacheStrategy.FULL,
    CacheStrategy.SLIDING_WINDOW,
    CacheStrategy.FIFO,
    CacheStrategy.KEEP_FIRST,
    CacheStrategy.ADAPTIVE,
)


class ForgetfulEngine(RecitingEngine):
    """Says at the end that 5 tokens were forgotten."""

    def _ended(self, output: RequestOutput, request: Request, tokens: tuple[int, ...]) -> RequestOutput:
        ended = super()._ended(output, request, tokens)
        assert ended.usage is not None
        return replace(ended, usage=replace(ended.usage, num_evicted_tokens=5, is_lossy=True))


def report(max_sequence_tokens: int) -> LoadReport:
    return replace(REPORT, max_sequence_tokens=max_sequence_tokens)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        (None, CacheOptions()),
        ({}, CacheOptions()),
        ({"strategy": None, "window_size": None}, CacheOptions()),
        ({"strategy": "full"}, CacheOptions()),
        ({"strategy": "full", "window_size": 64, "keep_first": 8}, CacheOptions()),
        ({"strategy": "adaptive"}, CacheOptions(ADAPTIVE)),
        ({"strategy": "sliding_window", "window_size": 7}, CacheOptions(SLIDING, 7)),
        ({"strategy": "sliding_window", "window_size": WINDOW}, CacheOptions(SLIDING, WINDOW)),
        ({"strategy": "keep_first", "window_size": 64, "keep_first": 8}, CacheOptions(KEEP_FIRST, 64, 8)),
        ({"strategy": "fifo"}, CacheOptions(FIFO)),
        ({"strategy": "fifo", "window_size": 128}, CacheOptions(FIFO, 128)),
    ],
)
@pytest.mark.parametrize("ask_for", [complete, chat])
async def test_what_a_request_chooses_reaches_the_engine(ask_for: Any, field: Any, options: CacheOptions) -> None:
    engine = RecitingEngine()
    answer = await ask_for(make_app(engine), max_tokens=2, cache=field)
    assert answer.status == 200, answer.body
    assert engine.requests[0].cache == options


@pytest.mark.parametrize(
    ("field", "param", "said"),
    [
        (1, "cache", "must be an object"),
        ("full", "cache", "'cache': must be an object."),
        ([], "cache", "must be an object"),
        ({"strategy": "lru"}, "cache.strategy", "'full', 'fifo'"),
        ({"strategy": 1}, "cache.strategy", "'full', 'fifo'"),
        ({"window_size": 0}, "cache.window_size", "greater than or equal to 1"),
        ({"window_size": True}, "cache.window_size", "integer"),
        ({"window_size": "64"}, "cache.window_size", "integer"),
        ({"window_size": 64.0}, "cache.window_size", "integer"),
        ({"window_size": 2**63}, "cache.window_size", "2147483647"),
        ({"keep_first": -1}, "cache.keep_first", "greater than or equal to 0"),
        ({"size": 1}, "cache.size", "Unknown parameter"),
        ({"strategy": "sliding_window"}, "cache", "window_size is 1024, must be at most the context window"),
        ({"strategy": "fifo", "window_size": WINDOW + 1}, "cache", "window_size is 257, must be at most the context"),
        (
            {"window_size": 64},
            "cache",
            "window_size needs a strategy, sliding_window or keep_first or fifo; the model's",
        ),
        ({"keep_first": 8}, "cache", "keep_first needs a strategy, keep_first; the model's own is full"),
        ({"strategy": "keep_first", "window_size": 64}, "cache", "keep_first 256 must be less than window_size 64"),
        ({"strategy": "keep_first", "window_size": 64, "keep_first": 64}, "cache", "keep_first 64 must be less than"),
        ({"strategy": "full", "window_size": 64, "keep_first": 65}, "cache", "keep_first 65 must be less than"),
    ],
)
@pytest.mark.parametrize("ask_for", [complete, chat])
async def test_what_cannot_be_is_a_400_that_names_it(ask_for: Any, field: Any, param: str, said: str) -> None:
    engine = RecitingEngine()
    answer = await ask_for(make_app(engine), max_tokens=2, cache=field)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert said in answer.error["message"]
    assert engine.requests == []


@pytest.mark.parametrize(
    ("field", "options"),
    [
        (None, CacheOptions(KEEP_FIRST, 100, 10)),
        ({"window_size": 50}, CacheOptions(KEEP_FIRST, 50, 10)),
        ({"keep_first": 0}, CacheOptions(KEEP_FIRST, 100, 0)),
        ({"strategy": "full"}, CacheOptions()),
        ({"strategy": "sliding_window", "window_size": 5}, CacheOptions(SLIDING, 5)),
        ({"strategy": "sliding_window"}, CacheOptions(SLIDING, 100)),
    ],
)
async def test_what_a_request_leaves_open_is_as_the_model_is_configured(field: Any, options: CacheOptions) -> None:
    engine = RecitingEngine()
    cache = {"strategy": "keep_first", "window_size": 100, "keep_first": 10}
    app = create_app(ModelRegistry([served_model(engine, cache=cache)]), ServerSettings())
    assert (await complete(app, max_tokens=2, cache=field)).status == 200
    assert engine.requests[0].cache == options


async def test_an_answer_that_may_have_forgotten_says_how_much_in_every_form() -> None:
    body = {"max_tokens": 8, "n": 2, "seed": 1, "cache": {"strategy": "sliding_window", "window_size": 4}}
    app = make_app(ForgetfulEngine())
    for ask_for in (complete, chat):
        whole = (await ask_for(app, **body)).json()["usage"]
        assert whole["prompt_tokens_details"]["evicted_tokens"] == 10
        stream = (await ask_for(app, **body, stream=True, stream_options={"include_usage": True})).events()
        assert stream[-2]["usage"] == whole
    metrics = (await ask(app, "GET", "/metrics")).body.decode()
    assert 'transom_tokens_evicted_total{model="tiny"} 40.0' in metrics


async def test_an_answer_that_cannot_forget_says_nothing_of_it() -> None:
    usage = (await complete(make_app(), max_tokens=2)).json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": 0}


@pytest.mark.parametrize(
    ("held", "cache", "num_generated", "cause"),
    [
        (256, {}, 251, "context"),
        (1000, {}, 251, "context"),
        (100, {}, 95, "budget"),
        (6, {}, 1, "budget"),
        (3, {}, 1, "budget"),
        (100, {"strategy": "sliding_window", "window_size": 100}, 251, "context"),
        (100, {"strategy": "sliding_window", "window_size": 101}, 95, "budget"),
        (100, {"strategy": "fifo"}, 251, "context"),
        (100, {"strategy": "adaptive"}, 251, "context"),
    ],
)
async def test_a_chat_without_a_limit_gets_what_the_budgets_can_hold(
    held: int, cache: dict[str, Any], num_generated: int, cause: str
) -> None:
    app = make_app(RecitingEngine(report=report(held)))
    answer = (await chat(app, cache=cache)).json()
    assert answer["usage"]["completion_tokens"] == num_generated
    assert answer["choices"][0]["length_cause"] == cause


async def test_an_explicit_limit_is_left_to_admission_and_a_default_is_not() -> None:
    engine = RecitingEngine(report=report(10))
    assert (await complete(make_app(engine), max_tokens=100)).json()["usage"]["completion_tokens"] == 100
    assert (await complete(make_app(engine))).json()["usage"]["completion_tokens"] == 7
