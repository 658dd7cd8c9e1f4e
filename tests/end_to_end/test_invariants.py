"""What must be equal is equal, over HTTP and a real model: streams and whole answers, texts and token ids, company and
solitude, several choices and single requests; and the counts add up."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx
import pytest

from tests.running_server import RunningServer

TEXT = "Prince Andrew looked at the sky"
OTHER = "Natasha smiled and"
MESSAGES = [{"role": "user", "content": TEXT}]
COMPLETIONS, CHATS, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"
Body = dict[str, Any]


@dataclass
class Choice:
    """One sequence, whichever way it was told."""

    text: str = ""
    finish_reason: str | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)


@dataclass
class Told:
    """One answer."""

    choices: dict[int, Choice]
    usage: Body
    num_texts: int = 1
    """Pieces that had a text."""


def post(server: RunningServer, path: str, body: Body) -> Told:
    """An answer in one piece."""
    response = server.post(path, {"model": "tolstoy", **body})
    assert response.status_code == 200, response.text
    answer = response.json()
    told = Told({}, answer["usage"])
    if path == RESPONSES:
        _take_response(told, answer)
    for choice in answer.get("choices", ()):
        _take(told, choice, choice.get("message"))
    return told


def stream(server: RunningServer, path: str, body: Body) -> Told:
    """The same answer in pieces, put together; the form of the stream is checked on the way."""
    options = {} if path == RESPONSES else {"stream_options": {"include_usage": True}}
    asked = {"model": "tolstoy", **body, "stream": True, **options}
    told, payloads = Told({}, {}, num_texts=0), []
    with httpx.stream("POST", f"{server.url}{path}", json=asked, timeout=120) as response:
        assert response.status_code == 200
        payloads = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    if path != RESPONSES:
        assert payloads.pop() == "[DONE]"
    events = [json.loads(payload) for payload in payloads]
    assert len({event.get("id") for event in events}) == 1
    for event in events:
        told.usage = event.get("usage") or told.usage
        for choice in event.get("choices", ()):
            _take(told, choice, choice.get("delta"))
        if event.get("type") == "response.output_text.delta":
            _take_delta(told, event)
        elif event.get("type", "").startswith("response.") and "response" in event:
            told.usage = event["response"]["usage"] or told.usage
            told.choices[0] = told.choices.get(0, Choice())
            told.choices[0].finish_reason = event["response"]["status"]
    return told


def _take(told: Told, choice: Body, message: Body | None) -> None:
    known = told.choices.setdefault(choice["index"], Choice())
    assert known.finish_reason is None, "more came behind the end"
    text = choice["text"] if message is None else message.get("content") or ""
    known.text += text
    told.num_texts += bool(text)
    known.finish_reason = choice["finish_reason"]
    known.token_ids += choice.get("token_ids", ())
    if choice["logprobs"] is not None:
        logprobs = choice["logprobs"]
        known.logprobs += logprobs["content"] if "content" in logprobs else list(zip(*logprobs.values(), strict=True))


def _take_response(told: Told, answer: Body) -> None:
    [message] = answer["output"]
    [part] = message["content"]
    told.choices[0] = Choice(part["text"], answer["status"], logprobs=part["logprobs"])


def _take_delta(told: Told, event: Body) -> None:
    told.choices[0].text += event["delta"]
    told.choices[0].logprobs += event["logprobs"]
    told.num_texts += bool(event["delta"])


ASKED: list[tuple[str, Body]] = [
    (COMPLETIONS, {"prompt": TEXT, "max_tokens": 40, "temperature": 0, "logprobs": 3, "return_token_ids": True}),
    (COMPLETIONS, {"prompt": [TEXT, OTHER], "n": 2, "max_tokens": 20, "seed": 5, "logprobs": 0, "echo": True}),
    (COMPLETIONS, {"prompt": TEXT, "max_tokens": 60, "seed": 7, "stop": ["e", "the "], "logprobs": 1}),
    (COMPLETIONS, {"prompt": TEXT, "max_tokens": 30, "seed": 8, "stop": [" and"], "include_stop_str_in_output": True}),
    (CHATS, {"messages": MESSAGES, "max_tokens": 40, "temperature": 0, "logprobs": True, "top_logprobs": 2}),
    (CHATS, {"messages": MESSAGES, "n": 3, "max_tokens": 20, "seed": 9, "return_token_ids": True}),
    (CHATS, {"messages": MESSAGES, "max_tokens": 60, "seed": 10, "stop": [". ", ","], "logprobs": True}),
    (RESPONSES, {"input": TEXT, "max_output_tokens": 40, "temperature": 0, "top_logprobs": 2}),
    (RESPONSES, {"input": TEXT, "max_output_tokens": 60, "seed": 10, "stop": [", "]}),
]
IDS = [f"{path.rpartition('/')[2]}-{number}" for number, (path, _) in enumerate(ASKED)]


@pytest.fixture(scope="module")
def answers(server: RunningServer) -> list[Told]:
    """In one piece, asked for one after the other."""
    return [post(server, path, body) for path, body in ASKED]


@pytest.mark.parametrize("number", range(len(ASKED)), ids=IDS)
def test_a_stream_tells_what_the_answer_in_one_piece_tells(
    server: RunningServer, answers: list[Told], number: int
) -> None:
    whole, streamed = answers[number], stream(server, *ASKED[number])
    assert streamed.choices == whole.choices
    assert without_cache(streamed.usage) == without_cache(whole.usage)
    assert streamed.num_texts > len(streamed.choices)
    assert all(choice.text for choice in whole.choices.values())


def without_cache(usage: Body) -> Body:
    """A second request may find what the first one left."""
    return {
        name: value for name, value in usage.items() if name not in ("prompt_tokens_details", "input_tokens_details")
    }


@pytest.mark.parametrize("number", range(len(ASKED)), ids=IDS)
def test_counts_add_up(answers: list[Told], number: int) -> None:
    told, (path, body) = answers[number], ASKED[number]
    names = ("input", "output") if path == RESPONSES else ("prompt", "completion")
    prompt, completion = (told.usage[f"{name}_tokens"] for name in names)
    assert prompt + completion == told.usage["total_tokens"]
    details = told.usage[f"{names[0]}_tokens_details"]
    assert details["cached_tokens"] + details["cache_write_tokens"] <= prompt
    assert details["cached_tokens"] < prompt
    choices = told.choices.values()
    if "return_token_ids" in body:
        assert completion == sum(len(choice.token_ids) for choice in choices)
    if {"logprobs", "top_logprobs"} & body.keys():
        echoed = body["n"] * prompt if "echo" in body else 0
        assert echoed + completion == sum(len(choice.logprobs) for choice in choices)


def tokens_of(server: RunningServer, text: str) -> list[int]:
    tokens: list[int] = server.post("/tokenize", {"model": "tolstoy", "prompt": text}).json()["tokens"]
    return tokens


def test_counts_of_the_answers_are_those_of_the_metrics(server: RunningServer) -> None:
    names = ("transom_prompt_tokens_total", "transom_tokens_predicted_total")
    before = [server.metric(name, model="tolstoy") for name in names]
    told = [post(server, path, body) for path, body in ASKED[1:3]]
    after = [server.metric(name, model="tolstoy") for name in names]
    for name, first, last in zip(("prompt_tokens", "completion_tokens"), before, after, strict=True):
        assert last - first == sum(answer.usage[name] for answer in told)


def test_token_ids_are_the_same_prompt_as_their_text(server: RunningServer) -> None:
    body = {"max_tokens": 30, "seed": 2, "logprobs": 2, "echo": True}
    prompts: list[Any] = [TEXT, tokens_of(server, TEXT), [TEXT], [tokens_of(server, TEXT)]]
    answers = [post(server, COMPLETIONS, {**body, "prompt": prompt}).choices for prompt in prompts]
    assert answers[1:] == answers[:1] * 3


def test_answers_in_company_are_those_of_solitude(server: RunningServer, answers: list[Told]) -> None:
    """All at once, of every kind."""
    with ThreadPoolExecutor(len(ASKED)) as pool:
        company = list(pool.map(lambda asked: post(server, *asked).choices, ASKED))
    assert company == [told.choices for told in answers]


def test_a_seed_decides_the_text_and_another_one_another(server: RunningServer) -> None:
    body: Body = {"prompt": TEXT, "max_tokens": 30, "temperature": 0.9, "top_p": 0.95}
    texts = [post(server, COMPLETIONS, {**body, "seed": seed}).choices[0].text for seed in (1, 2, 3, 1, 2, 3)]
    assert texts[:3] == texts[3:]
    assert len(set(texts)) == 3


@pytest.mark.parametrize("path", [COMPLETIONS, CHATS])
def test_several_choices_are_single_requests_with_the_seeds_that_follow(server: RunningServer, path: str) -> None:
    body: Body = {"prompt": TEXT} if path == COMPLETIONS else {"messages": MESSAGES}
    body |= {"max_tokens": 20, "seed": 100}
    several = post(server, path, {**body, "n": 4})
    single = [post(server, path, {**body, "seed": 100 + index}) for index in range(4)]
    assert list(several.choices.values()) == [answer.choices[0] for answer in single]
    assert several.usage["prompt_tokens"] == single[0].usage["prompt_tokens"]
    assert several.usage["completion_tokens"] == sum(answer.usage["completion_tokens"] for answer in single)


def test_choices_are_numbered_prompt_by_prompt(server: RunningServer) -> None:
    body: Body = {"n": 2, "max_tokens": 8, "seed": 4}
    together = post(server, COMPLETIONS, {**body, "prompt": [TEXT, OTHER]})
    apart = [post(server, COMPLETIONS, {**body, "prompt": prompt}) for prompt in (TEXT, OTHER)]
    assert list(together.choices) == [0, 1, 2, 3]
    assert list(together.choices.values()) == [choice for answer in apart for choice in answer.choices.values()]


def test_a_stop_string_that_tokens_share_ends_the_text_wherever_it_lies(server: RunningServer) -> None:
    """Every stretch of a known text, also those that begin and end within tokens; nothing of it is ever told."""
    greedy: Body = {"prompt": TEXT, "max_tokens": 24, "temperature": 0}
    text = post(server, COMPLETIONS, greedy).choices[0].text
    for start in range(1, len(text) - 9, 11):
        stop = text[start : start + 9]
        told = stream(server, COMPLETIONS, {**greedy, "stop": stop})
        assert told.choices[0].text == text[: text.index(stop)]
        assert told.choices[0].finish_reason == "stop"
        assert told.usage["completion_tokens"] <= 24


def test_what_was_cached_is_told_however_the_text_ends(server: RunningServer) -> None:
    long: Body = {"prompt": f"{OTHER} {TEXT}. " * 20, "max_tokens": 20, "temperature": 0}
    first, again = (post(server, COMPLETIONS, long) for _ in range(2))
    stopped = post(server, COMPLETIONS, {**long, "stop": again.choices[0].text[5]})
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.usage["prompt_tokens_details"] == again.usage["prompt_tokens_details"]
    cached = again.usage["prompt_tokens_details"]["cached_tokens"]
    assert cached >= first.usage["prompt_tokens_details"]["cache_write_tokens"] > 0


def test_an_echo_is_the_prompt_and_then_the_text(server: RunningServer) -> None:
    body: Body = {"prompt": TEXT, "max_tokens": 10, "temperature": 0, "logprobs": 0}
    plain, echoed = (post(server, COMPLETIONS, {**body, "echo": echo}).choices[0] for echo in (False, True))
    assert echoed.text == TEXT + plain.text
    generated = [(token, logprob) for token, logprob, *_ in plain.logprobs]
    assert [(token, logprob) for token, logprob, *_ in echoed.logprobs][-10:] == generated
    assert "".join(token for token, *_ in echoed.logprobs).endswith(TEXT + plain.text)
    for token, _, _, offset in echoed.logprobs[1:]:
        assert echoed.text[offset : offset + len(token)] == token
