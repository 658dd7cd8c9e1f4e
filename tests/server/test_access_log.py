"""The line that each request leaves in the log, and that nothing of what callers write is ever in it."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tests.server.asgi import JSON_HEADERS, ask, complete
from tests.server.served import RecitingEngine, make_app
from transom.errors import EngineError
from transom.log_lines import JsonFormatter
from transom.server.settings import ServerSettings

CANARY = "canary-9c04"
KEY = f"sk-{CANARY}"
FORM = {"type": "json_schema", "json_schema": {"name": CANARY, "schema": {"type": "object", "title": CANARY}}}
SCHEMA = {"type": "object", "properties": {CANARY: {"type": "string", "description": CANARY}}}
TOOL = {"type": "function", "function": {"name": "find", "description": CANARY, "parameters": SCHEMA}}


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that is logged, at debug level, as JSON."""
    stream, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(stream), root.level
    handler.setFormatter(JsonFormatter())
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def access_lines(log: io.StringIO) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in lines if line["logger"] == "transom.access"]


async def test_a_request_leaves_one_line_with_its_numbers(log: io.StringIO) -> None:
    answer = await complete(make_app(), max_tokens=5)
    [line] = access_lines(log)
    assert line["request_id"] == answer.headers["x-request-id"]
    assert line["answer_id"] == answer.json()["id"]
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/completions", 200)
    assert (line["model"], line["finish_reason"]) == ("tiny", "length")
    usage = answer.json()["usage"]
    assert (line["prompt_tokens"], line["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert line["cached_tokens"] == 0
    assert 0 <= line["ttft_seconds"] <= line["duration_seconds"]
    assert line["queue_seconds"] >= 0.25
    assert "error_code" not in line


async def test_a_stream_leaves_the_same_line(log: io.StringIO) -> None:
    await complete(make_app(RecitingEngine(end_after=3)), max_tokens=9, n=2, stream=True)
    [line] = access_lines(log)
    assert (line["completion_tokens"], line["finish_reason"], line["status"]) == (8, "stop", 200)


async def test_a_refusal_and_a_failure_say_their_codes(log: io.StringIO) -> None:
    await complete(make_app(), max_tokens=10_000)
    failing = RecitingEngine(fails_after=2, failure=EngineError("The engine gave up."))
    await complete(make_app(failing), stream=True)
    first, second = access_lines(log)
    assert (first["status"], first["error_code"]) == (400, "context_length_exceeded")
    assert (second["status"], second["error_code"], second["finish_reason"]) == (500, "internal_error", "abort")


async def test_the_tenant_is_named_and_the_key_is_not(log: io.StringIO, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [{"name": "a", "tenant": "acme", "sha256": digest(KEY)}]}))
    path.chmod(0o600)
    app = make_app(settings=ServerSettings(api_keys_file=path))
    headers = [*JSON_HEADERS, ("authorization", f"Bearer {KEY}")]
    body = {"model": "tiny", "prompt": "a", "max_tokens": 1}
    assert (await ask(app, "POST", "/v1/completions", body, headers=headers)).status == 200
    [line] = access_lines(log)
    assert line["tenant"] == "acme"
    assert CANARY not in log.getvalue()


def digest(key: str) -> str:

    return hashlib.sha256(key.encode()).hexdigest()


@pytest.mark.parametrize("given", ["a\nb", "x" * 129, 'id" evil="1', "a b", ""])
async def test_an_id_that_could_harm_the_log_is_replaced(log: io.StringIO, given: str) -> None:
    headers = [*JSON_HEADERS, ("x-request-id", given)]
    answer = await ask(make_app(), "POST", "/v1/completions", {"model": "tiny", "prompt": "a"}, headers=headers)
    [line] = access_lines(log)
    assert line["request_id"] == answer.headers["x-request-id"] != given
    assert len(line["request_id"]) == 32


class Breaking(RecitingEngine):
    """An engine whose bug quotes the text in its exception."""

    async def _obstacle(self, num_tokens: int) -> None:
        raise ValueError(f"cannot do {CANARY}")


async def drive(app: FastAPI) -> None:
    """Requests of all kinds with the canary wherever a caller can write, good ones, refused ones, unreadable ones."""
    headers = [*JSON_HEADERS, ("authorization", f"Bearer {KEY}")]
    bodies: list[dict[str, Any]] = [
        {"prompt": CANARY},
        {"prompt": CANARY, "stream": True},
        {"prompt": CANARY, "suffix": CANARY},
        {"prompt": CANARY, "user": CANARY, "stop": [CANARY], "cache_salt": CANARY},
        {"prompt": CANARY, "guided_regex": f"({CANARY}"},
        {"prompt": CANARY, "guided_grammar": CANARY},
        {"prompt": CANARY, "temperature": CANARY},
        {"prompt": {CANARY: CANARY}},
        {"prompt": CANARY, CANARY: CANARY},
        {"prompt": CANARY, "model": CANARY},
        {"prompt": CANARY, "response_format": FORM},
    ]
    for body in bodies:
        await ask(app, "POST", "/v1/completions", {"model": "tiny", "max_tokens": 3, **body}, headers=headers)
    messages = [{"role": "user", "content": CANARY}]
    chats: list[dict[str, Any]] = [
        {"messages": messages},
        {"messages": messages, "tools": [TOOL], "tool_choice": "required"},
        {"messages": messages, "tools": [{**TOOL, CANARY: 1}]},
        {"messages": [{"role": CANARY, "content": CANARY}]},
        {"messages": messages, "chat_template_kwargs": {CANARY: CANARY}},
        {"messages": messages, "response_format": {"type": CANARY}},
    ]
    for body in chats:
        await ask(app, "POST", "/v1/chat/completions", {"model": "tiny", "max_tokens": 3, **body}, headers=headers)
    for raw in (CANARY.encode(), f'{{"prompt": "{CANARY}'.encode(), b"\xff" + CANARY.encode()):
        await ask(app, "POST", "/v1/completions", raw=raw, headers=headers)
    await ask(app, "POST", "/tokenize", {"model": "tiny", "content": CANARY}, headers=headers)
    await ask(app, "GET", f"/v1/models?x={CANARY}", headers=headers)
    await ask(app, "GET", f"/v1/models/{CANARY}", headers=headers)
    await ask(app, "POST", "/v1/completions", {"prompt": CANARY}, headers=[*JSON_HEADERS, ("x-api-key", CANARY)])


@pytest.mark.parametrize("engine", [RecitingEngine, Breaking])
async def test_nothing_that_callers_write_is_logged(engine: type[RecitingEngine], log: io.StringIO) -> None:
    await drive(make_app(engine(), settings=ServerSettings(api_keys=(KEY,))))
    lines = access_lines(log)
    assert len(lines) == 24
    assert {line["status"] for line in lines} >= {200, 400, 401, 404} - ({200} if engine is Breaking else set())
    if engine is Breaking:
        assert any("ValueError" in line for line in log.getvalue().splitlines())
    assert CANARY not in log.getvalue()
