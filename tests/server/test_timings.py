"""llama.cpp's `timings`: what the prompt and the answer took, in the answer or with each of its pieces."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.asgi import chat, complete
from tests.server.served import make_app

ASK = pytest.mark.parametrize("ask", [complete, chat])


@ASK
async def test_an_answer_has_its_timings_where_they_are_asked_for(ask: Any) -> None:
    asked = {"n": 2, "max_tokens": 4}
    answer = (await ask(make_app(), **asked, timings_per_token=True)).json()
    timings, usage = answer["timings"], answer["usage"]
    assert timings.keys() == {"prompt_n", "cache_n", "prompt_ms", "predicted_n", "predicted_ms"}
    assert timings["prompt_n"] + timings["cache_n"] == usage["prompt_tokens"]
    assert timings["predicted_n"] == usage["completion_tokens"] == 8
    assert timings["prompt_ms"] > 0 and timings["predicted_ms"] > 0
    assert "timings" not in (await ask(make_app(), **asked)).json()


@ASK
async def test_the_pieces_of_a_stream_count_up_and_the_last_one_knows_what_was_cached(ask: Any) -> None:
    events = (await ask(make_app(), max_tokens=4, stream=True, timings_per_token=True)).events()[:-1]
    timings = [event["timings"] for event in events if "timings" in event]
    assert [each["predicted_n"] for each in timings] == [1, 2, 3, 4]
    assert ["cache_n" in each for each in timings] == [False, False, False, True]
    spent = [each["predicted_ms"] for each in timings]
    assert spent == sorted(spent)
