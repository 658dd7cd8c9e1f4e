"""`transom check`: one screen about a model, and whether it can be served. Owns the words; `model_check` finds them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

import typer
from rich.console import Console

from transom.cli.banner import count_full_attention, size_text, wide_console, window_text
from transom.cli.failure import EXIT_FAILED
from transom.cli.model_check import ModelCheck, VocabularyFacts, WeightFacts, check_model, check_report, ropes
from transom.cli.options import ModelOptions
from transom.cli.sources import load_registry
from transom.config.engine_config import resolve
from transom.config.kv_size import conv_state_bytes, kv_bytes_per_token_by_kind
from transom.config.model_config import LayerKind, ModelConfig
from transom.config.registry_config import ModelEntry
from transom.config.rope_config import RopeConfig
from transom.tokenizer import Tokenizer

_KV_DTYPE = "f16"  # what is served unless something else is asked for
_SHOWN_TOKENS = 4
_SHOWN_PROBLEMS = 12
KIND_WORDS = {
    LayerKind.FULL_ATTENTION: "full attention",
    LayerKind.SLIDING_ATTENTION: "sliding attention",
    LayerKind.SHORT_CONV: "short convolution",
}


def show_check(model: str, *, as_json: bool) -> None:
    """Prints what `model`, a path or the id of a bundled model, is. Ends the command with 1 if it cannot be served.

    Raises ConfigError for what is no model at all.
    """
    entry = load_registry(ModelOptions(model=model)).models[0]
    check = check_model(entry.path)
    _narrow(check, entry)
    if as_json:
        print(json.dumps(check_report(check, _KV_DTYPE), indent=2, ensure_ascii=False))
    else:
        _show(wide_console(), check)
    if not check.can_be_served:
        raise typer.Exit(EXIT_FAILED)


def _narrow(check: ModelCheck, entry: ModelEntry) -> None:
    """What the registry entry of a bundled model lowers."""
    if check.model_config is not None and (entry.sliding_window or entry.max_position_embeddings):
        with check.noting_problems():
            check.model_config, _ = resolve(entry, check.model_config, num_threads=1)


def _show(console: Console, check: ModelCheck) -> None:
    rows = list(_rows(check))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(f"{name:{width}}  {value}")


def _rows(check: ModelCheck) -> Iterator[tuple[str, str]]:
    yield "path", f"{check.path} ({check.file_format})"
    if check.model_config is not None:
        yield from _architecture_rows(check.model_config)
    if check.weights is not None:
        yield "weights", _weights_text(check.weights)
    if check.tokenizer is not None:
        yield "tokenizer", f"{check.tokenizer.kind}, {check.tokenizer.vocab_size} tokens"
        if check.vocabulary is not None:
            yield from _vocabulary_rows(check.vocabulary)
        yield "special tokens", _special_tokens_text(check.tokenizer)
    if check.has_chat_template is not None:
        yield (
            "chat template",
            "yes" if check.has_chat_template else "no: messages are continued as paragraphs of a text",
        )
    yield "can be served", "yes" if check.can_be_served else "no"
    for problem in check.problems[:_SHOWN_PROBLEMS]:
        yield "", problem
    if len(check.problems) > _SHOWN_PROBLEMS:
        yield "", f"and {len(check.problems) - _SHOWN_PROBLEMS} more problems, which --json lists"


def _architecture_rows(config: ModelConfig) -> Iterator[tuple[str, str]]:
    yield "family", config.model_type
    counts = Counter(config.layer_types)
    yield "layers", ", ".join(f"{count} {KIND_WORDS[kind]}" for kind, count in counts.items())
    if config.nope_layers:
        layers = "layers" if len(config.nope_layers) > 1 else "layer"
        yield "without positions", f"{layers} {', '.join(map(str, config.nope_layers))}, counted from 0"
    if config.experts is not None:
        experts = config.experts
        where = f"in {len(experts.layers)} layers"
        yield "experts", f"{experts.num_experts}, of which a token uses {experts.num_experts_per_tok}, {where}"
    yield "context window", f"{config.max_position_embeddings} tokens"
    yield "attention window", window_text(config.sliding_window, count_full_attention(config))
    for kind, rope in ropes(config).items():
        yield f"rope, {KIND_WORDS[kind]}", _rope_text(rope, config.max_position_embeddings)
    heads = f"{config.num_attention_heads} of {config.head_dim} channels over {config.num_key_value_heads} for KV"
    yield "heads", heads
    for kind, size in kv_bytes_per_token_by_kind(config, _KV_DTYPE).items():
        yield f"KV, {KIND_WORDS[kind]}", f"{size_text(size)} per token ({_KV_DTYPE})"
    if config.short_conv is not None:
        yield "convolution states", f"{size_text(conv_state_bytes(config))} per sequence"


def _rope_text(rope: RopeConfig, context_window: int) -> str:
    words = f"{rope.rope_type}, base {rope.rope_theta:g}, {rope.rotary_dim} channels"
    if rope.factor != 1.0:
        words += f", factor {rope.factor:g}"
    original = rope.original_max_position_embeddings
    if original is None:
        return words
    words += f", made for {original} tokens"
    if rope.rope_type == "longrope":
        words += (
            f"; a context window of {context_window} uses its {'long' if context_window > original else 'short'} set"
        )
    return words


def _weights_text(weights: WeightFacts) -> str:
    types = ", ".join(f"{dtype} {size_text(size)}" for dtype, size in weights.bytes_by_type.items())
    in_ram = "" if weights.num_ram_bytes is None else f"; {size_text(weights.num_ram_bytes)} in RAM"
    return f"{weights.num_parameters / 1e6:,.1f} million parameters, {size_text(weights.num_bytes)} ({types}){in_ram}"


def _vocabulary_rows(facts: VocabularyFacts) -> Iterator[tuple[str, str]]:
    model = f"the model's {facts.vocab_size} ids"
    if facts.num_ids_without_token:
        yield "", f"no token for {facts.num_ids_without_token} of {model}: they add nothing to a text"
    if facts.tokens_beyond:
        beyond = f"{len(facts.tokens_beyond)} of them beyond {model}"
        yield "", f"{beyond}: a text that needs one is refused ({_few(facts.tokens_beyond)})"
    yield "an answer ends with", ", ".join(facts.end_tokens) or "nothing but its limit"


def _special_tokens_text(tokenizer: Tokenizer) -> str:
    named = [f"{name.removesuffix('_token')} {token}" for name, token in tokenizer.named_tokens.items()]
    others = sorted(tokenizer.special_tokens.difference(tokenizer.named_tokens.values()))
    return "; ".join(filter(None, [", ".join(named), f"others: {_few(others)}" if others else ""])) or "none"


def _few(tokens: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = [f"{len(tokens) - _SHOWN_TOKENS} more"] if len(tokens) > _SHOWN_TOKENS else []
    return ", ".join([*tokens[:_SHOWN_TOKENS], *more])
