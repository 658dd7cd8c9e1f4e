"""llama.cpp loads the files of every family and says the same, greedily: the order of rows, norms, ropes are its own.

It lives in an environment of its own: `python -m benchmarks.llama_cpp_environment` makes it; TRANSOM_LLAMA_CPP names
another place.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.llama_cpp_environment import default_environment
from tests.gguf_families import CASES, CONVERTIBLE, VOCAB_SIZE, GgufCase, write_directory, write_file
from tests.harness import Harness
from tests.tokenizer_files import byte_level, write_tokenizer
from transom.cli.convert import convert

ENVIRONMENT = Path(os.environ.get("TRANSOM_LLAMA_CPP", default_environment("native")))
PYTHON = ENVIRONMENT / "bin" / "python"
NUM_PROMPT_TOKENS, NUM_TOKENS = 70, 32
TOLERANCE = 1e-4
TOLERANCE_OF_GELU = 0.05  # which ggml looks up in a table of f16

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"llama.cpp is not installed in {ENVIRONMENT}"),
]


def as_llama_cpp_computes(case: GgufCase) -> GgufCase:
    """Without attention windows where it has none, and without a vocabulary."""
    ignores_windows = case.model_type in ("ministral", "mistral", "phi3")
    changes = {"sliding_window": 256, "layer_types": None} if ignores_windows else {}
    return replace(
        case,
        config={**case.config, **changes},
        metadata={**case.metadata, "tokenizer.ggml.model": "none"},
    )


def greedily(path: Path, logits: Path, prompt: list[int]) -> NDArray[np.float32]:
    """llama.cpp's logits [NUM_TOKENS, V], from each of which the next token was chosen."""
    program = Path(__file__).with_name("llama_cpp_greedy.py")
    arguments = [str(each) for each in (PYTHON, program, path, logits, NUM_TOKENS, *prompt)]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    computed: NDArray[np.float32] = np.load(logits)
    return computed


def assert_same_continuation(path: Path, logits: Path, tolerance: float) -> None:
    prompt = np.random.default_rng(0).integers(3, VOCAB_SIZE, NUM_PROMPT_TOKENS).tolist()
    theirs = greedily(path, logits, prompt)
    continuation = theirs.argmax(axis=1).tolist()
    ours = Harness(path).logits([*prompt, *continuation[:-1]])[NUM_PROMPT_TOKENS - 1 :]
    assert (ours.argmax(axis=1) == continuation).all()
    assert np.abs(ours - theirs).max() <= tolerance


def tolerance_of(case: GgufCase) -> float:
    return TOLERANCE_OF_GELU if case.model_type.startswith("gemma") else TOLERANCE


@pytest.mark.parametrize("case", CASES, ids=str)
def test_llama_cpp_continues_with_the_same_tokens(case: GgufCase, tmp_path: Path) -> None:
    case = as_llama_cpp_computes(case)
    path = write_file(case, write_directory(case, tmp_path / "hf"), tmp_path / "m.gguf")
    assert_same_continuation(path, tmp_path / "logits.npy", tolerance_of(case))


@pytest.mark.parametrize("case", CONVERTIBLE, ids=str)
def test_llama_cpp_reads_what_transom_converts(case: GgufCase, tmp_path: Path) -> None:
    directory = write_directory(as_llama_cpp_computes(case), tmp_path / "hf", vocab_size=320)
    write_tokenizer(directory, byte_level())
    convert(directory, tmp_path / "m.gguf", "F32", threads=1, force=False)
    assert_same_continuation(tmp_path / "m.gguf", tmp_path / "logits.npy", tolerance_of(case))
