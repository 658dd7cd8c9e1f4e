"""One request that is too long, refused, broken off or failing never changes a token of those that run beside it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2 as httpx
import pytest

from tests.running_server import RunningServer

NUM_TOKENS = 160
NEIGHBOURS: tuple[dict[str, Any], ...] = (
    {"prompt": "Prince Andrew looked at the sky", "temperature": 0},
    {"prompt": "Natasha smiled and said", "temperature": 0.9, "seed": 7},
    {"prompt": "The battle " * 200, "temperature": 1.1, "seed": 11, "top_p": 0.9},
)
TROUBLE: dict[str, dict[str, Any]] = {
    "over-long prompt": {"prompt": "war " * 9000, "max_tokens": 10},
    "over-long completion": {"prompt": "war", "max_tokens": 100_000},
    "unknown token in logit_bias": {"prompt": "war", "max_tokens": 5, "logit_bias": {"999999": 1.0}},
    "unknown token in the prompt": {"prompt": [1, 2, 999_999], "max_tokens": 5},
    "token without a way out": {"prompt": "war", "max_tokens": 5, "stop_token_ids": [-1]},
    "unsupported field": {"prompt": "war", "max_tokens": 5, "no_such_field": True},
    "empty prompt list": {"prompt": [], "max_tokens": 5},
}


async def answer(client: httpx.AsyncClient, fields: dict[str, Any]) -> list[int]:
    body = {"model": "tolstoy", "max_tokens": NUM_TOKENS, "ignore_eos": True, "return_token_ids": True, **fields}
    response = await client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    token_ids: list[int] = response.json()["choices"][0]["token_ids"]
    assert len(token_ids) == NUM_TOKENS
    return token_ids


async def break_off(client: httpx.AsyncClient) -> None:
    """A stream whose reader goes away after its first event."""
    body = {"model": "tolstoy", "prompt": "peace", "max_tokens": 4000, "stream": True, "ignore_eos": True}
    async with client.stream("POST", "/v1/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                return


async def test_three_running_requests_say_the_same_whatever_becomes_of_a_fourth(server: RunningServer) -> None:
    async with httpx.AsyncClient(verify=False, base_url=server.url, timeout=120) as client:
        undisturbed = await asyncio.gather(*(answer(client, fields) for fields in NEIGHBOURS))
        running = [asyncio.create_task(answer(client, fields)) for fields in NEIGHBOURS]
        await asyncio.sleep(0.1)
        for name, fields in TROUBLE.items():
            refused = await client.post("/v1/completions", json={"model": "tolstoy", **fields})
            assert refused.status_code == 400, f"{name}: {refused.text}"
            await break_off(client)
        assert await asyncio.gather(*running) == undisturbed


@pytest.mark.parametrize("name", TROUBLE)
async def test_every_one_of_these_requests_is_refused_by_itself(server: RunningServer, name: str) -> None:
    async with httpx.AsyncClient(verify=False, base_url=server.url, timeout=30) as client:
        refused = await client.post("/v1/completions", json={"model": "tolstoy", **TROUBLE[name]})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"]
