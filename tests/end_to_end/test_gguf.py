"""`transom serve FILE.gguf`: the same model from a GGUF file says the same, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gguf_models import write_gguf_of
from tests.running_server import RunningServer

TOLSTOY = Path(__file__).parents[2] / "transom" / "models_builtin" / "tolstoy"
PROMPTS = ["Prince Andrew looked at the sky", "Natasha smiled and", "“Mon cher,” said the count, “", "1805"]
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
NORMAL, CONTROL = 1, 3


def vocabulary() -> dict[str, Any]:
    """The bundled model's tokenizer.json as keys of GGUF metadata."""
    description = json.loads((TOLSTOY / "tokenizer.json").read_text(encoding="utf-8"))
    by_id = sorted(description["model"]["vocab"].items(), key=lambda item: item[1])
    special = {token["id"] for token in description["added_tokens"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [token for token, _ in by_id],
        "tokenizer.ggml.token_type": [CONTROL if index in special else NORMAL for _, index in by_id],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in description["model"]["merges"]],
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": TEMPLATE,
        "general.file_type": 0,
        "general.sampling.temp": 0.5,
    }


@pytest.fixture(scope="module")
def gguf_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("gguf")
    path = write_gguf_of(TOLSTOY, directory / "Tolstoy-F32.gguf", metadata=vocabulary())
    running = RunningServer.start(str(path), log=directory / "log.txt")
    yield running
    assert running.stop() == 0


def greedy(server: RunningServer, model: str, prompt: str) -> str:
    body = {"model": model, "prompt": prompt, "max_tokens": 60, "temperature": 0}
    text: str = server.post("/v1/completions", body).json()["choices"][0]["text"]
    return text


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_of_a_file_is_that_of_its_directory(
    server: RunningServer, gguf_server: RunningServer, prompt: str
) -> None:
    text = greedy(gguf_server, "tolstoy-f32", prompt)
    assert len(text) > 20
    assert text == greedy(server, "tolstoy", prompt)


def test_tokens_of_a_file_are_those_of_its_directory(server: RunningServer, gguf_server: RunningServer) -> None:
    text = "".join(PROMPTS) + " <|eos|> naïve 12345\n\n\tçà"
    theirs = server.post("/tokenize", {"model": "tolstoy", "prompt": text}).json()
    ours = gguf_server.post("/tokenize", {"model": "tolstoy-f32", "prompt": text}).json()
    assert ours["tokens"] == theirs["tokens"]


def test_the_template_of_a_file_is_used(gguf_server: RunningServer) -> None:
    body = {"messages": [{"role": "user", "content": "Natasha smiled and"}], "max_tokens": 5, "temperature": 0}
    chat = gguf_server.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
    assert chat and greedy(gguf_server, "tolstoy-f32", "Natasha smiled and\n").startswith(chat)


def test_the_list_of_models_says_what_the_file_holds(gguf_server: RunningServer) -> None:
    [model] = gguf_server.get("/v1/models").json()["data"]
    assert model["id"] == "tolstoy-f32"
    assert model["meta"]["quantization"] == "F32"
    assert model["meta"]["n_params"] == 4_676_352
    assert model["meta"]["size"] == 4 * model["meta"]["n_params"]
    assert model["max_model_len"] == 8192
