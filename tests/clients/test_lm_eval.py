"""lm-eval's `local-completions`, unmodified: log likelihoods of a small task, against the server's own echo."""

from __future__ import annotations

import math
from pathlib import Path

import httpx2 as httpx
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

from tests.running_server import RunningServer

TOLSTOY = Path(__file__).parents[2] / "transom/models_builtin/tolstoy"
PAIRS = [
    ("Prince Andrew looked at", " the sky"),
    ("Prince Andrew looked at", " xylophones"),
    ("Natasha smiled", " and said"),
    ("The general", " was killed by"),
]


def local_completions(server: RunningServer) -> LocalCompletionsAPI:
    """With the model's own tokenizer, so that prompts travel as token ids."""
    return LocalCompletionsAPI(
        model="tolstoy",
        base_url=f"{server.url}/v1/completions",
        tokenizer=str(TOLSTOY),
        tokenizer_backend="huggingface",
        batch_size=2,
        max_retries=1,
    )


def token_ids(server: RunningServer, text: str) -> list[int]:
    ids: list[int] = httpx.post(f"{server.url}/tokenize", json={"model": "tolstoy", "prompt": text}).json()["tokens"]
    return ids


def test_log_likelihoods_are_those_of_the_echo(server: RunningServer) -> None:
    model = local_completions(server)
    requests = []
    for context, continuation in PAIRS:
        whole, before = token_ids(server, context + continuation), token_ids(server, context)
        requests.append(((context, continuation), whole[: len(before)], whole[len(before) :]))
    found = model._loglikelihood_tokens(requests)
    for (_, before, after), (logprob, is_greedy) in zip(requests, found, strict=True):
        body = {"model": "tolstoy", "prompt": before + after, "echo": True, "logprobs": 1, "max_tokens": 1}
        echoed = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).json()["choices"][0]["logprobs"]
        scored = echoed["token_logprobs"][len(before) : len(before) + len(after)]
        assert math.isclose(logprob, sum(scored), rel_tol=1e-9)
        assert isinstance(is_greedy, bool)
    assert found[0][0] > found[1][0]


def test_it_generates_until_a_stop(server: RunningServer) -> None:
    model = local_completions(server)
    arguments = ("Prince Andrew", {"until": ["."], "max_gen_toks": 30, "temperature": 0})
    [text] = model.generate_until([Instance("generate_until", {}, arguments, 0)])
    assert text
    assert "." not in text
