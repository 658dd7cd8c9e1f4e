"""POST /v1/completions: shapes, several prompts and choices, log probabilities, echo, stops, limits."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI

from tests.fakes import small_engine_config
from tests.server.asgi import Exchange, ask, complete
from tests.server.served import RECITED, TEXT, RecitingEngine, byte_tokenizer, make_app, served_model
from transom.config.model_config import GenerationDefaults
from transom.registry import ModelRegistry
from transom.server.app import create_app
from transom.server.prompts import MAX_PROMPTS
from transom.server.settings import ServerSettings


async def test_an_answer_has_openais_shape_and_counted_usage() -> None:
    answer = await complete(make_app(), max_tokens=20)
    body = answer.json()
    assert answer.status == 200
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "text_completion"
    assert body["model"] == "tiny"
    [choice] = body["choices"]
    assert choice["text"] == RECITED[:20].decode()
    assert choice["index"] == 0
    assert choice["logprobs"] is None
    assert choice["finish_reason"] == "length"
    assert choice["length_cause"] == "max_tokens"
    assert body["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 20,
        "total_tokens": 23,
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


@pytest.mark.parametrize("path", ["/v1/completions", "/completions"])
@pytest.mark.parametrize("model", ["tiny", "org/tiny-alias-0"])
async def test_the_route_has_two_paths_and_the_model_two_names(path: str, model: str) -> None:
    answer = await ask(make_app(), "POST", path, {"model": model, "prompt": "x"})
    assert answer.json()["model"] == "tiny"
    assert answer.json()["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("ab", [b"ab"]),
        (["ab", "c"], [b"ab", b"c"]),
        ([97, 98], [b"ab"]),
        ([[97, 98], [99]], [b"ab", b"c"]),
    ],
)
async def test_a_prompt_may_be_a_text_token_ids_or_lists_of_them(prompt: Any, prompts: list[bytes]) -> None:
    engine = RecitingEngine()
    answer = await complete(make_app(engine), prompt=prompt)
    assert [bytes(request.prompt_token_ids) for request in engine.requests] == prompts
    assert [choice["index"] for choice in answer.json()["choices"]] == list(range(len(prompts)))
    assert answer.json()["usage"]["prompt_tokens"] == sum(map(len, prompts))


async def test_as_many_prompts_as_the_limit_allows_are_served() -> None:
    answer = await complete(make_app(), prompt=["ab"] * MAX_PROMPTS, max_tokens=1)
    assert answer.status == 200
    assert [choice["index"] for choice in answer.json()["choices"]] == list(range(MAX_PROMPTS))
    assert answer.json()["usage"]["prompt_tokens"] == 2 * MAX_PROMPTS
    assert answer.json()["usage"]["completion_tokens"] == MAX_PROMPTS


async def test_a_streamed_list_of_prompts_equals_the_answer_in_one_piece() -> None:
    asked: dict[str, Any] = {
        "prompt": [chr(97 + index % 26) for index in range(40)],
        "n": 2,
        "seed": 3,
        "max_tokens": 5,
    }
    whole = (await complete(make_app(), **asked)).json()
    events = (await complete(make_app(), **asked, stream=True, stream_options={"include_usage": True})).events()[:-1]
    texts = [""] * 80
    for choice in (choice for event in events for choice in event["choices"]):
        texts[choice["index"]] += choice["text"]
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert events[-1]["usage"] == whole["usage"]


@pytest.mark.parametrize("stream", [False, True])
async def test_prompts_of_a_client_that_has_gone_never_reach_the_engine(stream: bool) -> None:
    engine = RecitingEngine(holds_after=1)
    body = {"model": "tiny", "prompt": ["ab"] * 100, "max_tokens": 9, "stream": stream}
    exchange = Exchange(make_app(engine), "POST", "/v1/completions", json.dumps(body).encode())
    async with asyncio.timeout(5):
        while len(engine.running) < small_engine_config().max_num_seqs:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    exchange.gone.set()
    await asyncio.wait({exchange.task}, timeout=5)
    assert len(engine.requests) == small_engine_config().max_num_seqs
    assert not engine.running


async def test_prompts_share_what_is_long_in_their_sampling() -> None:
    engine = RecitingEngine()
    await complete(make_app(engine), prompt=["a", "bc"], allowed_token_ids=list(range(100)), n=2)
    assert len({id(request.sampling.allowed_token_ids) for request in engine.requests}) == 1


async def test_choices_are_numbered_prompt_by_prompt_and_a_prompt_counts_once() -> None:
    engine = RecitingEngine()
    answer = (await complete(make_app(engine), prompt=["ab", "xyz"], n=3, max_tokens=4, seed=5)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3, 4, 5]
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts[:3] == texts[3:]
    assert len(set(texts)) == 3
    assert answer["usage"]["prompt_tokens"] == 5
    assert answer["usage"]["completion_tokens"] == 24
    assert [request.sampling.seed for request in engine.requests] == [5, 6, 7, 5, 6, 7]
    assert len({request.request_id for request in engine.requests}) == 6


async def test_best_of_gives_the_likeliest_candidates_and_counts_all() -> None:
    engine = RecitingEngine()
    answer = (await complete(make_app(engine), n=2, best_of=4, max_tokens=2, seed=10)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert [choice["text"] for choice in answer["choices"]] == [RECITED[10:12].decode(), RECITED[11:13].decode()]
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["usage"]["prompt_tokens"] == 3


async def test_the_stream_equals_the_answer_in_one_piece() -> None:
    body = {"max_tokens": 60, "logprobs": 2, "n": 2, "seed": 1, "prompt": ["ab", "c"]}
    whole = (await complete(make_app(), **body)).json()
    answer = await complete(make_app(), **body, stream=True, stream_options={"include_usage": True})
    *chunks, last, done = answer.events()
    assert done == "[DONE]"
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert len({(chunk["id"], chunk["created"]) for chunk in [*chunks, last]}) == 1
    for expected in whole["choices"]:
        pieces = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == expected["index"]]
        assert "".join(piece["text"] for piece in pieces) == expected["text"]
        assert [piece["finish_reason"] for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
        assert pieces[-1]["finish_reason"] == expected["finish_reason"]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [item for piece in pieces for item in piece["logprobs"][name]]
            assert joined == expected["logprobs"][name]


async def test_a_stream_without_include_usage_has_no_usage_key() -> None:
    answer = await complete(make_app(), stream=True, max_tokens=3)
    assert all("usage" not in event for event in answer.events()[:-1])


async def test_continuous_usage_stats_count_up_in_every_chunk() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = await complete(make_app(), stream=True, max_tokens=3, stream_options=options)
    counts = [event["usage"]["completion_tokens"] for event in answer.events()[:-1]]
    assert counts == [1, 2, 3, 3]


async def test_several_tokens_in_one_output_come_in_one_chunk() -> None:
    answer = await complete(make_app(RecitingEngine(tokens_per_output=8)), stream=True, max_tokens=16)
    texts = [event["choices"][0]["text"] for event in answer.events()[:-1]]
    assert len(texts) == 2
    assert "".join(texts) == RECITED[:16].decode()


async def test_log_probabilities_are_parallel_lists_that_name_the_chosen_token() -> None:
    logprobs = (await complete(make_app(), max_tokens=4, logprobs=2)).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["G", "r", "bytes:\\xc3", "bytes:\\xbc"]
    assert logprobs["token_logprobs"] == [-0.5] * 4
    assert logprobs["text_offset"] == [0, 1, 2, 2]
    assert logprobs["top_logprobs"][0] == {"G": -0.5, "\x01": -9999.0}


async def test_logprobs_0_shows_the_sampled_token_only() -> None:
    logprobs = (await complete(make_app(), max_tokens=1, logprobs=0)).json()["choices"][0]["logprobs"]
    assert logprobs["top_logprobs"] == [{"G": -0.5}]


async def test_tokens_can_be_shown_as_ids() -> None:
    answer = await complete(
        make_app(), max_tokens=1, logprobs=0, return_tokens_as_token_ids=True, return_token_ids=True
    )
    choice = answer.json()["choices"][0]
    assert choice["logprobs"]["tokens"] == ["token_id:71"]
    assert choice["token_ids"] == [71]
    assert choice["prompt_token_ids"] == [97, 98, 99]


async def test_echo_puts_the_prompt_first_and_scores_it_with_logprobs() -> None:
    choice = (await complete(make_app(), echo=True, logprobs=1, max_tokens=1)).json()["choices"][0]
    assert choice["text"] == "abcG"
    assert choice["logprobs"]["tokens"] == ["a", "b", "c", "G"]
    assert choice["logprobs"]["token_logprobs"] == [None, -2.0, -2.0, -0.5]
    assert choice["logprobs"]["top_logprobs"][0] is None
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 3]


async def test_a_stop_string_ends_the_text_before_it_and_aborts_the_engine() -> None:
    engine = RecitingEngine()
    answer = (await complete(make_app(engine), stop=[" dem", "zzz"], max_tokens=100)).json()
    choice = answer["choices"][0]
    assert choice["text"] == "Grüße aus"
    assert choice["finish_reason"] == "stop"
    assert choice["stop_reason"] == " dem"
    assert answer["usage"]["completion_tokens"] == len("Grüße aus dem".encode())
    assert engine.aborted


async def test_a_streamed_stop_string_is_never_shown_in_part() -> None:
    answer = await complete(make_app(), stop=" dem Bücher", max_tokens=100, stream=True)
    texts = [event["choices"][0]["text"] for event in answer.events()[:-1]]
    assert "".join(texts) == "Grüße aus"
    assert not any(" d" in text for text in texts)


async def test_the_end_of_sequence_token_ends_the_text_as_stop() -> None:
    choice = (await complete(make_app(RecitingEngine(end_after=5)), max_tokens=50)).json()["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"], choice["text"]) == ("stop", None, "Grü\ufffd")


@pytest.mark.parametrize(
    ("num_prompt_tokens", "max_tokens", "num_generated"),
    [(200, 56, 56), (255, 1, 1), (255, None, 1), (245, None, 11), (10, None, 16), (200, 57, None), (256, 1, None)],
)
async def test_the_context_window_is_filled_to_the_last_token_and_no_further(
    num_prompt_tokens: int, max_tokens: int | None, num_generated: int | None
) -> None:
    limit = {} if max_tokens is None else {"max_tokens": max_tokens}
    answer = await complete(make_app(), prompt=[97] * num_prompt_tokens, **limit)
    if num_generated is not None:
        assert answer.json()["usage"]["completion_tokens"] == num_generated
        return
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"
    assert answer.error["param"] == "prompt"
    assert answer.error["n_prompt_tokens"] == num_prompt_tokens
    assert answer.error["n_ctx"] == 256


@pytest.mark.parametrize(("num_prompt_tokens", "cause"), [(100, "max_tokens"), (250, "context")])
async def test_length_cause_tells_the_two_limits_apart(num_prompt_tokens: int, cause: str) -> None:
    choice = (await complete(make_app(), prompt=[97] * num_prompt_tokens)).json()["choices"][0]
    assert (choice["finish_reason"], choice["length_cause"]) == ("length", cause)


async def test_the_operators_cap_clips() -> None:
    app = make_app(settings=ServerSettings(max_output_tokens=5))
    answer = (await complete(app, max_tokens=50)).json()
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["choices"][0]["length_cause"] == "max_tokens"


async def test_values_come_from_the_request_then_the_model_then_the_interface() -> None:
    engine = RecitingEngine()
    model = served_model(engine, defaults=GenerationDefaults(temperature=0.3, top_k=7))
    app = create_app(ModelRegistry([model]), ServerSettings())
    await complete(app, temperature=0, repeat_penalty=1.5)
    await complete(app, top_k=-1, min_p=0.1)
    first, second = (request.sampling for request in engine.requests)
    assert (first.temperature, first.top_k, first.top_p, first.repetition_penalty) == (0, 7, 1.0, 1.5)
    assert (second.temperature, second.top_k, second.min_p, second.repetition_penalty) == (0.3, 0, 0.1, 1.0)


async def test_every_sampling_field_reaches_the_engine() -> None:
    engine = RecitingEngine()
    await complete(
        make_app(engine),
        logit_bias={"97": -100, "3": 1.5},
        stop_token_ids=[3],
        allowed_token_ids=[1, 2],
        ignore_eos=True,
        min_tokens=2,
        max_tokens=9,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        priority=4,
        n_predict=9,
    )
    [request] = engine.requests
    sampling = request.sampling
    assert request.priority == 4
    assert sampling.logit_bias == {97: -100.0, 3: 1.5}
    assert sampling.stop_token_ids == (3,)
    assert sampling.allowed_token_ids == (1, 2)
    assert sampling.ignore_eos
    assert (sampling.min_tokens, sampling.max_tokens) == (2, 9)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)


async def test_nulls_equal_absence() -> None:
    nulls = dict.fromkeys(("temperature", "stop", "logit_bias", "suffix", "best_of", "stream_options", "user", "seed"))
    assert (await complete(make_app(), **nulls)).status == 200


async def test_an_unknown_field_is_ignored_where_the_operator_says_so() -> None:
    app = make_app(settings=ServerSettings(allow_unknown_fields=True))
    assert (await complete(app, something_new=1)).status == 200
    assert (await complete(app, suffix="x")).status == 400


BODIES_WITHOUT_A_MODEL: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/tokenize": {"prompt": "x"},
}


@pytest.mark.parametrize("path", BODIES_WITHOUT_A_MODEL)
async def test_an_absent_model_means_the_only_one_or_the_operators_choice(path: str) -> None:
    body = BODIES_WITHOUT_A_MODEL[path]
    assert (await ask(make_app(), "POST", path, body)).status == 200
    engines = (RecitingEngine(), RecitingEngine())
    refused = await ask(make_app(*engines), "POST", path, body)
    assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "missing_parameter", "model")
    assert "tiny, tiny-1" in refused.error["message"]
    app = make_app(*engines, settings=ServerSettings(default_model="tiny-1"))
    assert (await ask(app, "POST", path, body)).status == 200


def test_the_recited_text_has_characters_of_several_bytes() -> None:
    assert len(TEXT.encode()) > len(TEXT)


FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")  # ids 257, 258, 259


def coding_app(engine: RecitingEngine) -> FastAPI:
    served = served_model(engine, tokenizer=byte_tokenizer(*FIM))
    return create_app(ModelRegistry([served]), ServerSettings())


@pytest.mark.parametrize("prompt", ["ab", [97, 98]])
async def test_a_suffix_asks_for_what_stands_in_between(prompt: Any) -> None:
    engine = RecitingEngine()
    body = (await complete(coding_app(engine), prompt=prompt, suffix="cd", max_tokens=4)).json()
    assert engine.requests[0].prompt_token_ids == (257, 97, 98, 258, 99, 100, 259)
    assert body["choices"][0]["text"] == RECITED[:4].decode()
    assert body["usage"]["prompt_tokens"] == 7


async def test_nothing_may_stand_before_the_gap_and_an_empty_suffix_is_none() -> None:
    engine = RecitingEngine()
    await complete(coding_app(engine), prompt="", suffix="cd", max_tokens=4)
    await complete(coding_app(engine), prompt="ab", suffix="", max_tokens=4)
    assert engine.requests[0].prompt_token_ids == (257, 258, 99, 100, 259)
    assert engine.requests[1].prompt_token_ids == (97, 98)


async def test_a_text_that_spells_the_tokens_of_the_middle_stays_text() -> None:
    engine = RecitingEngine()
    await complete(coding_app(engine), prompt="<|fim_middle|>", suffix="<|fim_prefix|>", max_tokens=4)
    ids = list(engine.requests[0].prompt_token_ids)
    assert [token for token in ids if token > 255] == [257, 258, 259]


async def test_a_model_without_such_tokens_refuses_a_suffix_and_so_does_echo() -> None:
    assert (await complete(make_app(), suffix="x")).error["param"] == "suffix"
    assert (await complete(coding_app(RecitingEngine()), suffix="x", echo=True)).error["param"] == "echo"
