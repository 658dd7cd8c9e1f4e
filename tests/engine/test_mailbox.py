"""What waits for a reader is one output, whoever comes first."""

from __future__ import annotations

import asyncio

import pytest

from transom.engine.mailbox import Mailbox
from transom.errors import EngineError
from transom.request import RequestOutput


async def test_a_waiting_reader_gets_what_arrives() -> None:
    mailbox = Mailbox()
    reading = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.put(RequestOutput("r", (1,)))
    assert (await reading).token_ids == (1,)


async def test_what_waits_for_the_reader_is_merged() -> None:
    mailbox = Mailbox()
    for token_id in range(3):
        mailbox.put(RequestOutput("r", (token_id,)))
    assert (await mailbox.take()).token_ids == (0, 1, 2)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(mailbox.take(), 0.01)


async def test_an_error_comes_after_what_arrived_before_it_and_stays() -> None:
    mailbox = Mailbox()
    mailbox.put(RequestOutput("r", (1,)))
    mailbox.fail(EngineError("broken"))
    assert (await mailbox.take()).token_ids == (1,)
    for _ in range(2):
        with pytest.raises(EngineError, match="broken"):
            await mailbox.take()
