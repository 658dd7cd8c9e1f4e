"""The bundled models under a thousand random JSON schemas: what comes to its end is valid, without exception."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

import transom.models_builtin
from tests.grammar.random_schemas import random_schema
from transom.config.engine_config import resolve
from transom.config.registry_config import ModelEntry
from transom.engine.model_loader import load_engine
from transom.grammar.compiler import GrammarCompiler
from transom.grammar.structure import Structure
from transom.grammar.vocabulary import Vocabulary
from transom.registry.model_files import read_model_config, read_text_files
from transom.request import FinishReason, Request, SamplingParams

MODELS = Path(next(iter(transom.models_builtin.__path__)))
MAX_TOKENS = 400
SAMPLES = 2
BATCH = 16
MIN_SHARE_COMPLETE = 0.9
"""The rest came to the maximum of tokens before their end."""


def count_complete(name: str, seeds: range) -> int:
    """How many texts came to their end, of `SAMPLES` for each of the schemas; each of them is validated."""
    path = MODELS / name
    entry = ModelEntry.for_path(path, id=name, aliases=())
    model_config, engine_config = resolve(entry, read_model_config(path), num_threads=2)
    engine, _ = load_engine(model_config, replace(engine_config, max_num_seqs=BATCH))
    tokenizer, template = read_text_files(path)
    template.close()
    compiler = GrammarCompiler(lambda: Vocabulary.of(tokenizer, model_config.vocab_size))
    prompt = tokenizer.encode("The prince wrote:")
    texts: dict[int, list[bytes]] = defaultdict(list)
    for first in range(seeds.start, seeds.stop, BATCH // SAMPLES):
        written: dict[str, bytes] = defaultdict(bytes)
        for seed in range(first, min(first + BATCH // SAMPLES, seeds.stop)):
            grammar = compiler.compile(Structure.json_schema(random_schema(seed)), "schema")
            for sample in range(SAMPLES):
                sampling = SamplingParams(MAX_TOKENS, temperature=1.0, seed=1000 * seed + sample, grammar=grammar)
                engine.add(Request(f"{seed}-{sample}", prompt, sampling))
        while engine.has_work():
            for output in engine.step():
                shown = output.token_ids if output.stop_token_id is None else output.token_ids[:-1]
                written[output.request_id] += b"".join(map(tokenizer.token_bytes, shown))
                assert output.error is None
                if output.finish_reason is FinishReason.STOP:
                    texts[int(output.request_id.partition("-")[0])].append(written[output.request_id])
    compiler.close()
    engine.close()
    for seed, samples in texts.items():
        for text in samples:
            jsonschema.validate(json.loads(text), random_schema(seed))
    return sum(map(len, texts.values()))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "seeds"), [("tolstoy", range(500)), ("recall", range(500, 1000))])
def test_texts_under_a_thousand_random_schemas_are_valid(name: str, seeds: range) -> None:
    assert count_complete(name, seeds) >= MIN_SHARE_COMPLETE * len(seeds) * SAMPLES
