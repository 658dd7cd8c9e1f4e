"""What a key of the keys file opens: its models and nothing else, and a cache of its tenant's own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tests.server.asgi import Answer, Headers, ask
from tests.server.served import RecitingEngine, make_app
from transom.errors import ConfigError
from transom.server.settings import ServerSettings

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
TEXT = {"prompt": "abc", "max_tokens": 2}


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "tenant": name[0], **more}


@pytest.fixture
def engines() -> tuple[RecitingEngine, RecitingEngine]:
    return RecitingEngine(), RecitingEngine()


@pytest.fixture
def app(tmp_path: Path, engines: tuple[RecitingEngine, RecitingEngine]) -> FastAPI:
    """Two models; tenant a has keys a1 and a2, b has b1, which may use one model only; root is admin."""
    keys = [entry("a1"), entry("a2"), entry("b1", models=["tiny"]), entry("none", models=[]), entry("root", admin=True)]
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": keys}))
    path.chmod(0o600)
    return make_app(*engines, settings=ServerSettings(api_keys_file=path, api_keys=("own",)))


def as_key(key: str) -> Headers:
    return [("host", "localhost"), ("content-type", "application/json"), ("authorization", f"Bearer {key}")]


async def post(app: FastAPI, key: str, path: str, **body: Any) -> Answer:
    return await ask(app, "POST", path, body, headers=as_key(key))


async def get(app: FastAPI, key: str, path: str) -> Answer:
    return await ask(app, "GET", path, headers=as_key(key))


async def test_a_key_sees_the_models_that_it_may_use(app: FastAPI) -> None:
    for key, visible in (("a1", ["tiny", "tiny-1"]), ("b1", ["tiny"]), ("none", []), ("own", ["tiny", "tiny-1"])):
        assert [model["id"] for model in (await get(app, key, "/v1/models")).json()["data"]] == visible
    assert (await get(app, "wrong", "/v1/models")).status == 401


@pytest.mark.parametrize("name", ["tiny-1", "org/tiny-alias-1"])
async def test_a_model_that_a_key_may_not_use_does_not_exist_for_it(app: FastAPI, name: str) -> None:
    for path, body in (
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", TEXT),
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [1]}),
        ("/apply-template", {"messages": CHAT["messages"]}),
        ("/v1/chat/completions/input_tokens", CHAT),
    ):
        hidden = await post(app, "b1", path, model=name, **body)
        unknown = await post(app, "b1", path, model="x" * len(name), **body)
        assert (hidden.status, hidden.error["code"], hidden.error["param"]) == (404, "model_not_found", "model"), path
        assert hidden.body.replace(name.encode(), b"x" * len(name)) == unknown.body
        assert (await post(app, "a1", path, model=name, **body)).status == 200, path
    assert (await get(app, "b1", f"/v1/models/{name}")).status == 404
    assert (await get(app, "a1", f"/v1/models/{name}")).status == 200


async def test_a_key_for_one_model_need_not_name_it(app: FastAPI) -> None:
    assert (await post(app, "b1", "/v1/completions", **TEXT)).json()["model"] == "tiny"
    assert (await post(app, "a1", "/v1/completions", **TEXT)).error["code"] == "missing_parameter"


async def test_s12_what_concerns_everybody_needs_an_admin_key(app: FastAPI) -> None:
    for path in ("/metrics", "/v1/models/tiny/cache"):
        refused = await get(app, "a1", path)
        assert (refused.status, refused.error["type"], refused.error["code"]) == (403, "permission_error", "admin_only")
        assert (await get(app, "root", path)).status == 200
        assert (await get(app, "own", path)).status == 200


async def test_readiness_is_told_to_everybody_and_models_to_who_may_use_them(app: FastAPI) -> None:
    for headers, visible in (
        ([("host", "localhost")], set()),
        (as_key("wrong"), set()),
        (as_key("b1"), {"tiny"}),
        (as_key("root"), {"tiny", "tiny-1"}),
    ):
        answer = await ask(app, "GET", "/health/ready", headers=headers)
        assert (answer.status, answer.json()["status"], set(answer.json()["models"])) == (200, "ready", visible)


async def test_two_keys_in_one_request_must_be_the_same(app: FastAPI) -> None:
    two: Headers = [*as_key("a1"), ("x-api-key", "a2")]
    assert (await ask(app, "GET", "/v1/models", headers=two)).status == 401
    twice: Headers = [*as_key("a1"), ("x-api-key", "a1")]
    assert (await ask(app, "GET", "/v1/models", headers=twice)).status == 200


async def salts(app: FastAPI, engine: RecitingEngine, key: str, path: str = "/v1/completions", **more: Any) -> str:
    body = CHAT if "chat" in path else TEXT
    assert (await post(app, key, path, model="tiny", **body, **more)).status == 200
    return engine.requests[-1].cache_salt


async def test_s16_the_salt_is_the_tenants_whatever_the_caller_says(
    app: FastAPI, engines: tuple[RecitingEngine, RecitingEngine]
) -> None:
    engine = engines[0]
    own = await salts(app, engine, "a1")
    assert own == await salts(app, engine, "a2") == await salts(app, engine, "a1", "/v1/chat/completions")
    assert await salts(app, engine, "b1") != own
    assert await salts(app, engine, "own") not in ("a", "b")
    for field, value in (("prompt_cache_key", "k"), ("cache_salt", "k")):
        narrowed = await salts(app, engine, "a1", **{field: value})
        assert narrowed == await salts(app, engine, "a2", "/v1/chat/completions", **{field: value})
        assert narrowed.startswith("a\0")
        assert (await salts(app, engine, "b1", **{field: value})).startswith("b\0")


async def test_s16_narrowing_fields_do_not_run_into_each_other(
    app: FastAPI, engines: tuple[RecitingEngine, RecitingEngine]
) -> None:
    choices: tuple[dict[str, str], ...] = (
        {},
        {"prompt_cache_key": "xy"},
        {"cache_salt": "xy"},
        {"prompt_cache_key": ""},
    )
    pairs = ({"prompt_cache_key": "x", "cache_salt": "y"}, {"prompt_cache_key": "y", "cache_salt": "x"})
    found = {await salts(app, engines[0], "a1", **fields) for fields in (*choices, *pairs)}
    assert len(found) == len(choices) + len(pairs)


async def test_a_request_may_refuse_reuse(app: FastAPI, engines: tuple[RecitingEngine, RecitingEngine]) -> None:
    await salts(app, engines[0], "a1", cache_prompt=False)
    await salts(app, engines[0], "a1")
    assert [request.reuse_cache for request in engines[0].requests] == [False, True]


async def test_a_keys_file_that_names_a_model_nobody_serves_ends_the_start(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [entry("a1", models=["other"])]}))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="names 'other', must be tiny"):
        make_app(settings=ServerSettings(api_keys_file=path))
