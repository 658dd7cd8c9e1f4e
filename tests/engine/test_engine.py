"""The engine with a model whose answers are known: every token can be foretold."""

from __future__ import annotations

import logging
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import SuccessorModel, byte_model_config, byte_request, small_engine_config
from transom.engine.engine import Engine
from transom.errors import BudgetExceededError, QueueFullError, RequestError
from transom.request import FinishReason, Request, RequestOutput, Usage

BLOCK_BYTES = 64 * 8 * 2 * 4


def make_engine(model: SuccessorModel | None = None, num_blocks: int = 64, **limits: int) -> Engine:
    config = small_engine_config(kv_cache_ram_bytes=num_blocks * BLOCK_BYTES, **limits)  # type: ignore[arg-type]
    return Engine.of(model or SuccessorModel(), byte_model_config(), config)


def run(engine: Engine, *requests: Request, max_steps: int = 3000) -> dict[str, list[RequestOutput]]:
    for request in requests:
        engine.add(request)
    outputs: dict[str, list[RequestOutput]] = defaultdict(list)
    for _ in range(max_steps):
        if not engine.has_work():
            break
        for output in engine.step():
            outputs[output.request_id].append(output)
        engine.check_integrity()
    assert not engine.has_work()
    assert engine.stats().cache.num_bytes_used == 0
    return outputs


def tokens_of(outputs: list[RequestOutput]) -> bytes:
    return bytes(token for output in outputs for token in output.token_ids)


def successors(first: int, count: int) -> bytes:
    return bytes((first + 1 + i) % 256 for i in range(count))


def test_a_request_gets_its_tokens_and_its_usage() -> None:
    outputs = run(make_engine(), byte_request("abc", max_tokens=5))["r"]
    assert tokens_of(outputs) == b"defgh"
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert outputs[-1].usage == Usage(3, 5)
    assert [output.finish_reason for output in outputs[:-1]] == [None] * 4


def test_the_end_of_sequence_token_stops_and_is_delivered() -> None:
    outputs = run(make_engine(), byte_request(b"\xfc", max_tokens=50))["r"]
    assert tokens_of(outputs) == b"\xfd\xfe\xff"
    assert (outputs[-1].finish_reason, outputs[-1].stop_token_id) == (FinishReason.STOP, 255)


def test_ignored_end_of_sequence_goes_on() -> None:
    assert tokens_of(run(make_engine(), byte_request(b"\xfe", ignore_eos=True))["r"]) == b"\xff\x00\x01\x02"


@pytest.mark.parametrize("length", [1, 63, 64, 65, 127, 128, 129, 500])
def test_a_prompt_of_any_length_is_read_in_chunks_and_continued(length: int) -> None:
    outputs = run(make_engine(), byte_request(b"q" * length, max_tokens=3))["r"]
    assert tokens_of(outputs) == b"rst"
    progress = [output.num_computed_tokens for output in outputs]
    assert progress[0] == min(length, 64)
    assert progress == sorted(progress)


def test_many_requests_at_once_are_each_answered_as_if_alone() -> None:
    requests = [byte_request(bytes([n]) * (1 + 3 * n), request_id=str(n), max_tokens=1 + n) for n in range(50)]
    outputs = run(make_engine(), *requests)
    assert {key: tokens_of(value) for key, value in outputs.items()} == {
        str(n): successors(n, 1 + n) for n in range(50)
    }


def test_a_cache_too_small_for_all_preempts_and_loses_nothing() -> None:
    engine = make_engine(num_blocks=6)
    requests = [byte_request(bytes([10 * n]) * 60, request_id=str(n), max_tokens=150) for n in range(5)]
    outputs = run(engine, *requests)
    assert engine.stats().scheduler.num_preemptions > 0
    assert {key: tokens_of(value) for key, value in outputs.items()} == {
        str(n): successors(10 * n, 150) for n in range(5)
    }


def test_the_same_seed_gives_the_same_text_whatever_else_runs() -> None:
    mine = byte_request("a", request_id="mine", max_tokens=100, temperature=3.0, seed=7, ignore_eos=True)
    others = [byte_request("z" * 100, request_id=str(n), max_tokens=100, temperature=1.0) for n in range(6)]
    alone = tokens_of(run(make_engine(), mine)["mine"])
    crowded = make_engine(num_blocks=7)
    assert tokens_of(run(crowded, *others, mine)["mine"]) == alone
    assert len(set(alone)) > 5


def test_without_a_seed_two_runs_differ() -> None:
    texts = {
        tokens_of(run(make_engine(), byte_request(max_tokens=50, temperature=9.0, ignore_eos=True))["r"])
        for _ in range(2)
    }
    assert len(texts) == 2


def test_log_probabilities_come_one_per_token() -> None:
    outputs = run(make_engine(), byte_request("ab", logprobs=2, prompt_logprobs=0))["r"]
    delivered = [entry for output in outputs for entry in output.logprobs or ()]
    assert bytes(entry.token_id for entry in delivered) == tokens_of(outputs)
    assert all(len(entry.top) == 2 for entry in delivered)
    [scored] = [output.prompt_logprobs for output in outputs if output.prompt_logprobs is not None]
    assert scored[0] is None
    assert [entry.token_id for entry in scored[1:] if entry] == [ord("b")]


