"""Every route has the same error body, a request id and safe headers; what breaks inside stays inside."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from tests.server.asgi import Exchange, Headers, ask, complete
from tests.server.served import RecitingEngine, make_app
from transom.errors import ConfigError
from transom.server.settings import ServerSettings

MARKER = "secret-0xdeadbeef"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/v1/images/generations", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/v1/completions/", 404, "not_found"),
        ("GET", "//v1/models", 404, "not_found"),
        ("GET", "/V1/models", 404, "not_found"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/tiny", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/completions", 405, "method_not_allowed"),
        ("PATCH", "/metrics", 405, "method_not_allowed"),
    ],
)
async def test_unknown_paths_and_methods_have_the_same_error_body(
    method: str, path: str, status: int, code: str
) -> None:
    answer = await ask(make_app(), method, path)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert "access-control-allow-origin" not in answer.headers
    assert ("allow" in answer.headers) == (status == 405)
    if status == 405:
        assert answer.error["message"].endswith(f"; use {answer.headers['allow']}.")


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [("abc-1.2_X", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("a\u00e9", False), ("", False)],
)
async def test_the_clients_request_id_is_echoed_when_it_is_harmless(given: str, is_kept: bool) -> None:
    headers: Headers = [("host", "localhost"), ("x-request-id", given)]
    for path in ("/health", "/nothing"):
        shown = (await ask(make_app(), "GET", path, headers=headers)).headers["x-request-id"]
        assert (shown == given) == is_kept
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", shown)


async def test_s11_answers_forbid_sniffing() -> None:
    assert (await ask(make_app(), "GET", "/health")).headers["x-content-type-options"] == "nosniff"


class BrokenEngine(RecitingEngine):
    """Breaks in a way nobody foresaw."""

    async def _obstacle(self, num_tokens: int) -> None:
        raise ZeroDivisionError(MARKER)


@pytest.mark.parametrize("stream", [False, True])
async def test_s19_an_unforeseen_exception_is_a_500_that_says_nothing_of_it(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await complete(make_app(BrokenEngine()), stream=stream)
    assert (answer.status, answer.error["code"], answer.error["type"]) == (500, "internal_error", "server_error")
    assert MARKER not in answer.body.decode()
    assert MARKER in caplog.text
    assert answer.headers["x-request-id"] in caplog.text


async def test_s19_prompts_outputs_and_keys_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app = make_app(settings=ServerSettings(api_keys=("k-e-y",)))
    headers: Headers = [("host", "localhost"), ("content-type", "application/json"), ("authorization", "Bearer k-e-y")]
    body = {"model": "tiny", "prompt": "my private words", "user": "line\nbreak"}
    answer = await ask(app, "POST", "/v1/completions", body, headers=headers)
    assert answer.status == 200
    for secret in ("my private words", "k-e-y", "line\nbreak", "Grüße"):
        assert secret not in caplog.text
    assert "POST /v1/completions 200" in caplog.text


async def test_s19_whatever_is_sent_a_request_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "transom.access")
    text = "a\nGET /forged 200 0.001s id=x\r\u2028\x1b[31m"
    given: Headers = [("host", "localhost"), ("content-type", "application/json"), ("x-request-id", "x\n y")]
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/completions", {"model": "tiny", "prompt": text, "user": text, "max_tokens": 1}),
        ("/v1/completions", {"model": text, "prompt": "a"}),
        ("/v1/chat/completions", {"model": "tiny", "messages": [{"role": text, "content": text}]}),
        (f"/{text}", {}),
    ]
    for path, body in bodies:
        await ask(make_app(), "POST", path, body, headers=given)
    records = [record for record in caplog.records if record.name == "transom.access"]
    assert len(records) == len(bodies)
    for record in records:
        assert re.fullmatch(r"POST [!-~]+ \d{3}", record.getMessage())
        assert all(value.isprintable() for value in vars(record).values() if isinstance(value, str))


async def test_the_log_names_the_route_or_the_path_that_was_refused_but_no_query(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    await ask(make_app(), "GET", "/v1/models/tiny?secret=1")
    await ask(make_app(), "PUT", "/no/such\nroute?secret=1")
    await ask(make_app(settings=ServerSettings(api_keys=("k",))), "POST", "/v1/completions", {})
    assert "GET /v1/models/{model_id:path} 200" in caplog.text
    assert "PUT /no/such%0Aroute 404" in caplog.text
    assert "POST /v1/completions 401" in caplog.text
    assert "secret" not in caplog.text


async def test_a_websocket_is_closed() -> None:
    sent = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: object) -> None:
        sent.append(message)

    await make_app()({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_a_client_that_goes_away_before_its_body_came_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange(make_app(), "POST", "/v1/completions")
    exchange._chunks.clear()
    exchange.gone.set()
    await exchange.task
    assert exchange.answer.status == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_s10_a_public_address_without_a_key_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="API key"):
        make_app(settings=ServerSettings(host=host))
    make_app(settings=ServerSettings(host=host, api_keys=("k",)))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_a_loopback_address_needs_no_key(host: str) -> None:
    make_app(settings=ServerSettings(host=host))
