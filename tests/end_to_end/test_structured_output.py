"""Structured output through HTTP with the bundled models: what comes out has the form, whatever the form."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import openai
import pydantic
import pytest

from tests.grammar.random_schemas import random_schema
from tests.running_server import RunningServer

MAX_TOKENS = 500
MIN_SHARE_COMPLETE = 0.9
"""The rest came to the maximum of tokens before their end."""


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    age: int = pydantic.Field(ge=0, le=120)
    married: bool


def answers(server: RunningServer, seed: int, model: str, samples: int) -> list[tuple[str, str]]:
    """(text, finish reason) of some samples under the random schema of this number."""
    schema = random_schema(seed)
    body = {
        "model": model,
        "prompt": "The prince wrote:",
        "max_tokens": MAX_TOKENS,
        "n": samples,
        "seed": seed,
        "response_format": {"type": "json_schema", "json_schema": {"name": "random", "schema": schema}},
    }
    response = server.post("/v1/completions", body)
    assert response.status_code == 200, (schema, response.text)
    return [(choice["text"], choice["finish_reason"]) for choice in response.json()["choices"]]


def check_schemas(server: RunningServer, seeds: range, samples: int) -> None:
    models = ("tolstoy", "recall")
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda seed: answers(server, seed, models[seed % 2], samples), seeds)
    num_complete = 0
    for seed, texts in zip(seeds, results, strict=True):
        for text, finish_reason in texts:
            assert finish_reason in ("stop", "length")
            if finish_reason == "stop":
                jsonschema.validate(json.loads(text), random_schema(seed))
                num_complete += 1
    assert num_complete >= MIN_SHARE_COMPLETE * len(seeds) * samples


def test_texts_under_random_schemas_are_valid(server: RunningServer) -> None:
    check_schemas(server, range(10), 1)


def test_the_official_client_parses_its_own_models(server: RunningServer) -> None:
    parsed = server.client().chat.completions.parse(
        model="tolstoy",
        messages=[{"role": "user", "content": "Who is Natasha?"}],
        response_format=Person,
        temperature=1.0,
        seed=4,
        max_tokens=400,
    )
    assert isinstance(parsed.choices[0].message.parsed, Person)


@pytest.mark.parametrize(
    ("extra", "pattern"),
    [
        ({"structured_outputs": {"choice": ["yes", "no", "vielleicht"]}}, "yes|no|vielleicht"),
        ({"guided_regex": r"[0-9]{3}-[a-z]{2,5}!"}, r"[0-9]{3}-[a-z]{2,5}!"),
        ({"grammar": 'root ::= item{3} "."\nitem ::= "ab" | "cd"'}, r"(ab|cd){3}\."),
        ({"guided_grammar": 'start: ("ab" | "cd"){2} "."'}, r"(ab|cd){2}\."),
    ],
)
def test_other_forms_stream_as_they_come_in_one_piece(
    server: RunningServer, extra: dict[str, Any], pattern: str
) -> None:
    client = server.client()
    arguments: dict[str, Any] = {"model": "recall", "prompt": "a", "max_tokens": 60, "seed": 1, "extra_body": extra}
    whole = client.completions.create(**arguments).choices[0]
    assert re.fullmatch(pattern, whole.text)
    assert whole.finish_reason == "stop"
    chunks = list(client.completions.create(stream=True, **arguments))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_promise_three_a_text_under_a_schema_is_the_same_alone_and_in_company(server: RunningServer) -> None:
    alone = answers(server, 3, "recall", 2)
    with ThreadPoolExecutor(8) as pool:
        company = list(pool.map(lambda seed: answers(server, seed, "recall", 2), [1, 3, 2, 3]))
    assert company[1] == company[3] == alone


def test_a_schema_that_cannot_be_had_is_refused_before_anything_is_computed(server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().chat.completions.create(
            model="tolstoy",
            messages=[{"role": "user", "content": "x"}],
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}},
            stream=True,
        )
    assert caught.value.param == "response_format"
    assert "not" in str(caught.value)
