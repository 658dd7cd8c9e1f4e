"""What does a grammar cost? Decode steps with and without one, at batch 1 and in larger batches.

    python -m benchmarks.structured_output [PATH ...] [--batch 1 8] [--tokens 100] [--rounds 5]

PATH: models; without one, the bundled `tolstoy` and a random one of 1B's shape with a vocabulary of 128k. The engine
takes turns: free text, then text under a schema that never ends, from the same prompts and seeds. Medians of steps.
Beside them, per sequence, what the allowed tokens take (where that is long, in a thread of their own) and what it takes
to tell the grammar the sampled token.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.kernels_matmul import processor
from benchmarks.synthetic_model import synthetic_model
from transom import kernels
from transom.config.engine_config import resolve
from transom.config.registry_config import ModelEntry
from transom.engine import grammars as engine_grammars
from transom.engine.engine import Engine
from transom.engine.model_loader import load_engine
from transom.grammar.compiler import GrammarCompiler
from transom.grammar.structure import Structure
from transom.grammar.vocabulary import Vocabulary
from transom.registry.model_files import read_model_config, read_text_files
from transom.request import GrammarSpec, Request, SamplingParams

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 5},
        "born": {"type": "string", "format": "date"},
        "height": {"type": "number"},
        "languages": {"type": "array", "items": {"enum": ["de", "en", "fr", "ru"]}, "minItems": 1},
        "address": {"type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}},
    },
    "required": ["name", "born", "height", "languages", "address"],
    "additionalProperties": False,
}
SCHEMA = {"type": "array", "items": PERSON, "minItems": 10_000}
PROMPT = "The prince wrote"


@dataclass
class Steps:
    """Seconds of decode steps, round by round."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        return 1000 * statistics.median(self.seconds)


def decode(engine: Engine, prompt: list[int], batch: int, num_tokens: int, grammar: GrammarSpec | None) -> list[float]:
    """Seconds of each step that gave a token to all sequences."""
    for index in range(batch):
        sampling = SamplingParams(num_tokens, temperature=1.0, seed=index, ignore_eos=True, grammar=grammar)
        engine.add(Request(f"r{index}", prompt, sampling))
    seconds = []
    while engine.has_work():
        started = time.perf_counter()
        outputs = engine.step()
        elapsed = time.perf_counter() - started
        if sum(bool(output.token_ids) for output in outputs) == batch:
            seconds.append(elapsed)
    return seconds[2:]  # the first ones end the prompts


class Timed:
    """Wraps a method; adds up what its calls take."""

    def __init__(self, owner: Any, name: str) -> None:
        self._owner, self._name, self._original = owner, name, getattr(owner, name)
        self.seconds: list[float] = []

    def __enter__(self) -> Timed:
        original: Callable[..., Any] = self._original
        seconds = self.seconds

        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return original(*arguments)
            finally:
                seconds.append(time.perf_counter() - started)

        setattr(self._owner, self._name, timed)
        return self

    def __exit__(self, *_: object) -> None:
        setattr(self._owner, self._name, self._original)

    @property
    def median_us(self) -> float:
        return 1e6 * statistics.median(self.seconds)

    @property
    def mean_us(self) -> float:
        return 1e6 * statistics.mean(self.seconds)


def measure(path: Path, batches: list[int], num_tokens: int, rounds: int) -> None:
    """One model: prints its table."""
    entry = ModelEntry.for_path(path, id="measured", aliases=())
    model_config, engine_config = resolve(entry, read_model_config(path), num_threads=kernels.num_threads())
    engine, _ = load_engine(model_config, engine_config)
    tokenizer, template = read_text_files(path)
    template.close()
    compiler = GrammarCompiler(lambda: Vocabulary.of(tokenizer, model_config.vocab_size))
    started = time.perf_counter()
    grammar = compiler.compile(Structure.json_schema(SCHEMA), "schema")
    print(
        f"\n{path}, vocabulary {model_config.vocab_size}; the first grammar took {time.perf_counter() - started:.2f} s"
    )
    started = time.perf_counter()
    compiler.compile(Structure.json_schema({"x": 1, **SCHEMA}), "schema")
    print(f"a new grammar is checked in {1000 * (time.perf_counter() - started):.1f} ms")
    compiler.close()
    prompt = tokenizer.encode(PROMPT)
    decode(engine, prompt, 1, 8, grammar)  # its own tokenizer is read
    for batch in batches:
        free, bound = Steps(), Steps()
        with (
            Timed(engine_grammars.Grammars, "_next_tokens") as computed,
            Timed(engine_grammars.Grammars, "take") as taken,
        ):
            for _ in range(rounds):
                free.seconds += decode(engine, prompt, batch, num_tokens, None)
                bound.seconds += decode(engine, prompt, batch, num_tokens, grammar)
        print(
            f"batch {batch}: step {free.median_ms:.2f} ms free, {bound.median_ms:.2f} ms under the schema "
            f"({100 * (bound.median_ms / free.median_ms - 1):+.1f}%); per sequence: allowed tokens "
            f"{computed.median_us:.0f} us (mean {computed.mean_us:.0f}), take {taken.median_us:.0f} us"
        )
    engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{processor()}, {kernels.num_threads()} threads, {kernels.active_isa()}")
    paths = arguments.paths or [Path("transom/models_builtin/tolstoy"), synthetic_model("1b", "bfloat16")]
    for path in paths:
        measure(path, arguments.batch, arguments.tokens, arguments.rounds)


if __name__ == "__main__":
    main()
