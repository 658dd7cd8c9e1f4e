"""Real checkpoints served over HTTP write what transformers writes, token for token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running_server import RunningServer

pytestmark = pytest.mark.parity

ROOT = Path(__file__).parents[2]
MODELS = {
    "tolstoy": ROOT / "transom/models_builtin/tolstoy",
    "story": ROOT.parent / "shared/models/story",
}
PROMPTS = {
    "tolstoy": ["Prince Andrew looked at the sky", "The war", "Natasha smiled and"],
    "story": ["Once upon a time", "Lily had a red ball", "The dog"],
}
NUM_TOKENS = 200


@pytest.fixture(scope="module", params=sorted(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    if not MODELS[request.param].is_dir():
        pytest.skip(f"the {request.param} checkpoint is not here")
    return str(request.param)


@pytest.fixture(scope="module")
def reference(name: str) -> tuple[Any, Any]:
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS[name])
    return tokenizer, transformers.AutoModelForCausalLM.from_pretrained(MODELS[name], dtype=torch.float32).eval()


@pytest.fixture(scope="module", params=["f32", "f16"])
def served(
    request: pytest.FixtureRequest, name: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    log = tmp_path_factory.mktemp("served") / "log.txt"
    server = RunningServer.start(str(MODELS[name]), "--kv-cache-dtype", request.param, log=log)
    yield server
    server.stop()


def reference_tokens(reference: tuple[Any, Any], prompt: str) -> list[int]:
    """The prompt's ids and 200 greedy tokens behind it, end of sequence ignored."""
    import torch

    tokenizer, model = reference
    prompt_ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        tokens = model.generate(
            prompt_ids,
            attention_mask=torch.ones_like(prompt_ids),
            max_new_tokens=NUM_TOKENS,
            min_new_tokens=NUM_TOKENS,
            do_sample=False,
            suppress_tokens=None,
        )[0]
    generated: list[int] = tokens[prompt_ids.shape[1] :].tolist()
    return generated


@pytest.mark.parametrize("number", range(3))
def test_greedy_text_equals_the_reference(
    name: str, reference: tuple[Any, Any], served: RunningServer, number: int, record_property: Any
) -> None:
    prompt = PROMPTS[name][number]
    expected = reference_tokens(reference, prompt)
    arguments: dict[str, Any] = {"model": name, "prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0}
    arguments["extra_body"] = {"min_tokens": NUM_TOKENS, "return_token_ids": True}
    client = served.client()
    whole = client.completions.create(**arguments)
    streamed = "".join(c.choices[0].text for c in client.completions.create(**arguments, stream=True) if c.choices)
    assert streamed == whole.choices[0].text

    tokens = whole.choices[0].model_dump()["token_ids"]
    assert len(tokens) == NUM_TOKENS
    equal = next((i for i, (a, b) in enumerate(zip(tokens, expected, strict=True)) if a != b), NUM_TOKENS)
    record_property("equal_tokens", equal)
    print(f"{name}, kv_dtype {served.arguments[-1]}: {equal} of {NUM_TOKENS} greedy tokens equal")
    if served.arguments[-1] == "f32":
        assert tokens == expected
        expected_text = reference[0].decode(expected, skip_special_tokens=True)
        assert whole.choices[0].text.strip() == expected_text.strip()
