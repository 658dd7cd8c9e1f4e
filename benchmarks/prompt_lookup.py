"""What do guessed tokens bring, and what do they cost where they cannot help?

    python -m benchmarks.prompt_lookup cost  MODEL [--context 64] [--rounds 4]
    python -m benchmarks.prompt_lookup texts MODEL [--texts edit prose ...] [--tokens 200] [--rounds 3]
    python -m benchmarks.prompt_lookup batch MODEL [--sequences 8] [--tokens 100] [--rounds 3]
    python -m benchmarks.prompt_lookup recall [--tokens 200] [--rounds 5]

`cost`: seconds of one pass over 1 .. 16 rows of one sequence, beside one row. `texts`: decoding with guesses beside
decoding without, in turns, each time in a fresh engine that knows nothing of what rows cost; medians count. The model's
own text does not matter for that, and with random weights means nothing: the whole model is computed, then the logits
are bent to the next token of a given text:

    edit        a source file of this repository after its prompt, with two names changed
    prose       a page of these docs, without anything like it before
    random      tokens drawn at random: there is nothing to guess
    misleading  after every three tokens that were seen before comes another one than the time before

`batch`: one sequence says `edit`, others beside it say `random`, which must not take longer for that. `recall`: the
bundled model of that name says a text of its prompt again; nothing is bent.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernels_matmul import processor
from tests.harness import Harness
from transom import kernels
from transom.config.engine_config import DEFAULT_DRAFT_TOKENS, EngineConfig, resolve
from transom.config.model_config import ModelConfig
from transom.config.registry_config import ModelEntry
from transom.engine.engine import Engine
from transom.layers.forward_batch import ForwardBatch
from transom.models import Model, build
from transom.registry.model_files import read_model_config
from transom.request import Request, SamplingParams
from transom.scheduler.prompt_lookup import PromptLookup
from transom.tokenizer import Tokenizer
from transom.weights.loader import WeightLoader
from transom.weights.sources import open_weights

ROOT = Path(__file__).parents[1]
BUNDLED = ROOT / "transom" / "models_builtin"
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16)
CERTAIN = 1e4
VOCABULARY = 4096  # of the bundled tokenizer
MIB = 2**20


@dataclass(frozen=True)
class Loaded:
    """A model as the engine takes it, without tokens that would end a text."""

    model: Model
    config: ModelConfig
    limits: EngineConfig

    @classmethod
    def of(cls, path: Path) -> Loaded:
        entry = ModelEntry.for_path(path, tier_config={"kv_cache_ram_mb": 256})
        config, limits = resolve(entry, read_model_config(path), num_threads=kernels.num_threads())
        model = build(config, WeightLoader(open_weights(path)))
        return cls(model, replace(config, eos_token_ids=()), limits)

    def engine(self, model: Model, max_draft_tokens: int) -> Engine:
        """A fresh one, over the same weights."""
        return Engine.of(model, self.config, replace(self.limits, max_draft_tokens=max_draft_tokens))


@dataclass(frozen=True)
class Text:
    """Tokens below VOCABULARY, of which the first are the prompt."""

    tokens: NDArray[np.int32]
    num_prompt_tokens: int

    @property
    def num_tokens(self) -> int:
        """To be said."""
        return len(self.tokens) - self.num_prompt_tokens


class ReadingModel:
    """Computes everything that the model does, and says the given texts, whatever comes of it.

    What text a row is of is known by its token: those of text i begin at i * VOCABULARY.
    """

    def __init__(self, model: Model, texts: Sequence[Text]) -> None:
        self._model = model
        longest = max(len(text.tokens) for text in texts) + DEFAULT_DRAFT_TOKENS + 1
        self._texts = np.zeros((len(texts), longest), np.int32)
        for index, text in enumerate(texts):
            self._texts[index, : len(text.tokens)] = text.tokens
            self._texts[index] += index * VOCABULARY

    def request(self, text: Text, index: int) -> Request:
        prompt = self._texts[index, : text.num_prompt_tokens].tolist()
        return Request(f"{index}", prompt, SamplingParams(text.num_tokens, temperature=0.0))

    def forward(self, batch: ForwardBatch) -> NDArray[np.float32]:
        logits = self._model.forward(batch)
        rows = batch.logit_rows
        following = self._texts[batch.token_ids[rows] // VOCABULARY, batch.positions[rows] + 1]
        logits[np.arange(len(logits)), following] = CERTAIN
        return logits


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text))


def edit(tokenizer: Tokenizer, num_tokens: int) -> Text:
    source = (ROOT / "transom" / "scheduler" / "token_buffer.py").read_text(encoding="utf-8")
    source = "".join(source.partition("    def __init__")[1:])
    edited = source.replace("_length", "_num_tokens").replace("larger", "grown")
    prompt = encode(tokenizer, source)[: num_tokens * 5 // 4]
    return Text(np.array(prompt + encode(tokenizer, edited)[:num_tokens], np.int32), len(prompt))


def prose(tokenizer: Tokenizer, num_tokens: int) -> Text:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## Bits")[2]
    tokens = encode(tokenizer, page)[: num_tokens * 9 // 4]
    return Text(np.array(tokens, np.int32), len(tokens) - num_tokens)


def random_tokens(_: Tokenizer, num_tokens: int) -> Text:
    tokens = np.random.default_rng(0).integers(3, 4000, num_tokens * 2).astype(np.int32)
    return Text(tokens, num_tokens)


def misleading(_: Tokenizer, num_tokens: int) -> Text:
    """Whatever is guessed is wrong: the text is written by looking up the guess and saying something else."""
    rng, lookup = np.random.default_rng(0), PromptLookup()
    tokens = rng.integers(3, 9, 2 * num_tokens).astype(np.int32)
    for end in range(num_tokens, 2 * num_tokens):
        match = lookup.find(tokens[:end], 1)
        while match is not None and tokens[end] == match.continuation[0]:
            tokens[end] = rng.integers(3, 9)
    return Text(tokens, num_tokens)


TEXTS = {"edit": edit, "prose": prose, "random": random_tokens, "misleading": misleading}


@dataclass(frozen=True)
class Run:
    """One request's decoding: everything behind its first token."""

    token_ids: list[int]
    tokens_per_second: float
    num_steps: int
    num_drafted: int
    num_accepted: int


