"""Grammars in the engine: the same text alone and in any company, its end, and what waits for whom."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from typing import Any

import numpy as np
import psutil
import pytest
from llguidance import LLMatcher, LLTokenizer

from tests.fakes import SuccessorModel, byte_model_config, byte_request, small_engine_config
from transom.engine.engine import Engine
from transom.engine.grammars import MAX_COMPILED, Grammars
from transom.errors import RequestError
from transom.grammar.compiler import GrammarCompiler
from transom.grammar.structure import Structure
from transom.grammar.vocabulary import Vocabulary, make_tokenizer
from transom.request import FinishReason, GrammarSpec, Request, RequestOutput, SampledToken, Usage
from transom.scheduler import Sequence

BLOCK_BYTES = 64 * 8 * 2 * 4
EOS = 255
BYTES = Vocabulary((*(bytes([byte]) for byte in range(255)), b"</s>"), (EOS,))
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 160, "maxLength": 170},
        "ages": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 120}, "maxItems": 6},
    },
    "required": ["name", "ages"],
    "additionalProperties": False,
}


def byte_tokenizer() -> LLTokenizer:
    return make_tokenizer(BYTES)


def regex(pattern: str) -> GrammarSpec:
    return GrammarSpec(LLMatcher.grammar_from_regex(pattern))


def json_schema(schema: Any = SCHEMA) -> GrammarSpec:
    return GrammarSpec(LLMatcher.grammar_from_json_schema(schema))


def make_engine(grammars: Grammars | None = None, num_blocks: int = 64, eos: tuple[int, ...] = (EOS,)) -> Engine:
    config = small_engine_config(kv_cache_ram_bytes=num_blocks * BLOCK_BYTES)
    grammars = grammars or Grammars(byte_tokenizer)
    return Engine.of(SuccessorModel(), byte_model_config(eos_token_ids=eos), config, grammars=grammars)


def run(engine: Engine, *requests: Request) -> dict[str, list[RequestOutput]]:
    for request in requests:
        engine.add(request)
    outputs: dict[str, list[RequestOutput]] = defaultdict(list)
    while engine.has_work():
        for output in engine.step():
            outputs[output.request_id].append(output)
        engine.check_integrity()
    assert engine.stats().cache.num_bytes_used == 0
    return outputs


def text_of(outputs: list[RequestOutput]) -> bytes:
    return bytes(token for output in outputs for token in output.token_ids)


def wild(request_id: str, seed: int, **sampling: Any) -> Request:
    """A request whose tokens are drawn from all that are allowed."""
    sampling = {"max_tokens": 400, "grammar": json_schema(), **sampling}
    return byte_request("q", request_id=request_id, temperature=20.0, seed=seed, **sampling)


def test_the_best_allowed_token_is_taken_and_the_complete_text_ends_without_an_end_token() -> None:
    outputs = run(make_engine(), byte_request("a", max_tokens=50, grammar=regex("[b-d]{3}x[y-z]")))["r"]
    assert text_of(outputs) == b"bcdxy"
    last = outputs[-1]
    assert (last.finish_reason, last.stop_token_id, last.usage) == (FinishReason.STOP, None, Usage(1, 5))


def test_where_the_text_may_end_the_end_token_may_come_and_only_there() -> None:
    grammar = regex("[a-c]{2}z?")
    outputs = run(make_engine(), byte_request("a", max_tokens=9, grammar=grammar, logit_bias={EOS: 50.0}))["r"]
    assert text_of(outputs) == b"bc\xff"
    assert (outputs[-1].finish_reason, outputs[-1].stop_token_id) == (FinishReason.STOP, EOS)


def test_a_stop_token_of_the_request_may_come_where_the_text_may_end() -> None:
    request = byte_request("a", max_tokens=9, grammar=regex("[b-d]{2}z?"), stop_token_ids=(7,), logit_bias={7: 50.0})
    outputs = run(make_engine(), request)["r"]
    assert text_of(outputs) == b"bc\x07"
    assert (outputs[-1].finish_reason, outputs[-1].stop_token_id) == (FinishReason.STOP, 7)


@pytest.mark.parametrize("sampling", [{"ignore_eos": True}, {"min_tokens": 40}])
def test_a_complete_text_ends_whatever_else_is_wanted(sampling: dict[str, Any]) -> None:
    request = byte_request("a", max_tokens=50, grammar=regex("[b-d]{2}z?"), logit_bias={EOS: 50.0}, **sampling)
    outputs = run(make_engine(), request)["r"]
    assert text_of(outputs) == b"bcz"
    assert outputs[-1].finish_reason is FinishReason.STOP


def test_a_model_without_an_end_token_ends_complete_texts() -> None:
    outputs = run(make_engine(eos=()), byte_request("a", max_tokens=50, grammar=regex("(ab){2}")))["r"]
    assert (text_of(outputs), outputs[-1].finish_reason) == (b"abab", FinishReason.STOP)


def test_an_unfinished_text_is_cut_at_the_maximum() -> None:
    outputs = run(make_engine(), byte_request("a", max_tokens=5, grammar=regex("[a-z]{9}")))["r"]
    assert (text_of(outputs), outputs[-1].finish_reason) == (b"bcdef", FinishReason.LENGTH)


def test_no_bias_lifts_what_the_grammar_forbids_and_log_probabilities_stay_the_models() -> None:
    request = byte_request("a", max_tokens=5, grammar=regex("x[yz]"), logit_bias={ord("b"): 100.0}, logprobs=1)
    outputs = run(make_engine(), request)["r"]
    assert text_of(outputs) == b"xy"
    logprobs = [entry for output in outputs for entry in output.logprobs or ()]
    assert [entry.token_id for entry in logprobs] == [ord("x"), ord("y")]
    assert logprobs[0].top[0][0] == ord("b")  # the model would have said so
    assert logprobs[0].logprob < -9


def test_promise_three_a_text_under_a_grammar_is_the_same_in_any_company() -> None:
    mine = [wild(f"mine-{seed}", seed) for seed in range(4)]
    alone = {request.request_id: text_of(run(make_engine(), request)[request.request_id]) for request in mine}
    others = [byte_request("z" * 50, request_id=str(n), max_tokens=99, temperature=1.0) for n in range(3)]
    company = [*mine, *others, wild("other", 5, grammar=regex("[a-z ]{80,90}"))]
    grammars = Grammars(byte_tokenizer)
    while not all(grammars.is_ready(request.sampling.grammar) for request in company):
        time.sleep(0.01)
    crowded = make_engine(grammars, num_blocks=8)
    together = run(crowded, *company)
    assert crowded.stats().scheduler.num_preemptions > 0
    assert {key: text_of(together[key]) for key in alone} == alone
    values = [json.loads(text) for text in alone.values()]
    assert all(value.keys() == {"name", "ages"} for value in values)
    assert len(set(alone.values())) == 4


def test_whoever_waits_for_a_grammar_holds_up_nobody() -> None:
    may_go_on = threading.Event()

    def slow_tokenizer() -> LLTokenizer:
        may_go_on.wait(20)
        return byte_tokenizer()

    engine = make_engine(Grammars(slow_tokenizer))
    engine.add(byte_request("a", request_id="first", grammar=regex("[b-z]+")))
    engine.add(byte_request("a", request_id="second", max_tokens=3))
    heard: list[str] = []
    while "second" not in heard:
        heard += [output.request_id for output in engine.step() if output.finish_reason]
    assert heard == ["second"]
    may_go_on.set()
    while engine.has_work():
        heard += [output.request_id for output in engine.step() if output.finish_reason]
    assert heard == ["second", "first"]


def test_a_waiting_request_can_be_aborted() -> None:
    may_go_on = threading.Event()

    def slow_tokenizer() -> LLTokenizer:
        may_go_on.wait(20)
        return byte_tokenizer()

    engine = make_engine(Grammars(slow_tokenizer))
    engine.add(byte_request("a", grammar=regex("[b-z]+")))
    assert engine.step() == []
    assert engine.abort("r") is not None
    assert not engine.has_work()
    may_go_on.set()


def test_a_grammar_that_does_not_compile_fails_its_own_request_alone() -> None:
    bad = byte_request("a", request_id="bad", grammar=GrammarSpec("start: ("))
    outputs = run(make_engine(), bad, byte_request("a", request_id="good", grammar=regex("b{3}")))
    assert outputs["bad"][-1].finish_reason is FinishReason.ERROR
    assert "cannot be compiled" in (outputs["bad"][-1].error or "")
    assert text_of(outputs["good"]) == b"bbb"


def test_a_text_that_no_token_continues_ends_its_own_request_alone() -> None:
    lacking = Vocabulary(tuple(bytes([byte]) if byte != ord("y") else b"" for byte in range(256)), ())
    engine = make_engine(Grammars(lambda: make_tokenizer(lacking)))
    outputs = run(
        engine, byte_request("a", grammar=regex("bxy")), byte_request("a", request_id="other", grammar=regex("bxz"))
    )
    assert outputs["r"][-1].finish_reason is FinishReason.ERROR
    assert "no token of this model continues the text" in (outputs["r"][-1].error or "")
    assert text_of(outputs["other"]) == b"bxz"


def test_more_grammars_than_are_kept_are_all_followed() -> None:
    requests = [
        byte_request("a", request_id=str(n), max_tokens=20, grammar=regex(f"x{{{n + 1}}}y"))
        for n in range(3 * MAX_COMPILED)
    ]
    outputs = run(make_engine(num_blocks=256), *requests)
    assert {key: text_of(value) for key, value in outputs.items()} == {
        str(n): (b"x" * (n + 1) + b"y")[:20] for n in range(3 * MAX_COMPILED)
    }


def test_an_engine_without_grammars_refuses_them() -> None:
    engine = Engine.of(SuccessorModel(), byte_model_config(), small_engine_config())
    with pytest.raises(RequestError, match="no grammars"):
        engine.add(byte_request("a", grammar=regex("b")))
    assert not engine.has_work()


def test_allowed_tokens_come_as_booleans_by_token_id() -> None:
    grammars = Grammars(byte_tokenizer)
    sequence = Sequence(byte_request("a", grammar=regex("[b-d]z?")), 0, seed=0)
    first = grammars.begin(sequence, (EOS,)).result(20)
    assert np.flatnonzero(first.ceilings > 0).tolist() == [ord("b"), ord("c"), ord("d")]
    assert not grammars.take(sequence, ord("c"), first)
    sequence.append([SampledToken(ord("c"))])
    second = grammars.begin(sequence, (EOS,)).result(20)
    assert np.flatnonzero(second.ceilings > 0).tolist() == [ord("z"), EOS]
    assert np.flatnonzero(second.text.tokens).tolist() == [ord("z")]
    assert not grammars.take(sequence, EOS, second)
    assert grammars.take(sequence, ord("z"), second)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_s05_ten_thousand_distinct_schemas_leave_the_memory_flat() -> None:
    compiler = GrammarCompiler(lambda: BYTES)
    engine = make_engine()
    early = 0
    for number in range(10_000):
        pattern = f"^[a-z]{{{number % 50 + 1}}}x{number}$"
        schema = {"type": "object", "properties": {f"p{number}": {"type": "string", "pattern": pattern}}}
        grammar = compiler.compile(Structure.json_schema(schema), "json_schema")
        engine.add(byte_request("a", request_id=str(number), max_tokens=8, temperature=3.0, grammar=grammar))
        while engine.has_work():
            engine.step()
        if number == 1000:
            early = psutil.Process().memory_info().rss
    compiler.close()
    assert psutil.Process().memory_info().rss < early + 16 * 2**20
