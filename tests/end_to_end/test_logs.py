"""What a server's own processes write into their log, at its most talkative: nothing that a caller wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.running_server import RunningServer

WORD = "Canary"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {WORD: {"const": WORD}}, "required": [WORD]}
BODIES: tuple[tuple[str, Any], ...] = (
    ("/v1/completions", {"model": "tolstoy", "prompt": f"{WORD} went", "max_tokens": 4}),
    ("/v1/completions", {"model": "tolstoy", "prompt": f"{WORD} " * 9000}),
    ("/v1/completions", {"model": "tolstoy", "prompt": [WORD, 1]}),
    ("/v1/completions", {"model": f"{WORD}\nERROR forged", "prompt": "x"}),
    ("/v1/completions", {"model": "tolstoy", "prompt": "x", "structured_outputs": {"regex": f"{WORD}(("}}),
    ("/v1/completions", {"model": "tolstoy", "prompt": "x", "structured_outputs": {"grammar": f"root ::= {WORD}"}}),
    ("/v1/completions", {"model": "tolstoy", "prompt": "x", "structured_outputs": {"json": SCHEMA}, "max_tokens": 4}),
    ("/v1/completions", {"model": "tolstoy", "prompt": "x", "user": WORD, "cache_salt": WORD, "max_tokens": 4}),
    ("/v1/completions", {"model": "tolstoy", "prompt": "x", "logit_bias": {WORD: 1}}),
    (
        "/v1/responses",
        {"model": "tolstoy", "input": WORD, "instructions": WORD, "metadata": {WORD: WORD}, "max_output_tokens": 4},
    ),
    ("/v1/embeddings", {"model": "tolstoy", "input": [WORD]}),
    ("/tokenize", {"model": "tolstoy", "content": WORD}),
)


def test_no_word_of_a_caller_is_in_the_log_at_any_level(tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = RunningServer.start("tolstoy", "--log-level", "debug", "--log-format", "json", log=log)
    try:
        answers = [server.post(path, body) for path, body in BODIES]
        answers += [server.post(f"/v1/completions?{WORD}={WORD}", {WORD: WORD}), server.get(f"/v1/models/{WORD}")]
    finally:
        server.stop()
    assert {answer.status_code for answer in answers} == {200, 400, 404}
    lines = log.read_text().splitlines()
    assert sum("POST /v1/completions" in line for line in lines) == 10
    assert not [line for line in lines if WORD in line or "forged" in line]
