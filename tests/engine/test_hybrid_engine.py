"""A model with convolutions in the whole engine: sequences that are preempted say what they say alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.fakes import byte_request, small_engine_config
from tests.golden_models import write_golden_model
from transom.config.kv_size import conv_state_bytes, kv_bytes_per_token
from transom.config.model_config import ModelConfig
from transom.engine.engine import Engine
from transom.models import build
from transom.request import Request
from transom.weights.loader import WeightLoader
from transom.weights.sources import open_weights

MAX_NUM_SEQS = 4


def make_engine(directory: Path, num_blocks: int) -> Engine:
    """Room for so many blocks beside the states of the convolutions."""
    config = replace(ModelConfig.from_hf(directory), eos_token_ids=())
    num_bytes = num_blocks * 64 * kv_bytes_per_token(config, "f32") + MAX_NUM_SEQS * conv_state_bytes(config)
    limits = replace(small_engine_config(kv_cache_ram_bytes=num_bytes, max_num_seqs=MAX_NUM_SEQS), context_window=256)
    return Engine.of(build(config, WeightLoader(open_weights(directory))), config, limits)


def answers(engine: Engine, requests: list[Request]) -> dict[str, list[int]]:
    said: dict[str, list[int]] = {request.request_id: [] for request in requests}
    for request in requests:
        engine.add(request)
    for _ in range(3000):
        if not engine.has_work():
            return said
        for output in engine.step():
            said[output.request_id] += output.token_ids
    raise AssertionError("the requests do not come to an end")


def test_preempted_sequences_of_a_hybrid_model_say_what_they_say_alone(tmp_path: Path) -> None:
    write_golden_model("lfm2", tmp_path)
    rng = np.random.default_rng(0)
    requests = [
        byte_request(bytes(rng.integers(0, 37, 40 + index).tolist()), request_id=f"{index}", max_tokens=90)
        for index in range(3)
    ]
    roomy, tight = make_engine(tmp_path, num_blocks=40), make_engine(tmp_path, num_blocks=5)
    alone = [answers(roomy, [request]) for request in requests]
    together = answers(tight, requests)
    assert tight.stats().scheduler.num_preemptions > 0
    assert together == {name: tokens for each in alone for name, tokens in each.items()}
