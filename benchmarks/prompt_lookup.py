"""What do guessed tokens bring, and what do they cost where they cannot help?

    python -m benchmarks.prompt_lookup cost  MODEL [--context 64] [--rounds 4]
    python -m benchmarks.prompt_lookup texts MODEL [--texts edit prose ...] [--tokens 200] [--rounds 3]
    python -m benchmarks.prompt_lookup batch MODEL [--sequences 8] [--tokens 100] [--rounds 3]
    python -m benchmarks.prompt_lookup recall [--tokens 200] [--rounds 5]

`cost`: seconds of one pass over 1 .. 16 rows of one sequence, beside one row. `texts`: decoding with guesses beside
decoding without, step by step in turns, each round with fresh engines that know nothing of what rows cost; medians
count. The model's own text does not matter for that, and with random weights means nothing: the whole model is
computed, then the logits are bent to the next token of a given text:

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
from collections.abc import Iterable, Sequence
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
from transom.request import Request, RequestOutput, SamplingParams
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

    def hidden_states(self, batch: ForwardBatch) -> NDArray[np.float32]:
        return self._model.hidden_states(batch)

    def logits(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._model.logits(hidden)


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


class Side:
    """An engine whose requests decode, and what its steps have taken since all of them began."""

    def __init__(self, engine: Engine, requests: Sequence[Request]) -> None:
        self.engine = engine
        self.said: dict[str, list[int]] = {request.request_id: [] for request in requests}
        for request in requests:
            engine.add(request)
        while not all(self.said.values()):
            self._take(engine.step())
        self.num_before = sum(map(len, self.said.values()))
        self.seconds, self.num_steps = 0.0, 0
        self.seconds_to_end: dict[str, float] = {}

    def step(self) -> None:
        """One more, if there is anything to do."""
        if not self.engine.has_work():
            return
        started = time.perf_counter()
        outputs = self.engine.step()
        self.seconds += time.perf_counter() - started
        self.num_steps += 1
        self._take(outputs)
        self.seconds_to_end |= {each.request_id: self.seconds for each in outputs if each.finish_reason is not None}

    @property
    def tokens_per_second(self) -> float:
        return (sum(map(len, self.said.values())) - self.num_before) / self.seconds

    def _take(self, outputs: Iterable[RequestOutput]) -> None:
        for output in outputs:
            self.said[output.request_id] += output.token_ids


def take_turns(loaded: Loaded, model: Model, requests: Sequence[Request]) -> tuple[Side, Side]:
    """Decodes without and with guesses, step by step in turns, so that whatever disturbs the machine disturbs both."""
    plain, guessing = (Side(loaded.engine(model, count), requests) for count in (0, DEFAULT_DRAFT_TOKENS))
    while plain.engine.has_work() or guessing.engine.has_work():
        plain.step()
        guessing.step()
    assert plain.said == guessing.said, "guesses changed the tokens"
    return plain, guessing


def compare(name: str, loaded: Loaded, model: Model, request: Request, rounds: int) -> None:
    pairs = [take_turns(loaded, model, [request]) for _ in range(rounds)]
    speeds = [statistics.median(side.tokens_per_second for side in sides) for sides in zip(*pairs, strict=True)]
    ratio = statistics.median(guessing.tokens_per_second / plain.tokens_per_second for plain, guessing in pairs)
    last = pairs[-1][1]
    stats = last.engine.stats().scheduler
    print(
        f"| {name} | {speeds[0]:.1f} | {speeds[1]:.1f} | {ratio:.2f} | {last.num_steps} | "
        f"{stats.num_drafted_tokens} | {stats.num_accepted_tokens} |",
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
    requests = [reading.request(text, index) for index, text in enumerate(texts)]
    pairs = [take_turns(loaded, reading, requests) for _ in range(rounds)]
    print("| seconds until | without | with guesses | ratio |\n|---|---|---|---|")
    for name, which in (("the edit is done", min), ("all are done", max)):
        ends = [[which(side.seconds_to_end.values()) for side in pair] for pair in pairs]
        plain, guessing = (statistics.median(side) for side in zip(*ends, strict=True))
        ratio = statistics.median(without / with_guesses for without, with_guesses in ends)
        print(f"| {name} | {plain:.2f} | {guessing:.2f} | {ratio:.2f} |")


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
