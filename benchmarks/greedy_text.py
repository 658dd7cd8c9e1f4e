"""Does another form of the same model, quantised say, continue texts greedily with the same tokens?

    transom convert transom/models_builtin/tolstoy build/tolstoy-Q8_0.gguf --type Q8_0
    python -m benchmarks.greedy_text transom/models_builtin/tolstoy build/tolstoy-Q8_0.gguf [--tokens 200]
        [--prompts FILE] [--threads 2]

One prompt per line. KV is f32 on both sides, so that only the weights differ.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.transom_side import load
from transom.engine.engine import Engine
from transom.registry.model_files import read_model_files
from transom.request import Request, SamplingParams

PROMPTS = (
    "Prince Andrew looked at the sky",
    "Natasha smiled and",
    "The Emperor Napoleon",
    "It was late in the evening when",
    "Pierre had been",
    "She said nothing and",
    "The French army",
    "Once upon a time",
)


def greedy_tokens(path: Path, prompts: Sequence[str], num_tokens: int, threads: int) -> list[tuple[int, ...]]:
    """The most likely continuation of every prompt, token ids, until the model ends it."""
    tokenizer = read_model_files(path).tokenizer
    model, model_config, engine_config = load(path, threads, 2**13, "f32")
    engine = Engine.of(model, model_config, engine_config)
    sampling = SamplingParams(max_tokens=num_tokens, temperature=0.0)
    for index, prompt in enumerate(prompts):
        engine.add(Request(str(index), tokenizer.encode(prompt), sampling))
    tokens: list[tuple[int, ...]] = [()] * len(prompts)
    while engine.has_work():
        for output in engine.step():
            tokens[int(output.request_id)] += output.token_ids
    return tokens


def num_equal(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens before the first that differs."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs=2)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    print(f"python -m benchmarks.greedy_text {' '.join(sys.argv[1:])}")
    prompts = options.prompts.read_text().splitlines() if options.prompts else PROMPTS
    one, other = (greedy_tokens(path, prompts, options.tokens, options.threads) for path in options.models)
    for prompt, left, right in zip(prompts, one, other, strict=True):
        print(f"{num_equal(left, right):5} of {len(left)} tokens equal: {prompt}")
    print(f"{sum(a == b for a, b in zip(one, other, strict=True))} of {len(prompts)} texts are equal")


if __name__ == "__main__":
    main()
