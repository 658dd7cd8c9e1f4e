"""`ModelFiles`: everything that is read of a model before its weights, whether a Hugging Face directory or a GGUF file.

The one place that tells the two apart. Knows no entry of a registry and no engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transom.config.gguf_config import gguf_generation_defaults, gguf_model_config
from transom.config.model_config import GenerationDefaults, ModelConfig
from transom.config.pooling_config import PoolingConfig
from transom.errors import TokenizerError
from transom.tokenizer import ChatTemplate, Tokenizer
from transom.weights.gguf import GgufFile, find_gguf, open_gguf
from transom.weights.gguf_checkpoint import describe_gguf

__all__ = ["ModelFiles", "read_model_config", "read_model_files", "read_text_files"]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's architecture, its authors' settings, and its ways between text and tokens, and from text to vectors."""

    model_config: ModelConfig
    generation_defaults: GenerationDefaults
    pooling: PoolingConfig
    tokenizer: Tokenizer
    chat_template: ChatTemplate


def read_model_config(path: Path) -> ModelConfig:
    """The architecture alone. Raises ConfigError, UnsupportedModelError, WeightsError."""
    gguf_path = find_gguf(path)
    return ModelConfig.from_hf(path) if gguf_path is None else gguf_model_config(describe_gguf(open_gguf(gguf_path)))


def read_model_files(path: Path) -> ModelFiles:
    """All of it. Blocks for up to seconds. Raises as `read_model_config`, and TokenizerError."""
    gguf_path = find_gguf(path)
    return _from_directory(path) if gguf_path is None else _from_gguf(gguf_path)


def read_text_files(path: Path) -> tuple[Tokenizer, ChatTemplate]:
    """The ways between text and tokens alone; the template is the caller's to close. Raises TokenizerError."""
    gguf_path = find_gguf(path)
    return _text_of_directory(path) if gguf_path is None else _text_of_gguf(open_gguf(gguf_path))


def _from_directory(path: Path) -> ModelFiles:
    model_config, defaults = ModelConfig.from_hf(path), GenerationDefaults.from_hf(path)
    return ModelFiles(model_config, defaults, PoolingConfig.from_hf(path), *_text_of_directory(path))


def _text_of_directory(path: Path) -> tuple[Tokenizer, ChatTemplate]:
    tokenizer = Tokenizer.from_directory(path)
    return tokenizer, ChatTemplate.from_directory(path, tokenizer)


def _from_gguf(path: Path) -> ModelFiles:
    file = open_gguf(path)
    described = describe_gguf(file)
    model_config, defaults = gguf_model_config(described), gguf_generation_defaults(described)
    return ModelFiles(model_config, defaults, PoolingConfig.from_gguf(described), *_text_of_gguf(file))


def _text_of_gguf(file: GgufFile) -> tuple[Tokenizer, ChatTemplate]:
    try:
        tokenizer = Tokenizer.from_gguf(file.metadata)
        return tokenizer, ChatTemplate.from_gguf(file.metadata, tokenizer)
    except TokenizerError as error:  # names the key alone
        raise TokenizerError(f"{file.path}: {error}") from error
