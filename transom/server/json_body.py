"""Reads a request body as a JSON object, strictly: what the stock parsers let through is refused here.

Knows HTTP headers and JSON; knows no field of any request.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request

from transom.errors import RequestError
from transom.server.caller import caller_of
from transom.server.errors import HttpError
from transom.server.large_bodies import LARGE_BODY_BYTES, LargeBodies

MAX_BODY_BYTES = 10 * 2**20
MAX_BODY_SECONDS = 30.0
MAX_DEPTH = 64
MAX_CONTAINERS = 100_000
MAX_INTEGER_DIGITS = 20

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
_DEPTH_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # +1 and -1 as int8
_PIECE_BYTES = 2**18
"""A large body is looked at in pieces: a call into C holds the interpreter, and the event loop, until it ends."""

Parsed = TypeVar("Parsed")


async def read_json_object(request: Request, large: LargeBodies) -> dict[str, Any]:
    """The body of `request` as a dictionary. Waits and raises as `read_body`."""
    return await read_body(request, large, dict)


async def read_body(request: Request, large: LargeBodies, parse: Callable[[dict[str, Any]], Parsed]) -> Parsed:
    """What `parse` makes of the body of `request`.

    Large bodies are parsed by another thread, one at a time: for a moment each becomes many times its size. Raises
    `QueueFullError` when there are too many of them; `HttpError` for a wrong media type (415), an encoded body (415),
    too many bytes (413), a body that takes too long (408); `RequestError` for everything that is not one JSON object
    with finite numbers, unique keys and Unicode text; and what `parse` raises.
    """
    _check_headers(request)
    with ExitStack() as stack:
        arrive = partial(stack.enter_context, large.one(caller_of(request).name))
        body = await _read_bytes(request, arrive)
        if len(body) < LARGE_BODY_BYTES:
            return parse(parse_json_object(body))
        async with large.turn:
            return await asyncio.to_thread(lambda: parse(parse_json_object(body)))


def parse_json_object(body: bytes) -> dict[str, Any]:
    """`body` as a dictionary; `RequestError` as above."""
    text = _decode(body)
    check_depth(body)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_integer,
        )
    except json.JSONDecodeError as error:
        raise _bad(f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    except RecursionError:
        raise _bad(f"The body is nested deeper than {MAX_DEPTH} levels.") from None
    if not isinstance(value, dict):
        raise _bad("The body must be a JSON object.")
    _check_surrogates(body, value)
    return value


def _check_headers(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HttpError(415, "The content type must be application/json.", "unsupported_media_type")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HttpError(415, "Encoded bodies are not accepted.", "unsupported_media_type")
    if _announced_length(request) > MAX_BODY_BYTES:
        raise _too_large()


def _announced_length(request: Request) -> int:
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit() and len(length) <= MAX_INTEGER_DIGITS):
        raise _bad("The content-length header is not a number.")
    return int(length)


async def _read_bytes(request: Request, arrive: Callable[[], None]) -> bytes:
    try:
        async with asyncio.timeout(MAX_BODY_SECONDS):
            return await _collect(request, arrive)
    except TimeoutError:
        message = f"The body did not arrive within {MAX_BODY_SECONDS:g} seconds."
        raise HttpError(408, message, "timeout", type="timeout_error") from None


async def _collect(request: Request, arrive: Callable[[], None]) -> bytes:
    """`arrive` is called once, as soon as the body is known to be large."""
    body, is_large = bytearray(), _announced_length(request) >= LARGE_BODY_BYTES
    if is_large:
        arrive()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
        if not is_large and len(body) >= LARGE_BODY_BYTES:
            is_large = True
            arrive()
        if not message.get("more_body", False):
            return bytes(body)


def _decode(body: bytes) -> str:
    try:
        text = body.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise _bad(f"The body is not valid UTF-8 (byte {error.start}).") from None
    if text.startswith("\ufeff"):
        raise _bad("The body must not begin with a byte order mark.")
    return text


def check_depth(body: bytes) -> None:
    """Raises `RequestError` for lists and objects nested deeper than `MAX_DEPTH`, or more than `MAX_CONTAINERS`.

    Counted before parsing, because a parser that recurses, or fills the memory, may already be in trouble when it
    notices. Takes time in proportion to the body, whatever is in it. The count is exact up to the first byte that is
    not JSON; no parser gets beyond that.
    """
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    depth = num_containers = 0
    for brackets in filter(None, _brackets_outside_strings(body)):
        steps = np.frombuffer(brackets.translate(_DEPTH_STEPS), np.int8)
        depths = depth + np.cumsum(steps, dtype=np.int64)
        if depths.max() > MAX_DEPTH:
            raise _bad(f"The body is nested deeper than {MAX_DEPTH} levels.")
        depth = int(depths[-1])
        num_containers += int(np.count_nonzero(steps > 0))
    if num_containers > MAX_CONTAINERS:
        raise _bad(f"The body holds {num_containers} lists and objects; {MAX_CONTAINERS} are allowed.")


def _brackets_outside_strings(body: bytes) -> Iterator[bytes]:
    is_inside = 0
    for piece in _pieces(body):
        structure = piece.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_STRUCTURE)
        parts = structure.split(b'"')
        yield b"".join(parts[is_inside::2])
        is_inside = (is_inside + len(parts) - 1) % 2


def _pieces(body: bytes) -> Iterator[bytes]:
    """The body in order, never cut within an escape sequence: its backslash waits for the next piece."""
    rest = b""
    for start in range(0, len(body), _PIECE_BYTES):
        piece = rest + body[start : start + _PIECE_BYTES]
        num_backslashes = len(piece) - len(piece.rstrip(b"\\"))
        end = len(piece) - num_backslashes % 2
        rest = piece[end:]
        yield piece[:end]


def _check_surrogates(body: bytes, value: object) -> None:
    if not _SURROGATE_ESCAPE.search(body):
        return
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise _bad("The body contains half of a surrogate pair, which is no character.") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    seen: set[str] = set()
    twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    raise RequestError(f"The key '{twice[:64]}' occurs twice.", param=twice[:64])


def _refuse_constant(text: str) -> float:
    raise _bad(f"{text} is not a number in JSON.")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _bad(f"The number {text[:40]} is too large.")
    return value


def _bounded_integer(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise _bad(f"The integer {text[:20]}... is too large.")
    return int(text)


def _too_large() -> HttpError:
    return HttpError(413, f"The body is larger than {MAX_BODY_BYTES} bytes.", "body_too_large")


def _bad(message: str) -> RequestError:
    return RequestError(message)
