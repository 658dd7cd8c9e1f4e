"""The page's files: who may have them, what they let a browser do, and that they refer to nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import transom.server
from tests.server.asgi import ask
from tests.server.served import make_app
from transom.server.settings import ServerSettings
from transom.server.static_page import StaticPage

DIRECTORY = Path(transom.server.__file__).with_name("page")
FILES = sorted(path for path in DIRECTORY.rglob("*") if path.is_file())
PATHS = sorted(StaticPage().paths)


@pytest.mark.parametrize("path", PATHS)
async def test_every_file_is_served_with_its_type_and_a_strict_policy(path: str) -> None:
    answer = await ask(make_app(), "GET", path)
    assert answer.status == 200
    assert answer.body
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in {"text/html", "text/css", "text/javascript", "image/svg+xml"}
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_file_of_the_directory_is_served() -> None:
    assert len(PATHS) == len(FILES)


async def test_an_unchanged_file_is_not_sent_again() -> None:
    app = make_app()
    tag = (await ask(app, "GET", "/")).headers["etag"]
    again = await ask(app, "GET", "/", headers=[("host", "localhost"), ("if-none-match", tag)])
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    other = await ask(app, "GET", "/", headers=[("host", "localhost"), ("if-none-match", '"0"')])
    assert other.status == 200


async def test_the_page_needs_no_key_and_data_do() -> None:
    app = make_app(settings=ServerSettings(api_keys=("secret",)))
    for path in PATHS:
        assert (await ask(app, "GET", path)).status == 200
    for path in ("/v1/models", "/v1/windows", "/page", "/page/", "/page/js/../../auth.py", "/page/js/secret.js", "//"):
        assert (await ask(app, "GET", path)).status == 401


async def test_without_the_page_there_is_no_route_of_it() -> None:
    app = make_app(settings=ServerSettings(has_page=False))
    for path in PATHS:
        assert (await ask(app, "GET", path)).status == 404


async def test_the_page_is_no_part_of_the_described_interface() -> None:
    paths = (await ask(make_app(), "GET", "/openapi.json")).json()["paths"]
    assert "/v1/windows" in paths
    assert not set(PATHS) & set(paths)


def test_files_refer_to_files_that_are_there_and_to_nothing_elsewhere() -> None:
    for file in FILES:
        text = file.read_text()
        for target in re.findall(r'(?:href|src)="([^"#]+)"', text):
            assert target in PATHS or target == "/openapi.json", f"{file.name} refers to {target}"
        for target in re.findall(r'^(?:import|export) .*?from "([^"]+)";', text, re.MULTILINE | re.DOTALL):
            assert (file.parent / target).resolve() in FILES, f"{file.name} imports {target}"
        if file.suffix == ".css":
            assert "url(" not in text
            assert "@import" not in text


def test_no_file_makes_markup_or_code_of_text() -> None:
    forbidden = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc")
    for file in FILES:
        found = [word for word in forbidden if word in file.read_text()]
        assert not found, f"{file.name} has {found}"


def test_files_are_small_and_say_what_they_are() -> None:
    for file in FILES:
        lines = file.read_text().splitlines()
        assert len(lines) <= 400
        if file.suffix == ".js":
            assert lines[0].startswith("// ")
