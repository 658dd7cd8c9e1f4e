"""Token outputs to text deltas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.llm.fake_engine import outputs_of
from tests.tokenizer import small_tokenizers as small
from transom.errors import EngineError
from transom.llm import Completion, GenerationRequest, TextStream, completion_token_text, join, token_text
from transom.request import FinishReason, Request, RequestOutput, SamplingParams, TokenLogprobs, Usage

TOKENIZER = small.byte_fallback()
SAMPLING = SamplingParams(max_tokens=50)


def _ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def _request(
    stop: tuple[str, ...] = (), *, prompt: tuple[int, ...] = (1,), sampling: SamplingParams = SAMPLING, **more: Any
) -> GenerationRequest:
    return GenerationRequest(Request("r", prompt, sampling), stop, **more)


def _run(request: GenerationRequest, outputs: list[RequestOutput]) -> Completion:
    stream = TextStream(TOKENIZER, request)
    deltas = []
    for output in outputs:
        deltas.append(stream.feed(output))
        if deltas[-1].finish_reason is not None:
            break
    return join(deltas)


def test_the_text_of_all_deltas_is_the_text_of_all_tokens() -> None:
    completion = _run(_request(), outputs_of(_ids("the dog é🎉")))
    assert completion.text == "the dog é🎉"
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.usage == Usage(1, len(_ids("the dog é🎉")))


@given(
    text=st.text("ab é🎉", max_size=15),
    stop=st.lists(st.text("ab é", min_size=1, max_size=3), max_size=3),
    chunk=st.integers(2, 7),
    include=st.booleans(),
)
def test_merged_outputs_give_the_same_completion(text: str, stop: list[str], chunk: int, include: bool) -> None:
    ids = _ids("a" + text)
    request = _request(tuple(stop), include_stop_str_in_output=include)
    one = _run(request, outputs_of(ids, chunk=1, with_logprobs=True))
    many = _run(request, outputs_of(ids, chunk=chunk, with_logprobs=True))
    assert one == many


def test_a_stop_string_ends_text_tokens_and_usage_at_the_token_that_completes_it() -> None:
    completion = _run(_request(("dog",)), outputs_of(_ids("the dog sleeps"), chunk=100, with_logprobs=True))
    consumed = _ids("the dog")
    assert completion.text == "the "
    assert (completion.finish_reason, completion.stop_reason) == (FinishReason.STOP, "dog")
    assert completion.token_ids == tuple(consumed)
    assert completion.usage == Usage(1, len(consumed))
    assert len(completion.logprobs or ()) == len(consumed)


def test_what_was_cached_is_known_also_where_a_stop_string_ends_the_text() -> None:
    outputs = outputs_of(_ids("the dog sleeps"))
    outputs[0] = replace(outputs[0], usage=Usage(1, 1, num_cached_tokens=7, num_cache_write_tokens=3))
    completion = _run(_request(("dog",)), outputs)
    assert completion.usage == Usage(1, len(_ids("the dog")), num_cached_tokens=7, num_cache_write_tokens=3)


def test_a_stop_string_may_be_part_of_the_output() -> None:
    request = _request(("dog",), include_stop_str_in_output=True)
    assert _run(request, outputs_of(_ids("the dog sleeps"))).text == "the dog"


def test_an_end_of_sequence_token_shows_no_text_and_no_stop_reason() -> None:
    outputs = outputs_of([*_ids("the dog"), 2], finish_reason=FinishReason.STOP)
    completion = _run(_request(skip_special_tokens=False), outputs)
    assert (completion.text, completion.stop_reason) == (" the dog", None)
    assert completion.usage.num_completion_tokens == len(outputs)


def test_a_stop_token_of_the_request_is_the_stop_reason_and_shows_only_where_asked_for() -> None:
    ids = _ids("the dog")
    sampling = SamplingParams(max_tokens=50, stop_token_ids=(ids[-1],))
    outputs = outputs_of(ids, finish_reason=FinishReason.STOP)
    without = _run(_request(sampling=sampling), outputs)
    assert (without.text, without.stop_reason) == ("the do", ids[-1])
    assert _run(_request(sampling=sampling, include_stop_str_in_output=True), outputs).text == "the dog"


def test_an_unfinished_character_at_the_end_is_shown_as_broken() -> None:
    assert _run(_request(), outputs_of(_ids("a🎉")[:-1])).text == "a\ufffd"


def test_a_text_that_its_grammar_completes_ends_with_its_last_token() -> None:
    outputs = outputs_of(_ids("the a"), finish_reason=FinishReason.STOP)
    outputs[-1] = replace(outputs[-1], stop_token_id=None)
    completion = _run(_request(), outputs)
    assert (completion.text, completion.finish_reason, completion.stop_reason) == ("the a", FinishReason.STOP, None)


def test_progress_of_prefill_is_passed_on_without_text() -> None:
    delta = TextStream(TOKENIZER, _request(echo=True)).feed(RequestOutput("r", num_computed_tokens=64))
    assert (delta.text, delta.token_ids, delta.num_computed_tokens) == ("", (), 64)


def test_echo_puts_the_prompt_before_the_text_once() -> None:
    prompt = (1, *_ids("the"))
    completion = _run(_request(prompt=prompt, echo=True), outputs_of(_ids("a")))
    assert completion.text == "the a"


def test_text_offsets_count_characters_of_the_text_they_lie_in() -> None:
    ids = _ids("é the")
    completion = _run(_request(), outputs_of(ids, with_logprobs=True))
    offsets = [detail.text_offset for detail in completion.logprobs or ()]
    assert offsets == [0, 0, 0, 1]  # space (stripped), two halves of a character, a word
    echoed = _run(_request(prompt=(1, *_ids("hello")), echo=True), outputs_of(ids, with_logprobs=True))
    assert next(detail.text_offset for detail in echoed.logprobs or ()) == len("hello")


def test_prompt_logprobs_have_offsets_in_the_prompts_text() -> None:
    prompt = (1, *_ids("the a"))
    scored = (None, *(TokenLogprobs(token_id, -1.0, ((5, -0.1),)) for token_id in prompt[1:]))
    outputs = outputs_of(_ids("a"))
    outputs.insert(0, RequestOutput("r", prompt_logprobs=scored))
    details = _run(_request(prompt=prompt, echo=True), outputs).prompt_logprobs or ()
    assert [detail.logprob for detail in details] == [None, -1.0, -1.0]
    assert [detail.text_offset for detail in details] == [0, 0, 3]
    assert details[1].token_bytes == b" the"
    assert details[1].top[0].token_bytes == TOKENIZER.token_bytes(5)


def test_a_failed_request_raises_what_the_engine_says() -> None:
    output = RequestOutput("r", finish_reason=FinishReason.ERROR, error="NaN in the logits")
    with pytest.raises(EngineError, match="NaN in the logits"):
        TextStream(TOKENIZER, _request()).feed(output)


def test_an_aborted_request_ends_with_what_it_has() -> None:
    outputs = outputs_of(_ids("a"))[:-1]
    outputs.append(RequestOutput("r", finish_reason=FinishReason.ABORT))
    completion = _run(_request(), outputs)
    assert (completion.finish_reason, completion.usage.num_completion_tokens) == (FinishReason.ABORT, 0)


def test_tokens_that_are_half_characters_are_written_as_bytes() -> None:
    assert token_text("é".encode()) == completion_token_text("é".encode()) == "é"
    assert token_text(b"\xf0\x9f") == "\\xf0\\x9f"
    assert completion_token_text(b"\xf0\x9f") == "bytes:\\xf0\\x9f"