def decode(engine: Engine, request: Request) -> Run:
    engine.add(request)
    said: list[int] = []
    started, num_before, num_steps = 0.0, 0, 0
    while engine.has_work():
        for output in engine.step():
            said += output.token_ids
        if said and not num_before:
            started, num_before = time.perf_counter(), len(said)
        num_steps += num_before > 0
    seconds = time.perf_counter() - started
    stats = engine.stats().scheduler
    return Run(said, (len(said) - num_before) / seconds, num_steps, stats.num_drafted_tokens, stats.num_accepted_tokens)


def compare(name: str, loaded: Loaded, model: Model, request: Request, rounds: int) -> None:
    """With and without guesses in turns; the tokens must be the same."""
    sides: dict[int, list[Run]] = {0: [], DEFAULT_DRAFT_TOKENS: []}
    for _ in range(rounds):
        for max_draft_tokens, runs in sides.items():
            runs.append(decode(loaded.engine(model, max_draft_tokens), request))
    plain, guessing = sides.values()
    assert all(run.token_ids == plain[0].token_ids for run in plain + guessing), "guesses changed the tokens"
    speeds = [statistics.median(run.tokens_per_second for run in runs) for runs in (plain, guessing)]
    last = guessing[-1]
    print(
        f"| {name} | {speeds[0]:.1f} | {speeds[1]:.1f} | {speeds[1] / speeds[0]:.2f} | {last.num_steps} | "
        f"{last.num_drafted} | {last.num_accepted} |",
        flush=True,
    )


def print_header(num_tokens: int) -> None:
    print(f"decoding {num_tokens} tokens, tok/s\n")
    print("| text | without | with guesses | ratio | steps | guessed | right |")
    print("|---|---|---|---|---|---|---|", flush=True)


