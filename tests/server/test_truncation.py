"""`truncation: "auto"`: as few of the oldest messages go as it takes, with what belongs to them, and it is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.asgi import ask, chat
from tests.server.served import RecitingEngine, make_app, served_model
from transom.errors import TemplateError
from transom.registry import ModelRegistry
from transom.server.app import create_app
from transom.server.chat_messages import Message
from transom.server.settings import ServerSettings
from transom.server.truncation import PromptLimits, droppable_units, fit_messages

ALTERNATING = (
    "{% for m in messages if m.role != 'system' %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "[{{ m.role[0] }}]{{ m.content }}"
    "{% endfor %}"
)


def message(role: str, content: str | None = "x" * 10, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(*ids: str) -> dict[str, Any]:
    calls = [{"id": each, "type": "function", "function": {"name": "f", "arguments": "{}"}} for each in ids]
    return message("assistant", None, tool_calls=calls)


def result(call_id: str, content: str = "x" * 10) -> dict[str, Any]:
    return message("tool", content, tool_call_id=call_id)


def messages_of(*raw: dict[str, Any]) -> list[Message]:
    return [Message.model_validate(each) for each in raw]


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ("u", []),
        ("su", []),
        ("sua", []),
        ("uau", [(0,), (1,)]),
        ("suau", [(1,), (2,)]),
        ("usau", [(0,), (2,)]),
        ("dsuau", [(2,), (3,)]),
        ("uaaa", [(1,), (2,)]),
        ("aaa", [(0,), (1,)]),
        ("uaua", [(0,), (1,)]),
    ],
)
def test_what_may_go_is_all_but_instructions_the_last_question_and_the_end(
    roles: str, expected: list[tuple[int, ...]]
) -> None:
    names = {"s": "system", "d": "developer", "u": "user", "a": "assistant"}
    assert droppable_units(messages_of(*(message(names[role]) for role in roles))) == expected


def test_calls_and_their_results_are_one_unit_wherever_the_results_stand() -> None:
    talk = messages_of(
        message("user"),
        call("a", "b"),
        result("a"),
        result("b"),
        call("c"),
        message("assistant"),
        result("c"),
        message("user"),
        call("d"),
        result("d"),
        message("assistant"),
    )
    assert droppable_units(talk) == [(0,), (1, 2, 3), (4, 6), (5,), (8, 9)]


def test_a_call_stays_when_the_last_message_is_its_result() -> None:
    talk = messages_of(message("user"), call("a"), result("a"), call("b"), result("b"))
    assert droppable_units(talk) == [(1, 2)]


def test_an_orphaned_result_goes_with_what_stands_before_it() -> None:
    assert droppable_units(messages_of(message("assistant"), result("nobody"), message("user"))) == [(0, 1)]
    assert droppable_units(messages_of(result("nobody"), message("user"))) == [(0,)]


_UNITS = st.lists(
    st.sampled_from(["user", "assistant", "system", "call"]).flatmap(
        lambda role: st.tuples(st.just(role), st.integers(1, 30))
    ),
    min_size=1,
    max_size=12,
)


def conversation(parts: Sequence[tuple[str, int]]) -> list[Message]:
    raw: list[dict[str, Any]] = []
    for number, (role, size) in enumerate(parts):
        raw += [call(f"c{number}"), result(f"c{number}", "x" * size)] if role == "call" else [message(role, "x" * size)]
    return messages_of(*raw)


@given(_UNITS, st.integers(1, 200), st.integers(0, 50))
def test_as_few_as_it_takes_and_never_more(parts: Sequence[tuple[str, int]], most: int, share: int) -> None:
    talk = conversation(parts)
    sizes = [len(each.text or "") + 1 for each in talk]

    def encode(indices: Sequence[int]) -> tuple[int, ...]:
        return tuple(index for index in indices for _ in range(sizes[index]))

    fitted = fit_messages(talk, encode, PromptLimits(most, max(1, most - share)))
    kept = [index for index in range(len(talk)) if index not in fitted.left_out]
    units = droppable_units(talk)
    gone = [unit for unit in units if set(unit) <= set(fitted.left_out)]
    assert fitted.token_ids == encode(kept)
    assert fitted.num_left_out_tokens == sum(sizes) - len(fitted.token_ids)
    assert gone == units[: len(gone)]
    assert sorted(index for unit in gone for index in unit) == list(fitted.left_out)
    if sum(sizes) <= most:
        assert not gone
    elif len(fitted.token_ids) <= most:
        wanted = max(1, most - share)
        assert len(fitted.token_ids) <= wanted or len(gone) == len(units)
        assert len(fitted.token_ids) + sum(sizes[index] for index in gone[-1]) > wanted
    else:
        assert not gone


def test_a_template_that_refuses_the_conversation_as_it_is_has_the_last_word() -> None:
    def refuse(indices: Sequence[int]) -> tuple[int, ...]:
        raise TemplateError("no")

    with pytest.raises(TemplateError):
        fit_messages(messages_of(message("user")), refuse, PromptLimits(1, 1))


def test_a_template_that_refuses_every_rest_leaves_the_conversation_whole() -> None:
    def encode(indices: Sequence[int]) -> tuple[int, ...]:
        if len(indices) < 3:
            raise TemplateError("no")
        return (0,) * 100

    talk = messages_of(message("user"), message("assistant"), message("user"))
    assert fit_messages(talk, encode, PromptLimits(50, 50)).left_out == ()


LONG = [message("system", "s" * 20), *(message(role, role[0] * 60) for role in ("user", "assistant") * 3)]
ASKED = [*LONG, message("user", "q" * 20)]
"""400 characters and 14 of paragraph breaks; each is a token, and the window holds 256."""


@pytest.mark.parametrize("stream", [False, True])
async def test_the_answer_says_what_was_left_out(stream: bool) -> None:
    engine = RecitingEngine()
    answer = await chat(make_app(engine), messages=ASKED, truncation="auto", max_tokens=20, stream=stream)
    assert answer.status == 200
    said = (
        [event["truncation"] for event in answer.events()[:-1] if "truncation" in event]
        if stream
        else [answer.json()["truncation"]]
    )
    prompt = bytes(engine.requests[0].prompt_token_ids)
    assert said == [{"truncated": True, "left_out_messages": [1, 2, 3], "left_out_tokens": 186}]
    assert prompt.startswith(b"s" * 20)
    assert prompt.endswith(b"q" * 20)
    assert (prompt.count(b"u"), prompt.count(b"a")) == (60, 120)
    if not stream:
        assert answer.json()["usage"]["prompt_tokens"] == len(prompt)


async def test_nothing_is_left_out_of_what_fits_and_that_is_said() -> None:
    answer = await chat(make_app(), truncation="auto", max_tokens=251)
    assert answer.json()["truncation"] == {"truncated": False, "left_out_messages": [], "left_out_tokens": 0}


async def test_without_the_field_nothing_is_ever_left_out() -> None:
    for fields in ({}, {"truncation": "disabled"}, {"truncation": None}):
        answer = await chat(make_app(), messages=ASKED, max_tokens=20, **fields)
        assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert "truncation" not in (await chat(make_app(), truncation="disabled", max_tokens=1)).json()
    assert (await chat(make_app(), truncation="left")).error["param"] == "truncation"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_last_message_that_does_not_fit_is_refused_with_the_numbers_of_the_whole(stream: bool) -> None:
    talk = [*LONG, message("user", "q" * 256)]
    answer = await chat(make_app(), messages=talk, truncation="auto", stream=stream)
    assert (answer.status, answer.error["code"], answer.error["n_ctx"]) == (400, "context_length_exceeded", 256)
    assert answer.error["n_prompt_tokens"] > 256 + 380
    assert "the rest is still too long" in answer.error["message"]


async def test_an_answer_of_any_length_gets_a_quarter_of_the_window_where_that_can_be() -> None:
    body = (await chat(make_app(), messages=ASKED, truncation="auto")).json()
    assert body["usage"]["completion_tokens"] >= 64
    filled = [*LONG, message("user", "q" * 220)]
    body = (await chat(make_app(), messages=filled, truncation="auto")).json()
    assert body["truncation"]["left_out_messages"] == [1, 2, 3, 4, 5, 6]
    assert body["usage"]["total_tokens"] == 256


async def test_where_roles_must_alternate_the_rest_begins_with_the_user() -> None:
    app = create_app(ModelRegistry([served_model(template=ALTERNATING)]), ServerSettings())
    talk = [message(role, role[0] * 60) for role in ("user", "assistant") * 2]
    body = (await chat(app, messages=[*talk, message("user", "q" * 60)], truncation="auto", max_tokens=40)).json()
    assert body["truncation"]["left_out_messages"] == [0, 1]
    whole = await chat(app, messages=[message("assistant"), *talk, message("user")], truncation="auto", max_tokens=40)
    assert (whole.status, whole.error["param"]) == (400, "messages")


async def test_the_token_counter_counts_what_would_be_asked() -> None:
    body = {"model": "tiny", "messages": ASKED, "truncation": "auto", "max_tokens": 20}
    counted = (await ask(make_app(), "POST", "/v1/chat/completions/input_tokens", body)).json()
    asked = (await ask(make_app(), "POST", "/v1/chat/completions", body)).json()
    assert counted["input_tokens"] == asked["usage"]["prompt_tokens"]
    assert counted["truncation"] == asked["truncation"]
    assert json.dumps(counted)
