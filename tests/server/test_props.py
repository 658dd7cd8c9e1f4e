"""What llama.cpp's clients ask first, and the description of the whole interface."""

from __future__ import annotations

import asyncio

from tests.server.asgi import ask, chat
from tests.server.served import WINDOW, RecitingEngine, make_app


async def test_props_say_what_a_request_really_gets() -> None:
    body = (await ask(make_app(), "GET", "/props")).json()
    assert body["default_generation_settings"]["n_ctx"] == WINDOW
    assert body["total_slots"] == 8
    assert body["model_alias"] == "tiny"
    assert body["eos_token"] == "</s>"
    assert "/" not in body["model_path"]
    assert body["chat_template"] == ""


async def test_with_several_models_one_must_be_named() -> None:
    app = make_app(RecitingEngine(), RecitingEngine())
    assert (await ask(app, "GET", "/props")).status == 400
    assert (await ask(app, "GET", "/props?model=tiny-1")).json()["model_alias"] == "tiny-1"
    assert (await ask(app, "GET", "/props?model=nobody")).status == 404


async def test_slots_count_what_runs() -> None:
    engine = RecitingEngine(holds_after=1)
    app = make_app(engine)
    assert not any(slot["is_processing"] for slot in (await ask(app, "GET", "/slots")).json())
    asking = asyncio.create_task(chat(app))
    while not engine.running:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    slots = (await ask(app, "GET", "/slots")).json()
    asking.cancel()
    assert sum(slot["is_processing"] for slot in slots) == 1
    assert len(slots) == 8


async def test_the_description_names_the_bodies_that_the_routes_take() -> None:
    document = (await ask(make_app(), "GET", "/openapi.json")).json()
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        if "post" in operations:
            content = operations["post"]["requestBody"]["content"]["application/json"]["schema"]
            for form in content.get("anyOf", [content]):
                assert form["$ref"].rpartition("/")[2] in schemas, path
    assert schemas["CompletionBody"]["properties"]["n"]["maximum"] == 16
    assert schemas["ChatBody"]["required"] == ["messages"]
    assert "text/event-stream" in document["paths"]["/v1/responses"]["post"]["responses"]["200"]["content"]
