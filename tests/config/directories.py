"""Model directories that hold settings only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transom.config.model_config import ModelConfig

BASE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
REMOVED = object()


def settings(**changes: Any) -> dict[str, Any]:
    """A small, complete `config.json` with changes; REMOVED takes a key away."""
    merged = {"model_type": "llama", **BASE, **changes}
    return {key: value for key, value in merged.items() if value is not REMOVED}


def write(directory: Path, config: object, generation: object | None = None) -> Path:
    """Writes the directory's files and returns it."""
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return directory


def read(directory: Path, model_type: str = "llama", **changes: Any) -> ModelConfig:
    """What `from_hf` makes of `settings(...)`."""
    return ModelConfig.from_hf(write(directory, settings(model_type=model_type, **changes)))
