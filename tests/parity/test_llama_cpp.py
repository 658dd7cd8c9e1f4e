"""Converted files in llama.cpp: the same token ids, and the same greedy tokens as our own engine's.

Needs `llama-cpp-python`, which is no dependency of anything here; without it the tests are skipped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import small_engine_config
from transom.cli.convert import convert
from transom.engine.model_loader import load_engine
from transom.registry.model_files import read_model_config
from transom.request import Request, SamplingParams
from transom.tokenizer import Tokenizer

pytestmark = pytest.mark.parity

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

TOLSTOY = Path(__file__).parents[2] / "transom" / "models_builtin" / "tolstoy"
PROMPTS = ("Prince Andrew looked at the sky", "The war", "Natasha smiled, and 'twas 1812!\n\n  Ünïcödé")
NUM_TOKENS = 100


@pytest.fixture(scope="module", params=["F32", "F16", "Q8_0", "Q6_K", "Q4_K_M"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("converted") / f"{request.param}.gguf"
    convert(TOLSTOY, target, request.param, threads=2, force=False)
    return target


@pytest.fixture(scope="module")
def llama(path: Path) -> Any:
    return llama_cpp.Llama(str(path), n_ctx=512, n_threads=2, verbose=False)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_llama_cpp_makes_the_same_token_ids(llama: Any, prompt: str) -> None:
    expected = Tokenizer.from_directory(TOLSTOY).encode(prompt)
    assert llama.tokenize(prompt.encode(), add_bos=True, special=False) == expected


@pytest.mark.parametrize("prompt", PROMPTS)
def test_llama_cpp_chooses_the_same_tokens(llama: Any, path: Path, prompt: str) -> None:
    if path.stem not in ("F32", "F16"):
        assert llama.create_completion(prompt, max_tokens=8, temperature=0)["choices"][0]["text"].strip()
        return
    prompt_ids = Tokenizer.from_directory(TOLSTOY).encode(prompt)
    config = replace(small_engine_config(path, kv_cache_ram_bytes=2**24), context_window=512)
    engine, _ = load_engine(read_model_config(path), config)
    engine.add(Request("r", tuple(prompt_ids), SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)))
    ours: list[int] = []
    while engine.has_work():
        ours += [token for output in engine.step() for token in output.token_ids]
    theirs = []
    for token in llama.generate(prompt_ids, temp=0.0, repeat_penalty=1.0):
        theirs.append(token)
        if len(theirs) == NUM_TOKENS:
            break
    assert ours == theirs
