"""The fields that prescribe an answer's form: what each comes to, and what is refused before anything runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.asgi import chat, complete
from tests.server.served import RecitingEngine, served_model
from transom.grammar.structure import Structure
from transom.registry import ModelRegistry
from transom.server.app import create_app
from transom.server.protocol import ChatBody, CompletionBody
from transom.server.settings import ServerSettings

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}, "required": ["b"]}
NAMED = {"name": "answer-1", "schema": SCHEMA, "strict": True, "description": "x"}

FORMS: list[tuple[dict[str, Any], Structure]] = [
    ({"response_format": {"type": "json_object"}}, Structure.json_object()),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, Structure.json_schema(SCHEMA)),
    ({"response_format": {"type": "json_schema", "json_schema": NAMED}}, Structure.json_schema(SCHEMA)),
    ({"response_format": {"type": "text"}, "guided_regex": "a+"}, Structure.regex("a+")),
    ({"structured_outputs": {"json": SCHEMA}}, Structure.json_schema(SCHEMA)),
    ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, Structure.json_schema(SCHEMA)),
    ({"structured_outputs": {"regex": "a+", "choice": None}}, Structure.regex("a+")),
    ({"structured_outputs": {"choice": ["a", "b"]}}, Structure.choice(["a", "b"])),
    ({"structured_outputs": {"grammar": 'start: "a"'}}, Structure.grammar('start: "a"')),
    ({"structured_outputs": {"json_object": True}}, Structure.json_object()),
    ({"guided_json": SCHEMA}, Structure.json_schema(SCHEMA)),
    ({"guided_json": json.dumps(SCHEMA)}, Structure.json_schema(SCHEMA)),
    ({"guided_choice": ["a"]}, Structure.choice(["a"])),
    ({"guided_grammar": 'root ::= "a"'}, Structure.grammar('root ::= "a"')),
    ({"json_schema": SCHEMA}, Structure.json_schema(SCHEMA)),
    ({"grammar": 'root ::= "a"', "guided_decoding_backend": "auto"}, Structure.grammar('root ::= "a"')),
]

BAD: list[tuple[str, dict[str, Any]]] = [
    ("response_format", {"response_format": "json"}),
    ("response_format.type", {"response_format": {}}),
    ("response_format.type", {"response_format": {"type": "yaml"}}),
    ("response_format", {"response_format": {"type": "json_schema"}}),
    ("response_format", {"response_format": {"type": "text", "json_schema": NAMED}}),
    ("response_format", {"response_format": {"type": "text", "schema": SCHEMA}}),
    ("response_format.json_schema.schema", {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
    ("response_format.json_schema.name", {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}),
    *(
        (
            "response_format.json_schema.name",
            {"response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": {}}}},
        )
        for name in ("", "a b", "é", "x" * 65, 1)
    ),
    (
        "response_format.json_schema.strict",
        {"response_format": {"type": "json_schema", "json_schema": {**NAMED, "strict": "yes"}}},
    ),
    ("response_format", {"response_format": {"type": "json_object", "schema": {"type": "foo"}}}),
    ("response_format", {"response_format": {"type": "json_object", "schema": {"uniqueItems": True}}}),
    ("structured_outputs", {"structured_outputs": {}}),
    ("structured_outputs", {"structured_outputs": {"json_object": False}}),
    ("structured_outputs", {"structured_outputs": {"json": {}, "regex": "a"}}),
    ("structured_outputs", {"structured_outputs": {"json": 1}}),
    ("structured_outputs.structural_tag", {"structured_outputs": {"structural_tag": "x"}}),
    ("structured_outputs.regex", {"structured_outputs": {"regex": 1}}),
    ("structured_outputs", {"structured_outputs": {"regex": "(a"}}),
    ("guided_json", {"guided_json": "{"}),
    ("guided_json", {"guided_json": "[" * 100_000}),
    ("guided_json", {"guided_json": []}),
    ("guided_regex", {"guided_regex": "(?<=a)b"}),
    ("guided_choice", {"guided_choice": []}),
    ("guided_choice", {"guided_choice": ["a", ""]}),
    ("guided_choice", {"guided_choice": "abc"}),
    ("guided_grammar", {"guided_grammar": "start: foo"}),
    ("json_schema", {"json_schema": "{}"}),
    ("json_schema", {"json_schema": {"$ref": "http://localhost/"}}),
    ("grammar", {"grammar": "root ::= ["}),
    ("grammar", {"grammar": "x" * 70_000}),
    ("guided_regex", {"response_format": {"type": "json_object"}, "guided_regex": "a"}),
    ("grammar", {"grammar": 'root ::= "a"', "json_schema": {}}),
    ("allowed_token_ids", {"guided_regex": "a", "allowed_token_ids": [97]}),
]


@pytest.mark.parametrize(("fields", "structure"), FORMS, ids=range(len(FORMS)))
def test_every_way_to_say_a_form_comes_to_the_form(fields: dict[str, Any], structure: Structure) -> None:
    bodies = (
        CompletionBody.parse({"prompt": "x", **fields}),
        ChatBody.parse({"messages": [{"role": "user", "content": "x"}], **fields}),
    )
    for body in bodies:
        prescribed = body.prescribed()
        assert prescribed is not None
        assert prescribed[0] in fields
        assert prescribed[1] == structure


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "text"}}, {"response_format": None}])
def test_free_text_has_no_form(fields: dict[str, Any]) -> None:
    assert CompletionBody.parse({"prompt": "x", **fields}).prescribed() is None


async def test_the_grammar_reaches_the_engine_with_every_sequence() -> None:
    engine = RecitingEngine()
    served = served_model(engine)
    app = create_app(ModelRegistry([served]), ServerSettings())
    assert (await complete(app, n=2, prompt=["a", "b"], guided_regex="[0-9]+")).status == 200
    assert (await chat(app, response_format={"type": "json_object"})).status == 200
    assert (await chat(app)).status == 200
    grammars = [request.sampling.grammar for request in engine.requests]
    assert len({grammar for grammar in grammars[:4] if grammar is not None}) == 1
    assert grammars[0] is not None
    assert "[0-9]+" in grammars[0].source
    assert grammars[4] is not None
    assert "json_schema" in grammars[4].source
    assert grammars[5] is None
    served.llm.close()


async def test_s05_a_form_that_cannot_be_had_is_a_400_that_names_the_field() -> None:
    engine = RecitingEngine()
    served = served_model(engine)
    app = create_app(ModelRegistry([served]), ServerSettings())
    for param, fields in BAD:
        for answer in (await complete(app, **fields), await chat(app, stream=True, **fields)):
            assert answer.status == 400, fields
            assert answer.error["type"] == "invalid_request_error"
            assert str(answer.error["param"]) == param, fields
    assert not engine.requests
    served.llm.close()
