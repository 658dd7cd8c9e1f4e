"""Who may ask: all routes of the application against all kinds of keys; and under which host names."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from tests.server.asgi import Headers, ask
from tests.server.running import running
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
        assert "--allowed-host" in answer.error["message"]


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


@pytest.mark.parametrize(
    "target",
    [
        "/health/live/%2e%2e/%2e%2e/metrics",
        "/health%2flive/../metrics",
        "/%6detrics",
        "/metrics/",
        "/metrics?",
        "/METRICS",
        "/V1/models",
        "/v1/models/",
        "/v1/./models",
        "/health/live;/../../v1/models",
        "//v1/models",
        "/v1//models",
        "http://localhost/metrics",
        "http://localhost/health/live/../../metrics",
        "*",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "TRACE", "get"])
async def test_s08_no_spelling_on_the_wire_opens_anything(method: str, target: str) -> None:
    """What comes after percent signs, dots and doubled slashes have been read is for nobody without a key."""
    if method != "OPTIONS" and target == "*":
        return
    head = f"{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    async with running(settings=WITH_KEY) as server:
        answer = await server.raw(head.encode())
    assert answer.split(b"\r\n")[0].startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("target", ["/metrics%00", "/metrics%0a", "/health%0a", "/v1/models/tiny%0A", "/%7f"])
async def test_s08_a_control_character_is_in_no_path(target: str) -> None:
    head = f"GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    async with running() as server:
        assert (await server.raw(head.encode())).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:9632"])
async def test_s11_no_browser_gets_leave_to_read_answers(origin: str) -> None:
    asked = [("origin", origin), ("access-control-request-method", "POST")]
    for method, path in [("OPTIONS", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/health")]:
        answer = await ask(make_app(), method, path, headers=headers(*asked))
        assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = await ask(make_app(), "OPTIONS", "/v1/chat/completions", headers=headers(*asked))
    assert preflight.status == 405


NAMES = [
    "../../x",
    "x%2f..",
    "/etc/passwd",
    "a\0b",
    "C:\\x",
    "x" * 129,
    "TINY",
    "tınу",
    "tiny\n",
    " tiny",
    "tiny/",
    ".",
]


@pytest.mark.parametrize("name", NAMES)
async def test_s14_a_name_that_no_model_has_is_a_404_and_nothing_else(name: str) -> None:
    app = make_app()
    answer = await ask(app, "POST", "/v1/completions", {"model": name, "prompt": "a"})
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert (await ask(app, "GET", f"/v1/models/{name}")).status == 404
    assert (await ask(app, "GET", f"/v1/models/{name}/cache")).status == 404
