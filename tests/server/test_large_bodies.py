"""Large bodies: few at a time, and what is too much is refused before it is taken."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.running import running
from transom.errors import KeyQueueFullError, QueueFullError
from transom.server.large_bodies import MAX_LARGE_BODIES, MAX_LARGE_BODIES_PER_KEY, LargeBodies

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


def test_one_key_has_a_part_of_them_and_all_together_have_a_bound() -> None:
    bodies, of_a = LargeBodies(), ExitStack()
    with ExitStack() as others:
        for _ in range(MAX_LARGE_BODIES_PER_KEY):
            of_a.enter_context(bodies.one("a"))
        with pytest.raises(KeyQueueFullError):
            others.enter_context(bodies.one("a"))
        for _ in range(MAX_LARGE_BODIES - MAX_LARGE_BODIES_PER_KEY):
            others.enter_context(bodies.one(""))
        with pytest.raises(QueueFullError) as caught:
            others.enter_context(bodies.one("b"))
        assert not isinstance(caught.value, KeyQueueFullError)
        of_a.close()
        others.enter_context(bodies.one("b"))


@given(st.lists(st.sampled_from(["a", "b", "", "end"]), max_size=12))
def test_whatever_comes_and_goes_those_are_counted_that_are_there(events: list[str]) -> None:
    bodies = LargeBodies()
    there: list[tuple[str, ExitStack]] = []
    for event in events * 8:
        if event == "end":
            if there:
                there.pop()[1].close()
            continue
        num_of_key = sum(key == event for key, _ in there)
        is_full = len(there) == MAX_LARGE_BODIES or (event != "" and num_of_key == MAX_LARGE_BODIES_PER_KEY)
        stack = ExitStack()
        try:
            stack.enter_context(bodies.one(event))
        except QueueFullError:
            assert is_full
        else:
            assert not is_full
            there.append((event, stack))


async def test_s21_what_is_too_much_is_refused_by_its_headers_and_room_comes_back() -> None:
    """None of these bodies ever comes."""
    async with running() as server:
        connections = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(MAX_LARGE_BODIES)]
        for _, writer in connections:
            writer.write(HEAD + b'content-length: 1000000\r\n\r\n{"prompt": "')
        refused = b""

        async def is_refused() -> bool:
            nonlocal refused
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(HEAD + b"content-length: 1000000\r\n\r\n")
            try:
                refused = await asyncio.wait_for(reader.readuntil(b"}}"), 0.5)
            except TimeoutError:
                return False
            finally:
                writer.close()
            return True

        async with asyncio.timeout(20):
            while not await is_refused():
                pass
        assert refused.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in refused
        small = b'{"model": "tiny", "prompt": "small"}'
        small = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(small) + small
        assert (await server.raw(small)).startswith(b"HTTP/1.1 200")
        for _, writer in connections:
            writer.close()
        async with asyncio.timeout(20):
            while await is_refused():
                pass
