"""Vectors of whole texts: which rows make them, that nothing of batch or chunk shows in them, and who fails alone."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engine.test_engine import make_engine, run, tokens_of
from tests.fakes import SuccessorModel, byte_request
from transom.engine.engine import Engine
from transom.request import FinishReason, Pooling, Request, RequestOutput, SamplingParams, Usage


def vector_request(text: str | bytes, pooling: Pooling, request_id: str = "v", *, reuse_cache: bool = False) -> Request:
    prompt = text.encode() if isinstance(text, str) else text
    return Request(request_id, tuple(prompt), SamplingParams(max_tokens=0), pooling=pooling, reuse_cache=reuse_cache)


def vector_of(outputs: list[RequestOutput]) -> tuple[float, ...] | None:
    assert all(output.vector is None for output in outputs[:-1])
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    return outputs[-1].vector


def test_the_mean_is_that_of_all_tokens_and_the_last_one_stands_alone() -> None:
    outputs = run(make_engine(), vector_request(b"\x01\x02\x06", Pooling.MEAN), vector_request("ab", Pooling.LAST, "l"))
    assert vector_of(outputs["v"]) == (3.0, 1.0)
    assert vector_of(outputs["l"]) == (98.0, 1.0)
    assert outputs["v"][-1].usage == Usage(3, 0)
    assert tokens_of(outputs["v"]) == b""


@pytest.mark.parametrize("chunk", [1, 3, 64])
@pytest.mark.parametrize("pooling", Pooling)
def test_chunks_change_nothing(chunk: int, pooling: Pooling) -> None:
    text = bytes(range(150))
    outputs = run(make_engine(max_num_batched_tokens=chunk), vector_request(text, pooling))
    assert vector_of(outputs["v"]) == ((74.5, 74.5) if pooling is Pooling.MEAN else (149.0, 149.0))


def test_vectors_and_tokens_come_out_of_the_same_steps() -> None:
    requests = [byte_request("abc", request_id=f"t{index}", max_tokens=6) for index in range(3)]
    vectors = [vector_request("x" * (1 + 40 * index), Pooling.MEAN, f"v{index}") for index in range(3)]
    outputs = run(make_engine(), requests[0], vectors[0], requests[1], *vectors[1:], requests[2])
    assert [tokens_of(outputs[request.request_id]) for request in requests] == [b"defghi"] * 3
    assert [vector_of(outputs[f"v{index}"]) for index in range(3)] == [(120.0, 20.0 * index) for index in range(3)]


def test_a_sequence_that_was_preempted_begins_its_mean_again() -> None:
    engine = make_engine(num_blocks=6, max_num_batched_tokens=4)
    others = [byte_request(bytes([10 * n]) * 60, request_id=str(n), max_tokens=150) for n in range(3)]
    outputs = run(engine, *others, vector_request(bytes(range(120)), Pooling.MEAN))
    assert vector_of(outputs["v"]) == (59.5, 59.5)
    assert engine.stats().scheduler.num_preemptions > 0


def test_the_last_state_may_come_after_a_cached_prefix() -> None:
    engine, text = make_engine(), bytes(range(200))
    run_keeping(engine, vector_request(text, Pooling.LAST, "1"))
    outputs = run_keeping(engine, vector_request(text, Pooling.LAST, "2", reuse_cache=True))
    assert vector_of(outputs) == (199.0, 199.0)


def run_keeping(engine: Engine, request: Request) -> list[RequestOutput]:
    """As `run`, without asking that nothing is kept."""
    engine.add(request)
    outputs = []
    while engine.has_work():
        outputs += engine.step()
    return outputs


def test_states_that_are_no_numbers_are_an_error_and_harm_nobody() -> None:
    engine = make_engine(SuccessorModel(nan_tokens=[7]))
    bad = [vector_request(b"\x01\x07\x02", Pooling.MEAN, "mean"), vector_request(b"\x07", Pooling.LAST, "last")]
    outputs = run(engine, *bad, byte_request("abc", max_tokens=2), vector_request(b"\x07\x02", Pooling.LAST))
    assert [outputs[name][-1].finish_reason for name in ("mean", "last")] == [FinishReason.ERROR] * 2
    assert "not finite" in (outputs["mean"][-1].error or "")
    assert tokens_of(outputs["r"]) == b"de"
    assert vector_of(outputs["v"]) == (2.0, 1.0)


def test_an_aborted_one_leaves_nothing() -> None:
    engine = make_engine(max_num_batched_tokens=16)
    engine.add(vector_request(bytes(range(100)), Pooling.MEAN))
    engine.step()
    assert engine.abort("v") is not None
    assert not engine.has_work()
    outputs = run(engine, vector_request(bytes(range(9)), Pooling.MEAN))
    assert vector_of(outputs["v"]) == (4.0, 4.0)


def test_the_mean_is_summed_row_by_row() -> None:
    """Whatever NumPy would make of a whole array at once."""
    rng = np.random.default_rng(1)

    class Wide(SuccessorModel):
        rows = rng.standard_normal((256, 37)).astype(np.float32) * np.float32(1e4)

        def hidden_states(self, batch):  # type: ignore[no-untyped-def]
            super().hidden_states(batch)
            return self.rows[batch.positions[batch.logit_rows]]

    model, text = Wide(), bytes(range(200))
    expected = np.zeros(37, np.float64)
    for row in model.rows[:200]:
        expected += row
    vectors = {
        vector_of(run(make_engine(model, max_num_batched_tokens=chunk), vector_request(text, Pooling.MEAN))["v"])
        for chunk in (1, 7, 64)
    }
    assert vectors == {tuple((expected / 200).astype(np.float32).tolist())}
