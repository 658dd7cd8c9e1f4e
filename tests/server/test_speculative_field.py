"""llama.cpp's request field `speculative.n_max`: how many tokens may be guessed at once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.asgi import chat, complete
from tests.server.served import RecitingEngine, make_app

FIELD = "speculative.n_max"


@pytest.mark.parametrize("ask_for", [complete, chat])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({FIELD: None}, None),
        ({FIELD: 0}, 0),
        ({FIELD: 16}, 16),
        ({FIELD: 16, "speculative.n_min": 1, "speculative.p_min": 0.5}, 16),
        ({"speculative": {"n_max": 3, "n_min": 0, "p_min": 0.75}}, 3),
        ({"speculative": {"n_max": None}}, None),
        ({"speculative": {}, FIELD: 2}, 2),
        ({"speculative": {"n_max": 2}, FIELD: 2}, 2),
    ],
)
async def test_what_a_request_chooses_reaches_the_engine(
    ask_for: Any, fields: dict[str, Any], expected: int | None
) -> None:
    engine = RecitingEngine()
    answer = await ask_for(make_app(engine), max_tokens=2, **fields)
    assert answer.status == 200, answer.body
    assert engine.requests[0].max_draft_tokens == expected


@pytest.mark.parametrize("ask_for", [complete, chat])
@pytest.mark.parametrize("value", [-1, 2.0, True, "4", [4]])
async def test_what_cannot_be_is_a_400_that_names_it(ask_for: Any, value: Any) -> None:
    answer = await ask_for(make_app(RecitingEngine()), **{FIELD: value})
    assert (answer.status, answer.error["param"]) == (400, FIELD)
    assert FIELD in answer.error["message"]


async def test_two_different_numbers_are_refused() -> None:
    answer = await complete(make_app(), **{FIELD: 2, "speculative": {"n_max": 3}})
    assert (answer.status, answer.error["param"]) == (400, FIELD)
