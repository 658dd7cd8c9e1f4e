"""`ModelCheck`: what a model is and everything that keeps it from being served, found without loading its weights.

Each part is read by itself, so that one that cannot be used hides none of the others. Prints nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transom.config.kv_size import conv_state_bytes, kv_bytes_per_token_by_kind
from transom.config.model_config import LayerKind, ModelConfig, refuse_adapter
from transom.config.model_families import refusals
from transom.config.rope_config import RopeConfig
from transom.config.settings import Settings
from transom.errors import TransomError
from transom.models import misfits, weight_sizes
from transom.registry.model_files import read_model_config, read_text_files
from transom.tokenizer import Tokenizer
from transom.weights.gguf import find_gguf
from transom.weights.sources import SizedWeightSource, num_parameters, open_weights

__all__ = ["ModelCheck", "VocabularyFacts", "WeightFacts", "check_model", "check_report", "ropes"]


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """What the headers of the weight files say."""

    num_parameters: int
    num_bytes: int
    bytes_by_type: dict[str, int]
    num_ram_bytes: int | None = None
    """Once they are loaded; None: they cannot be."""


@dataclass(frozen=True, slots=True)
class VocabularyFacts:
    """How the tokenizer's vocabulary fits the model's. Both misfits can be served, within limits."""

    vocab_size: int
    """Of the model."""
    num_ids_without_token: int
    """The model's that the tokenizer has no token for: padding, most often. They add nothing to a text."""
    tokens_beyond: tuple[str, ...]
    """The tokenizer's that the model has no embedding for. A text that needs one is refused."""
    end_tokens: tuple[str, ...]
    """What ends an answer."""


@dataclass(slots=True)
class ModelCheck:
    """What could be read of one model; None for what could not."""

    path: Path
    file_format: str
    model_config: ModelConfig | None = None
    weights: WeightFacts | None = None
    tokenizer: Tokenizer | None = None
    vocabulary: VocabularyFacts | None = None
    has_chat_template: bool | None = None
    problems: list[str] = field(default_factory=list)
    """One line each. None: the model can be served."""

    @property
    def can_be_served(self) -> bool:
        """Every part can be used."""
        return not self.problems

    @contextmanager
    def noting_problems(self) -> Iterator[None]:
        """What goes wrong inside is a problem of the model."""
        try:
            yield
        except (TransomError, OSError) as error:
            self.note(str(error))

    def note(self, problem: str) -> None:
        """Adds a problem; the same one, found by two parts, is one."""
        line = " ".join(problem.split())
        if line not in self.problems:
            self.problems.append(line)


def check_model(path: Path) -> ModelCheck:
    """Looks at a Hugging Face directory or a GGUF file. Blocks for up to seconds; raises nothing for what is wrong
    with the model."""
    check = ModelCheck(path, "safetensors")
    with check.noting_problems():
        check.file_format = "safetensors" if find_gguf(path) is None else "gguf"
    _read_config(check)
    with check.noting_problems():
        _read_weights(check, open_weights(path))
    with check.noting_problems():
        check.tokenizer, template = read_text_files(path)
        check.has_chat_template = not template.is_default
        template.close()
    if check.model_config is not None and check.tokenizer is not None:
        check.vocabulary = _compare_vocabularies(check.model_config, check.tokenizer)
    return check


def _compare_vocabularies(config: ModelConfig, tokenizer: Tokenizer) -> VocabularyFacts:
    beyond = tokenizer.tokens_beyond(config.vocab_size)
    return VocabularyFacts(
        vocab_size=config.vocab_size,
        num_ids_without_token=config.vocab_size - (tokenizer.vocab_size - len(beyond)),
        tokens_beyond=beyond,
        end_tokens=tuple(tokenizer.id_to_token(token_id) or f"id {token_id}" for token_id in config.eos_token_ids),
    )


