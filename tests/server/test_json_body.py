"""Bodies that are not one strict JSON object are refused with a reason, and quickly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.asgi import ask
from tests.server.served import make_app
from transom.errors import RequestError
from transom.server.json_body import MAX_BODY_BYTES, MAX_CONTAINERS, MAX_DEPTH, check_depth, parse_json_object

BAD_BODIES: list[bytes] = [
    b"",
    b" ",
    b"null",
    b"[]",
    b'"x"',
    b"1",
    b"true",
    b"{",
    b"{]",
    b'{"a": 1,}',
    b"{'a': 1}",
    b'{"a": 1} x',
    b'{"a": NaN}',
    b'{"a": Infinity}',
    b'{"a": -Infinity}',
    b'{"a": 1e400}',
    b'{"a": -1e400}',
    b'{"a": {"b": [1e999]}}',
    b'{"a": 1, "a": 2}',
    b'{"a": {"b": 1, "c": 2, "b": 3}}',
    b'{"a": ' + b"9" * 5000 + b"}",
    b'{"a": ' + b"9" * 21 + b"}",
    b'{"a": "\\ud800"}',
    b'{"a": "x\\udfff"}',
    b'{"\\ud800": 1}',
    b'{"a": "\xed\xa0\x80"}',
    b'{"a": "\xff"}',
    b"\xef\xbb\xbf{}",
    '{"a": 1}'.encode("utf-16"),
    '{"a": 1}'.encode("utf-32"),
    b'{"a": "\x01"}',
    b'{"a": ' + b"[" * 100_000,
    b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"a": ' + b'{"a": ' * 64 + b"1" + b"}" * 65,
    b'{"a": "[[[' + b"[" * 70,
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
async def test_s06_a_body_that_is_not_one_strict_object_is_a_400(body: bytes) -> None:
    started = time.perf_counter()
    answer = await ask(make_app(), "POST", "/v1/completions", raw=body)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": "\\ud83d\\ude00"}',
        b'{"a": "[[[[[[' + b"[" * 1000 + b'"}',
        b'{"a": "\\"' + b"[" * 100 + b'"}',
        b'{"a": -0.0, "b": 1e-320, "c": 9007199254740993}',
        b'{"a": ' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}",
    ],
)
def test_unusual_but_correct_objects_are_accepted(body: bytes) -> None:
    assert parse_json_object(body) == json.loads(body)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), json_values, max_size=5), st.booleans())
def test_every_object_that_json_can_write_is_read_back(value: dict[str, Any], ensure_ascii: bool) -> None:
    assert parse_json_object(json.dumps(value, ensure_ascii=ensure_ascii).encode()) == value


@given(st.binary(max_size=60))
def test_any_bytes_give_an_object_or_a_refusal(body: bytes) -> None:
    with contextlib.suppress(RequestError):
        assert isinstance(parse_json_object(body), dict)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ([], 415, "unsupported_media_type"),
        ([("content-type", "text/plain")], 415, "unsupported_media_type"),
        ([("content-type", "application/jsonx")], 415, "unsupported_media_type"),
        ([("content-type", "application/json"), ("content-encoding", "gzip")], 415, "unsupported_media_type"),
        ([("content-type", "application/json"), ("content-length", str(MAX_BODY_BYTES + 1))], 413, "body_too_large"),
        ([("content-type", "application/json"), ("content-length", "-1")], 400, "invalid_value"),
        ([("content-type", "application/json"), ("content-length", "9" * 400)], 400, "invalid_value"),
    ],
)
async def test_s21_headers_that_announce_something_else_are_refused(
    headers: list[tuple[str, str]], status: int, code: str
) -> None:
    answer = await ask(make_app(), "POST", "/v1/completions", raw=b"{}", headers=[("host", "localhost"), *headers])
    assert (answer.status, answer.error["code"]) == (status, code)


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
async def test_the_media_type_may_have_parameters_and_capitals(content_type: str) -> None:
    headers = [("host", "localhost"), ("content-type", content_type)]
    answer = await ask(make_app(), "POST", "/v1/completions", raw=b'{"model": "tiny"}', headers=headers)
    assert answer.status != 415


async def test_s21_a_body_is_counted_while_it_is_read() -> None:
    answer = await ask(make_app(), "POST", "/v1/completions", raw=b'{"a": "' + b"x" * MAX_BODY_BYTES + b'"}')
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")


_MANY = b"[" * (MAX_DEPTH + 1)

HOSTILE_PATTERNS: list[tuple[bytes, bytes]] = [
    (_MANY, b'\\"'),
    (b'{"a": "' + _MANY, b'\\"'),
    (_MANY, b'"\\'),
    (_MANY, b'"'),
    (_MANY, b'"" '),
    (_MANY, b"\\"),
    (b'{"a": "' + _MANY, b"\\"),
    (b'{"a": "' + _MANY, b'[\\"'),
    (b'{"a": [', b'"[",'),
    (b'{"a": [', b"[],"),
    (b'{"a": [', b"[{}]"),
    (b"", b"]"),
    (b"", b"["),
    (b"", b"[]}{"),
]


@pytest.mark.parametrize("num_bytes", [60 * 2**10, MAX_BODY_BYTES])
@pytest.mark.parametrize(("start", "pattern"), HOSTILE_PATTERNS, ids=range(len(HOSTILE_PATTERNS)))
def test_the_depth_of_any_body_is_counted_quickly(start: bytes, pattern: bytes, num_bytes: int) -> None:
    body = start + pattern * ((num_bytes - len(start)) // len(pattern))
    started = time.process_time()
    with contextlib.suppress(RequestError):
        check_depth(body)
    assert time.process_time() - started < 1


def test_s06_more_lists_than_any_request_has_are_refused() -> None:
    with pytest.raises(RequestError, match="lists and objects"):
        check_depth(b'{"a": [' + b"[]," * MAX_CONTAINERS)
    check_depth(b'{"a": [' + b"[]," * (MAX_CONTAINERS - 2))


@pytest.mark.parametrize("body", [b'["' + _MANY * 999 + b'"]', b'{"' + _MANY + b'\\\\": ["\\\\\\"' + _MANY + b'"]}'])
def test_brackets_within_strings_do_not_count(body: bytes) -> None:
    check_depth(body)


@pytest.mark.parametrize("offset", range(8))
def test_an_escape_sequence_may_lie_anywhere_in_a_large_body(offset: int) -> None:
    filler = b"x" * (2**18 - 12 + offset)
    check_depth(b'["' + filler + b'\\\\\\"' + _MANY + b'"]')
    with pytest.raises(RequestError, match="nested"):
        check_depth(b'["' + filler + b'\\\\\\\\"' + _MANY)


@given(st.lists(st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\", b"x", b"[" * 40, b"]" * 40]), max_size=40))
def test_depth_is_that_of_a_plain_scan(parts: list[bytes]) -> None:
    body = b"".join(parts)
    if _depth_before_the_first_stray_backslash(body) > MAX_DEPTH:
        with pytest.raises(RequestError, match="nested"):
            check_depth(body)


def _depth_before_the_first_stray_backslash(body: bytes) -> int:
    depth = deepest = 0
    is_inside = is_escaped = False
    for byte in body.decode():
        if is_inside:
            is_inside = byte != '"' or is_escaped
            is_escaped = byte == "\\" and not is_escaped
        elif byte == "\\":
            break
        else:
            is_inside = byte == '"'
            depth += (byte in "[{") - (byte in "]}")
            deepest = max(deepest, depth)
    return deepest


async def test_a_large_body_does_not_hold_up_the_event_loop() -> None:
    body = b'{"a": "' + b'[\\"' * (MAX_BODY_BYTES // 3 - 100) + b'", "b": [' + b'"",' * 9 + b"1]}"
    asking = asyncio.create_task(ask(make_app(), "POST", "/v1/completions", raw=body))
    longest = 0.0
    while not asking.done():
        started = time.perf_counter()
        await asyncio.sleep(0.001)
        longest = max(longest, time.perf_counter() - started)
    assert asking.result().status == 400
    assert longest < 1