def test_aborting_frees_everything_at_once_and_says_so() -> None:
    engine = make_engine()
    engine.add(byte_request("abc", max_tokens=500))
    engine.step()
    output = engine.abort("r")
    assert output is not None
    assert (output.finish_reason, output.usage, output.error) == (FinishReason.ABORT, Usage(3, 1), None)
    assert engine.stats().cache.num_bytes_used == 0
    assert not engine.has_work()
    assert engine.abort("r") is None


def test_a_failing_request_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    engine = make_engine(SuccessorModel(poison=b"!", nan_tokens=b"?"))
    requests = [byte_request(text, request_id=text, max_tokens=9) for text in ("a", "b!", "x", "e?")]
    outputs = run(engine, *requests)
    assert tokens_of(outputs["a"]) == b"bcdefghij"
    assert tokens_of(outputs["x"]) == b"yz{|}~\x7f\x80\x81"
    for text in ("b!", "e?"):
        [last] = outputs[text]
        assert last.finish_reason is FinishReason.ERROR
        assert last.error
        assert last.usage == Usage(2, 0)
    assert engine.stats().num_failed == 2


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (Request("r", (), byte_request().sampling), "prompt"),
        (Request("r", (1, 256), byte_request().sampling), "prompt"),
        (Request("r", (-1,), byte_request().sampling), "prompt"),
        (byte_request(logit_bias={256: 1.0}), "logit_bias"),
        (byte_request(allowed_token_ids=(1, -5)), "allowed_token_ids"),
        (byte_request(stop_token_ids=(1000,)), "stop_token_ids"),
    ],
)
def test_token_ids_outside_the_vocabulary_are_refused(request_: Request, param: str) -> None:
    engine = make_engine()
    with pytest.raises(RequestError) as caught:
        engine.add(request_)
    assert caught.value.param == param
    assert not engine.has_work()


def test_the_id_that_is_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(RequestError, match=r"prompt holds the token id 300; the model's are 0 to 255\."):
        make_engine().add(Request("r", (1, 300, 400), byte_request().sampling))


def test_a_request_that_can_never_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(BudgetExceededError, match="129"):
        make_engine(num_blocks=2).add(byte_request("a", max_tokens=128))
    make_engine(num_blocks=2).add(byte_request("a", max_tokens=127))


def test_a_full_queue_refuses() -> None:
    engine = make_engine(max_num_seqs=1, max_num_waiting=1)
    for n in range(2):
        engine.add(byte_request(request_id=str(n)))
    with pytest.raises(QueueFullError):
        engine.add(byte_request(request_id="2"))


def test_an_idle_engine_does_nothing() -> None:
    engine = make_engine()
    assert engine.step() == []
    assert engine.stats().num_steps == 0


def test_statistics_count_what_happened() -> None:
    engine = make_engine()
    run(engine, byte_request("abc", max_tokens=5))
    stats = engine.stats()
    assert stats.num_steps == 5
    assert stats.step_seconds > 0
    assert (stats.scheduler.num_prompt_tokens, stats.scheduler.num_generated_tokens) == (3, 5)
    assert (stats.scheduler.num_running, stats.scheduler.num_waiting) == (0, 0)


def test_every_step_and_every_distance_of_tokens_is_measured() -> None:
    engine = make_engine()
    engine.add(byte_request("abc", max_tokens=5))
    first, *later = [output for _ in range(5) for output in engine.step()]
    assert first.queue_seconds is not None
    assert [output.queue_seconds for output in later] == [None] * 4
    steps = engine.stats().steps
    assert (steps.prefill_seconds.num_values, steps.decode_seconds.num_values, steps.mixed_seconds.num_values) == (
        1,
        4,
        0,
    )
    assert steps.inter_token_seconds.num_values == 4
    assert (steps.num_tokens.num_values, steps.num_tokens.total) == (5, 7)
    assert steps.cold_read_bytes.num_values == 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 150), st.integers(1, 80)), min_size=1, max_size=8),
    st.integers(4, 10),
    st.sampled_from([1, 7, 64]),
    st.sets(st.integers(0, 7)),
)
def test_whatever_the_budgets_and_aborts_the_others_get_exactly_their_tokens(
    shapes: list[tuple[int, int]], num_blocks: int, chunk: int, aborted: set[int]
) -> None:
    engine = make_engine(num_blocks=num_blocks, max_num_batched_tokens=chunk, max_num_seqs=4)
    for n, (length, max_tokens) in enumerate(shapes):
        engine.add(byte_request(bytes([n]) * length, request_id=str(n), max_tokens=max_tokens))
    early = engine.step()
    for n in aborted:
        engine.abort(str(n))
    outputs = run(engine)
    for n, (_, max_tokens) in enumerate(shapes):
        if n not in aborted:
            mine = [output for output in early if output.request_id == str(n)] + outputs[str(n)]
            assert tokens_of(mine) == successors(n, max_tokens)
