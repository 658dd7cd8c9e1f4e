"""Bad requests at a real server: each is refused within a second with its reason, and nothing of it stays.

The fixed ones are a table (`tests/server/bad_requests.py`); the generated ones are good bodies with anything in them.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import pytest

from tests.end_to_end.test_clients import wait_until_idle
from tests.running_server import RunningServer
from tests.server.bad_requests import ROUTES, BadRequest, bad_requests

MODEL = "tolstoy"
MAX_SECONDS = 1.0
PATIENCE = 30.0
"""Machines that do other things at the same time are slow, which is no fault of the server's."""
ANYTHING: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 16, 17, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 0.5, -0.0, 1e-320, 1e300, 3.0),
    *(
        "",
        "x",
        "\0",
        "\u202e",
        "x" * 300,
        "é" * 200,
        "<|im_start|>",
        "</s>",
        "{{ 7*7 }}",
        "../../etc/passwd",
        "1",
        "null",
    ),
    *([], [[]], [1], [-1], ["a"], ["a", 1], [[1, 2], [3]], [2**40], [None], {}, {"a": 1}, {"type": "text"}),
    *({"type": "json_object"}, {"1": 100}, {"x": "y"}, {"role": "user"}, [{"role": "user", "content": "a"}]),
]


def vocab_size(server: RunningServer) -> int:
    size: int = server.get(f"/v1/models/{MODEL}").json()["meta"]["n_vocab"]
    return size


def ask_all(
    server: RunningServer, requests: Iterable[BadRequest]
) -> Iterator[tuple[BadRequest, httpx.Response, float]]:
    """Four at a time."""
    with httpx.Client(verify=False, base_url=server.url, timeout=PATIENCE) as client:

        def ask(request: BadRequest) -> tuple[BadRequest, httpx.Response, float]:
            started = time.monotonic()
            answer = client.post(request.path, content=request.body, headers=request.headers)
            return request, answer, time.monotonic() - started

        with ThreadPoolExecutor(4) as pool:
            yield from pool.map(ask, requests)


def check_error(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert len(error["message"]) > 10
    assert answer.headers["x-request-id"]
    return error


def test_every_bad_request_of_the_table_is_refused_with_its_reason_and_leaves_nothing(server: RunningServer) -> None:
    requests = list(bad_requests(MODEL, vocab_size(server)))
    assert len(requests) >= 300
    restarts, seconds = server.metric("transom_worker_restarts_total"), list[float]()
    for request, answer, took in ask_all(server, requests):
        assert answer.status_code == request.status, (request.path, request.body[:200], answer.text)
        param = check_error(answer)["param"]
        assert request.param is None or str(param).startswith(request.param), (request.body[:200], answer.text)
        seconds.append(took)
    assert sorted(seconds)[len(seconds) * 99 // 100] < MAX_SECONDS
    check_unharmed(server, restarts)


def check_unharmed(server: RunningServer, restarts: float) -> None:
    wait_until_idle(server)
    assert server.metric("transom_worker_restarts_total") == restarts
    body = {"model": MODEL, "prompt": "Prince Andrew", "max_tokens": 2, "temperature": 0}
    assert server.post("/v1/completions", body).status_code == 200


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_generated_requests_are_answered_or_refused_and_leave_nothing(server: RunningServer) -> None:
    rng, restarts, refused, num_answered = random.Random(7), server.metric("transom_worker_restarts_total"), [], 0
    for request, answer, took in ask_all(server, (generated(rng) for _ in range(10_000))):
        if answer.status_code == 200:
            num_answered += 1
            continue
        assert 400 <= answer.status_code < 500, (request.path, request.body[:400], answer.text)
        check_error(answer)
        refused.append(took)
    assert len(refused) > 5000
    assert num_answered > 100
    assert sorted(refused)[len(refused) * 99 // 100] < MAX_SECONDS
    check_unharmed(server, restarts)


def generated(rng: random.Random) -> BadRequest:
    """A good body of some route with up to three of its fields, or of another's, set to anything."""
    path, (good, table) = rng.choice(list(ROUTES.items()))
    limit = {
        "/v1/responses": "max_output_tokens",
        "/v1/completions": "max_tokens",
        "/v1/chat/completions": "max_tokens",
    }
    body = {"model": MODEL, **good, **({limit[path]: 2} if path in limit else {})}
    names = [name for name, _ in table if not name.startswith("max_")]
    everybodys = sorted({name for _, fields in ROUTES.values() for name, _ in fields if not name.startswith("max_")})
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(names if rng.random() < 0.8 else everybodys)
        body[name] = rng.choice(ANYTHING) if rng.random() < 0.7 else {"a": rng.choice(ANYTHING)}
    text = json.dumps(body)
    if rng.random() < 0.05:
        position = rng.randrange(len(text))
        text = text[:position] + rng.choice('{}[]",:\\0') + text[position + 1 :]
    return BadRequest(path, text.encode())