def _read_config(check: ModelCheck) -> None:
    """Of a directory that is refused, every reason."""
    if check.file_format == "safetensors":
        with check.noting_problems():
            refuse_adapter(check.path)
            for refusal in refusals(Settings.of_file(check.path / "config.json")):
                check.note(str(refusal))
    with check.noting_problems():
        check.model_config = read_model_config(check.path)


def _read_weights(check: ModelCheck, source: SizedWeightSource) -> None:
    sizes: Counter[str] = Counter()
    for info in map(source.info, source.names()):
        sizes[info.dtype] += info.nbytes
    check.weights = WeightFacts(num_parameters(source), source.nbytes, dict(sizes.most_common()))
    if check.model_config is not None:
        problems = misfits(check.model_config, source)
        for problem in problems:
            check.note(problem)
        if not problems:
            num_ram_bytes = weight_sizes(check.model_config, source).num_bytes
            check.weights = replace(check.weights, num_ram_bytes=num_ram_bytes)


def check_report(check: ModelCheck, kv_dtype: str) -> dict[str, Any]:
    """All of it as JSON has it; KV sizes are for `kv_dtype`."""
    return {
        "path": str(check.path),
        "format": check.file_format,
        "can_be_served": check.can_be_served,
        "problems": check.problems,
        **({} if check.model_config is None else _architecture(check.model_config, kv_dtype)),
        **({} if check.weights is None else _weights(check.weights)),
        "tokenizer": None if check.tokenizer is None else _tokenizer(check.tokenizer),
        **({} if check.vocabulary is None else _vocabulary(check.vocabulary)),
        "has_chat_template": check.has_chat_template,
    }


def _architecture(config: ModelConfig, kv_dtype: str) -> dict[str, Any]:
    return {
        "family": config.model_type,
        "context_window": config.max_position_embeddings,
        "attention_window": config.sliding_window,
        "layers": dict(Counter(str(kind) for kind in config.layer_types)),
        "layers_without_positions": list(config.nope_layers),
        "num_experts": 0 if config.experts is None else config.experts.num_experts,
        "num_experts_per_tok": 0 if config.experts is None else config.experts.num_experts_per_tok,
        "rope": {str(kind): _rope(rope) for kind, rope in ropes(config).items()},
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "bos_token_id": config.bos_token_id,
        "eos_token_ids": list(config.eos_token_ids),
        "kv_dtype": kv_dtype,
        "kv_bytes_per_token": {str(kind): size for kind, size in kv_bytes_per_token_by_kind(config, kv_dtype).items()},
        "conv_state_bytes_per_sequence": conv_state_bytes(config),
    }


def ropes(config: ModelConfig) -> dict[LayerKind, RopeConfig]:
    """By the kind of attention layers that the model has."""
    own = {
        LayerKind.FULL_ATTENTION: config.rope,
        LayerKind.SLIDING_ATTENTION: config.sliding_rope or config.rope,
    }
    return {kind: rope for kind, rope in own.items() if kind in config.layer_types}


def _rope(rope: RopeConfig) -> dict[str, Any]:
    return {
        "rope_type": rope.rope_type,
        "rope_theta": rope.rope_theta,
        "factor": rope.factor,
        "rotary_dim": rope.rotary_dim,
        "original_max_position_embeddings": rope.original_max_position_embeddings,
    }


def _weights(facts: WeightFacts) -> dict[str, Any]:
    return {
        "num_parameters": facts.num_parameters,
        "weights_bytes": facts.num_bytes,
        "weights_ram_bytes": facts.num_ram_bytes,
        "weights_bytes_by_type": facts.bytes_by_type,
    }


def _tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "named_tokens": dict(tokenizer.named_tokens),
        "num_special_tokens": len(tokenizer.special_tokens),
        "end_token_ids": sorted(tokenizer.end_token_ids),
    }


def _vocabulary(facts: VocabularyFacts) -> dict[str, Any]:
    return {
        "num_ids_without_token": facts.num_ids_without_token,
        "num_tokens_beyond_vocabulary": len(facts.tokens_beyond),
        "end_tokens": list(facts.end_tokens),
    }
