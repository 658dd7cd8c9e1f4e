"""Tables of bad requests: each is a 400 that names the field; and of edges that are accepted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.asgi import ask, chat, complete
from tests.server.bad_requests import (
    CHAT,
    CHAT_UNSUPPORTED,
    COMMON,
    COMMON_UNSUPPORTED,
    COMPLETION,
    COMPLETION_UNSUPPORTED,
    MESSAGES,
)
from tests.server.served import EOS, VOCAB_SIZE, RecitingEngine, make_app


def named(table: list[tuple[str, list[Any]]]) -> list[Any]:
    return [pytest.param(name, values, id=f"{name}-{number}") for number, (name, values) in enumerate(table)]


@pytest.mark.parametrize(("field", "values"), named([*COMMON, *COMPLETION]))
async def test_s06_a_bad_value_in_a_completion_is_a_400_that_names_the_field(field: str, values: list[Any]) -> None:
    engine = RecitingEngine()
    app = make_app(engine)
    for value in values:
        answer = await complete(app, **{field: value})
        assert answer.status == 400, value
        assert answer.error["type"] == "invalid_request_error"
        assert str(answer.error["param"]).startswith(field), value
    assert not engine.requests


@pytest.mark.parametrize(("field", "values"), named([*COMMON, *CHAT]))
async def test_s06_a_bad_value_in_a_chat_is_a_400_that_names_the_field(field: str, values: list[Any]) -> None:
    engine = RecitingEngine()
    app = make_app(engine)
    for value in values:
        if (field, value) == ("min_tokens", 17):
            continue  # fits a chat, whose default limit is the rest of the window
        answer = await chat(app, **{field: value})
        assert answer.status == 400, value
        assert str(answer.error["param"]).startswith(field), value
    assert not engine.requests


@pytest.mark.parametrize("messages", MESSAGES, ids=range(len(MESSAGES)))
async def test_bad_messages_are_a_400_that_names_the_message(messages: Any) -> None:
    answer = await chat(make_app(), messages=messages)
    assert answer.status == 400
    assert answer.error["param"].startswith("messages")


@pytest.mark.parametrize(("field", "value"), [*COMMON_UNSUPPORTED, *COMPLETION_UNSUPPORTED])
async def test_a_known_field_that_is_not_served_is_never_ignored_in_a_completion(field: str, value: Any) -> None:
    answer = await complete(make_app(), **{field: value})
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "unsupported_parameter", field)


@pytest.mark.parametrize(("field", "value"), [*COMMON_UNSUPPORTED, *CHAT_UNSUPPORTED])
async def test_a_known_field_that_is_not_served_is_never_ignored_in_a_chat(field: str, value: Any) -> None:
    answer = await chat(make_app(), **{field: value})
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "unsupported_parameter", field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", {"type": "text"}),
        ("tools", []),
        ("tool_choice", "none"),
        ("modalities", ["text"]),
        ("store", False),
        ("service_tier", "auto"),
        ("typical_p", 1.0),
        ("n_keep", -1),
        ("parallel_tool_calls", True),
        ("metadata", {"a": "b"}),
        ("user", "someone"),
        ("cache_prompt", False),
        ("reasoning_effort", "low"),
        ("max_tokens", -1),
        ("temperature", 2),
        ("top_p", 0),
        ("top_k", -1),
        ("seed", -(2**63)),
        ("stop", ["a", "b", "c", "x" * 256]),
        ("stop", []),
        ("logit_bias", {"0": 100, str(VOCAB_SIZE - 1): -100}),
        ("n", 16),
        ("messages", [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "x", "name": "me"}]),
        ("messages", [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]),
    ],
)
async def test_values_that_mean_nothing_unusual_and_edges_are_accepted(field: str, value: Any) -> None:
    body = {"max_tokens": 2, field: value}
    answer = await chat(make_app(), **body)
    assert answer.status == 200, answer.body


@pytest.mark.parametrize(
    ("field", "hint"),
    [("maxtokens", "max_tokens"), ("temprature", "temperature"), ("stopp", "stop"), ("zzzz", None), ("", None)],
)
async def test_an_unknown_field_is_named_together_with_the_nearest_known_one(field: str, hint: str | None) -> None:
    answer = await complete(make_app(), **{field: 1})
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "unknown_parameter", field)
    assert ("Did you mean" in answer.error["message"]) == (hint is not None)
    assert f"'{hint}'" in answer.error["message"] or hint is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 5, "n_predict": 6}, "max_tokens"),
        ({"repetition_penalty": 1.1, "repeat_penalty": 1.2}, "repetition_penalty"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ],
)
async def test_fields_that_contradict_each_other_are_refused(fields: dict[str, Any], param: str) -> None:
    answer = await complete(make_app(), **fields)
    assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"store": True}, "(accepted: false)."),
        ({"modalities": ["audio"]}, '(accepted: ["text"]).'),
        ({"functions": [{"name": "f"}]}, "(accepted: [])."),
        ({"messages": []}, "list should have at least 1 item, not 0."),
    ],
)
async def test_refusals_speak_of_json_and_not_of_python(fields: dict[str, Any], said: str) -> None:
    answer = await chat(make_app(), **fields)
    assert answer.status == 400
    assert answer.error["message"].endswith(said)


async def test_two_names_of_the_chat_limit_must_agree() -> None:
    assert (await chat(make_app(), max_tokens=5, max_completion_tokens=6)).status == 400
    answer = await chat(make_app(), max_tokens=5, max_completion_tokens=5)
    assert answer.json()["usage"]["completion_tokens"] == 5


async def test_s07_every_factor_of_the_cost_at_its_cap_together_is_refused() -> None:
    engine = RecitingEngine()
    prompts = [[97]] * 2048
    answer = await complete(make_app(engine), prompt=prompts, n=16, max_tokens=255, logprobs=20)
    assert answer.status == 400
    assert "4000000" in answer.error["message"]
    assert not engine.requests


async def test_the_last_id_of_the_vocabulary_is_accepted() -> None:
    assert (await complete(make_app(), prompt=[0, EOS, VOCAB_SIZE - 1])).status == 200


@pytest.mark.parametrize("name", ["nobody", "../../etc/passwd", "tiny/", "TINY", "a\0b", "x" * 256, "tiny "])
async def test_an_unknown_model_is_a_404_with_the_served_names(name: str) -> None:
    for path, content in (
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/tokenize", {"prompt": "x"}),
    ):
        answer = await ask(make_app(), "POST", path, {"model": name, **content})
        assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
        assert "tiny" in answer.error["message"]
