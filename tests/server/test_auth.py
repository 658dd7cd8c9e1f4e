"""Who may ask: all routes of the application against all kinds of keys; and under which host names."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from tests.server.asgi import Headers, ask
from tests.server.served import make_app
from transom.server.auth import OPEN_PATHS
from transom.server.settings import ServerSettings

KEY = "sk-correct"
WITH_KEY = ServerSettings(api_keys=("sk-other", KEY))


def headers(*more: tuple[str, str]) -> Headers:
    return [("host", "localhost"), ("content-type", "application/json"), *more]


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of everything that is registered, from the application's own description."""
    paths = app.openapi()["paths"]
    return [(method.upper(), path.replace("{model_id}", "tiny")) for path, item in paths.items() for method in item]


def test_the_description_knows_all_routes() -> None:
    listed = {path for _, path in routes(make_app())}
    assert {"/v1/completions", "/chat/completions", "/v1/models/tiny", "/tokenize", "/metrics", "/ready"} <= listed


@pytest.mark.parametrize(
    "given",
    [
        [],
        [("authorization", "Bearer wrong")],
        [("authorization", "Bearer ")],
        [("authorization", f"Basic {KEY}")],
        [("authorization", KEY)],
        [("authorization", f"Bearer {KEY}x")],
        [("authorization", f"Bearer {KEY[:-1]}")],
        [("authorization", "Bearer schlüssel")],
        [("authorization", "Bearer " + "x" * 15_000)],
        [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer wrong")],
        [("x-api-key", "wrong")],
        [("x-api-key", "")],
        [("x-api-key", "wrong"), ("authorization", f"Bearer {KEY}")],
        [("x-forwarded-for", "127.0.0.1"), ("x-http-method-override", "GET")],
    ],
)
async def test_s08_no_or_a_wrong_key_is_a_401_on_every_route_but_health(given: list[tuple[str, str]]) -> None:
    app = make_app(settings=WITH_KEY)
    for method, path in [*routes(app), ("GET", "/openapi.json"), ("GET", "/nothing"), ("OPTIONS", "/v1/models")]:
        answer = await ask(app, method, path, headers=headers(*given))
        if path in OPEN_PATHS:
            assert answer.status in (200, 503)
        else:
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key"), path
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../metrics",
        "//metrics",
        "/health/../metrics",
        "/health/live/../../metrics",
        "/metrics;x",
        "/health/",
        "/HEALTH",
    ],
)
async def test_s08_odd_spellings_open_nothing(path: str) -> None:
    assert (await ask(make_app(settings=WITH_KEY), "GET", path, headers=headers())).status == 401


async def test_s09_a_key_in_the_query_is_not_accepted() -> None:
    answer = await ask(make_app(settings=WITH_KEY), "GET", f"/v1/models?api_key={KEY}", headers=headers())
    assert answer.status == 401


@pytest.mark.parametrize(
    "given",
    [
        ("authorization", f"Bearer {KEY}"),
        ("authorization", f"bearer {KEY}"),
        ("x-api-key", KEY),
        ("X-Api-Key", "sk-other"),
    ],
)
async def test_a_correct_key_is_accepted_in_both_headers(given: tuple[str, str]) -> None:
    assert (await ask(make_app(settings=WITH_KEY), "GET", "/v1/models", headers=headers(given))).status == 200


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("localhost", True),
        ("LOCALHOST:9632", True),
        ("127.0.0.1:9632", True),
        ("127.9.9.9", True),
        ("[::1]:9632", True),
        ("models.lan:1", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("192.0.2.1", False),
        ("", False),
        ("localhost:x", False),
        ("localhost@evil.example", False),
    ],
)
async def test_s11_only_own_host_names_are_answered(host: str, is_own: bool) -> None:
    app = make_app(settings=ServerSettings(allowed_hosts=("Models.lan",)))
    answer = await ask(app, "GET", "/health", headers=[("host", host)])
    assert answer.status == (200 if is_own else 403)
    if not is_own:
        assert answer.error["code"] == "host_not_allowed"


@pytest.mark.parametrize("given", [[], [("host", "localhost"), ("host", "localhost")]])
async def test_s21_exactly_one_host_header_is_needed(given: Headers) -> None:
    assert (await ask(make_app(), "GET", "/health", headers=given)).status == 400


@pytest.mark.parametrize(
    ("host", "is_own"), [("192.0.2.1:9632", True), ("[2001:db8::1]", True), ("evil.example", False)]
)
async def test_a_server_on_all_interfaces_is_addressed_by_any_literal_address(host: str, is_own: bool) -> None:
    app = make_app(settings=ServerSettings(host="0.0.0.0", api_keys=("k",)))
    answer = await ask(app, "GET", "/health", headers=[("host", host)])
    assert answer.status == (200 if is_own else 403)


async def test_s09_a_key_of_a_mebibyte_is_refused_for_its_size() -> None:
    given = headers(("authorization", "Bearer " + "x" * 2**20))
    assert (await ask(make_app(settings=WITH_KEY), "GET", "/v1/models", headers=given)).status == 431