def measure_texts(path: Path, names: Sequence[str], num_tokens: int, rounds: int) -> None:
    loaded, tokenizer = Loaded.of(path), Tokenizer.from_directory(BUNDLED / "tolstoy")
    print_header(num_tokens)
    for name in names:
        text = TEXTS[name](tokenizer, num_tokens)
        reading = ReadingModel(loaded.model, [text])
        compare(name, loaded, reading, reading.request(text, 0), rounds)


def measure_batch(path: Path, num_sequences: int, num_tokens: int, rounds: int) -> None:
    """One sequence edits, and is done when it is; the others say random tokens."""
    loaded, tokenizer = Loaded.of(path), Tokenizer.from_directory(BUNDLED / "tolstoy")
    texts = [edit(tokenizer, num_tokens), *[random_tokens(tokenizer, num_tokens)] * (num_sequences - 1)]
    reading = ReadingModel(loaded.model, texts)
    seconds: dict[int, list[tuple[float, float]]] = {0: [], DEFAULT_DRAFT_TOKENS: []}
    for _ in range(rounds):
        for max_draft_tokens, measured in seconds.items():
            engine = loaded.engine(reading, max_draft_tokens)
            for index, text in enumerate(texts):
                engine.add(reading.request(text, index))
            measured.append(_seconds_to_end(engine))
    print("| seconds until | without | with guesses | ratio |\n|---|---|---|---|")
    for name, which in (("the edit is done", 0), ("all are done", 1)):
        plain, guessing = (statistics.median(each[which] for each in measured) for measured in seconds.values())
        print(f"| {name} | {plain:.2f} | {guessing:.2f} | {plain / guessing:.2f} |")


def _seconds_to_end(engine: Engine) -> tuple[float, float]:
    """Of the first sequence and of all, from when all of them decode."""
    begun, first_end, started = set[str](), 0.0, 0.0
    while engine.has_work():
        for output in engine.step():
            begun.update([output.request_id] if output.token_ids else [])
            if output.request_id == "0" and output.finish_reason is not None:
                first_end = time.perf_counter()
        if not started and len(begun) == engine.stats().scheduler.num_running:
            started = time.perf_counter()
    return first_end - started, time.perf_counter() - started


def measure_recall(num_tokens: int, rounds: int) -> None:
    """The prompt ends with the beginning of a passage that it holds; the model says the rest."""
    path = BUNDLED / "recall"
    loaded, tokenizer = Loaded.of(path), Tokenizer.from_directory(path)
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## Bits")[2]
    tokens = encode(tokenizer, page)[: 2 * num_tokens]
    print_header(num_tokens)
    request = Request("recall", [*tokens, *tokens[:12]], SamplingParams(num_tokens, temperature=0.0))
    compare("recall", loaded, loaded.model, request, rounds)


def measure_cost(path: Path, context: int, rounds: int) -> None:
    harness = Harness(path, kv_dtype="f16", kv_cache_ram_mb=256)
    stream = harness.open(range(context))
    harness.fill(stream, context)
    harness.step([(stream, [7])])
    seconds: dict[int, list[float]] = {rows: [] for rows in ROWS}
    for _ in range(rounds):
        for rows, measured in seconds.items():
            started = time.perf_counter()
            harness.step([(stream, [7] * rows)])
            measured.append(time.perf_counter() - started)
    one = statistics.median(seconds[1])
    print("| rows | ms | of one row's | tokens per time, if all are right |\n|---|---|---|---|")
    for rows, measured in seconds.items():
        median = statistics.median(measured)
        print(f"| {rows} | {1000 * median:.1f} | {median / one:.2f} | {rows * one / median:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cost", "texts", "batch", "recall"])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--texts", nargs="+", choices=list(TEXTS), default=list(TEXTS))
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.what != "recall" and options.model is None:
        parser.error("which model?")
    print(f"{processor()}, {kernels.num_threads()} threads, {kernels.active_isa()}\n")
    match options.what:
        case "cost":
            measure_cost(options.model, options.context, options.rounds)
        case "texts":
            measure_texts(options.model, options.texts, options.tokens, options.rounds)
        case "batch":
            measure_batch(options.model, options.sequences, options.tokens, options.rounds)
        case "recall":
            measure_recall(options.tokens, options.rounds)


if __name__ == "__main__":
    main()
