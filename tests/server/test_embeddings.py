"""POST /v1/embeddings: shapes, both encodings, shortened vectors, what is asked of the engine, and what is refused."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import pytest

from tests.server.asgi import Answer, ask
from tests.server.served import RecitingEngine, make_app, served_model
from transom.config.pooling_config import PoolingConfig
from transom.registry import ModelRegistry
from transom.request import Pooling
from transom.server.app import create_app
from transom.server.embeddings import finish_vector
from transom.server.prompts import MAX_PROMPTS
from transom.server.settings import ServerSettings


async def embed(app: Any, **body: Any) -> Answer:
    return await ask(app, "POST", "/v1/embeddings", {"model": "tiny", "input": "abc", **body})


def app_of(engine: RecitingEngine, pooling: PoolingConfig) -> Any:
    return create_app(ModelRegistry([served_model(engine, pooling=pooling)]), ServerSettings())


async def test_an_answer_has_openais_shape_counted_usage_and_length_one() -> None:
    body = (await embed(make_app())).json()
    assert body["object"] == "list"
    assert body["model"] == "tiny"
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] == 3
    [item] = body["data"]
    assert item["object"] == "embedding"
    assert item["index"] == 0
    expected = np.array([3, 97, 99, 0, 0, 0, 0, 0]) / math.sqrt(3**2 + 97**2 + 99**2)
    assert item["embedding"] == expected.astype(np.float32).tolist()


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("ab", [b"ab"]),
        (["ab", "c"], [b"ab", b"c"]),
        ([97, 98], [b"ab"]),
        ([[97, 98], [99]], [b"ab", b"c"]),
    ],
)
async def test_the_input_may_be_a_text_token_ids_or_lists_of_them(given: Any, prompts: list[bytes]) -> None:
    engine = RecitingEngine()
    body = (await embed(make_app(engine), input=given)).json()
    assert [bytes(request.prompt_token_ids) for request in engine.requests] == prompts
    assert [item["index"] for item in body["data"]] == list(range(len(prompts)))
    assert body["usage"]["prompt_tokens"] == sum(map(len, prompts))


async def test_both_encodings_carry_the_same_bits() -> None:
    app = make_app()
    numbers = (await embed(app, encoding_format="float")).json()["data"][0]["embedding"]
    packed = (await embed(app, encoding_format="base64")).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == numbers


async def test_a_shortened_vector_has_length_one_again() -> None:
    body = (await embed(make_app(), dimensions=2)).json()
    expected = np.array([3, 97]) / math.sqrt(3**2 + 97**2)
    assert body["data"][0]["embedding"] == expected.astype(np.float32).tolist()


@pytest.mark.parametrize(("pooling", "reuses"), [(Pooling.MEAN, False), (Pooling.LAST, True)])
async def test_the_mean_needs_every_token_computed(pooling: Pooling, reuses: bool) -> None:
    engine = RecitingEngine()
    assert (await embed(app_of(engine, PoolingConfig(pooling)))).status == 200
    [request] = engine.requests
    assert (request.pooling, request.reuse_cache, request.sampling.max_tokens) == (pooling, reuses, 0)


async def test_a_model_that_says_so_gives_vectors_as_they_are() -> None:
    answer = await embed(app_of(RecitingEngine(), PoolingConfig(normalizes=False)), dimensions=3)
    assert answer.json()["data"][0]["embedding"] == [3.0, 97.0, 99.0]


async def test_a_model_whose_pooling_is_not_implemented_says_so() -> None:
    answer = await embed(app_of(RecitingEngine(), PoolingConfig(unsupported="its pooling_type is cls")))
    assert answer.status == 400
    assert answer.error["param"] == "model"
    assert "pooling_type is cls" in answer.error["message"]


async def test_a_text_may_fill_the_window_and_no_more() -> None:
    assert (await embed(make_app(), input="a" * 256)).status == 200
    answer = await embed(make_app(), input=["a", "a" * 257])
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"
    assert answer.error["param"] == "input"
    assert (answer.error["n_prompt_tokens"], answer.error["n_ctx"]) == (257, 256)


async def test_as_many_inputs_as_the_limit_allows_are_served() -> None:
    body = (await embed(make_app(), input=["ab"] * MAX_PROMPTS)).json()
    assert [item["index"] for item in body["data"]] == list(range(MAX_PROMPTS))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": 7}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": None}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [260]}, "input"),
        ({"input": [2**31]}, "input"),
        ({"input": ["a"] * (MAX_PROMPTS + 1)}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 9}, "dimensions"),
        ({"dimensions": "8"}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"max_tokens": 1}, "max_tokens"),
        ({"truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
    ],
)
async def test_bad_values_are_a_400_that_names_the_field(fields: dict[str, Any], param: str) -> None:
    answer = await embed(make_app(), **fields)
    assert answer.status == 400
    assert answer.error["param"] == param


def test_a_vector_of_zeros_stays_as_it_is() -> None:
    assert finish_vector((0.0, 0.0), None, normalizes=True).tolist() == [0.0, 0.0]
