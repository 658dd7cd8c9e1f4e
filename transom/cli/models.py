"""`transom models`: what a registry serves, read from the models' files without loading any weights."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.table import Table

from transom.cli.banner import count_full_attention, kv_text, size_text, wide_console, window_text
from transom.cli.failure import EXIT_FAILED, say
from transom.cli.options import ModelOptions
from transom.cli.sources import load_registry, pulled_entries
from transom.config.engine_config import kv_bytes_per_token, resolve
from transom.config.kv_size import conv_state_bytes
from transom.config.registry_config import ModelEntry
from transom.errors import TransomError
from transom.registry.model_files import read_model_config
from transom.weights.sources import num_parameters, open_weights, quantized_weights


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model of the list."""

    id: str
    architecture: str
    context_window: int
    attention_window: int | None
    num_full_attention_layers: int
    kv_bytes_per_token: int
    conv_state_bytes_per_sequence: int
    kv_dtype: str
    kv_cache_ram_bytes: int
    max_ssd_bytes: int
    cache_strategy: str
    quantization: str
    num_parameters: int
    weights_bytes: int
    path: str


def list_models(config: Path | None, *, as_json: bool) -> None:
    """Prints the list, and on standard error a line for each model that cannot be read: then the command ends with 1.

    Raises `ConfigError` for a registry that cannot be read.
    """
    rows, failures = [], []
    entries = load_registry(ModelOptions(config=config)).models
    for entry in entries if config is not None else (*entries, *pulled_entries()):
        try:
            rows.append(_row(entry))
        except (TransomError, OSError) as error:
            failures.append(f"the model {entry.id} cannot be served: {' '.join(str(error).split())}")
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    elif rows:
        wide_console().print(_table(rows))
    for failure in failures:
        say(failure)
    if failures:
        raise typer.Exit(EXIT_FAILED)


def _row(entry: ModelEntry) -> ModelRow:
    model_config, engine_config = resolve(entry, read_model_config(entry.path), num_threads=1)
    weights = quantized_weights(open_weights(entry.path), engine_config.quantization)
    return ModelRow(
        id=entry.id,
        architecture=model_config.model_type,
        context_window=engine_config.context_window,
        attention_window=model_config.sliding_window,
        num_full_attention_layers=count_full_attention(model_config),
        kv_bytes_per_token=kv_bytes_per_token(model_config, engine_config.kv_dtype),
        conv_state_bytes_per_sequence=conv_state_bytes(model_config),
        kv_dtype=engine_config.kv_dtype,
        kv_cache_ram_bytes=engine_config.kv_cache_ram_bytes,
        max_ssd_bytes=engine_config.max_ssd_bytes,
        cache_strategy=engine_config.cache.strategy.value,
        quantization=engine_config.quantization or model_config.dtype,
        num_parameters=num_parameters(weights),
        weights_bytes=weights.nbytes,
        path=os.path.normpath(entry.path),
    )


def _table(rows: list[ModelRow]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in (
        "ID",
        "ARCHITECTURE",
        "CONTEXT WINDOW",
        "ATTENTION WINDOW",
        "KV PER TOKEN",
        "TYPE",
        "WEIGHTS",
        "PATH",
    ):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(
            row.id,
            row.architecture,
            f"{row.context_window} tokens",
            window_text(row.attention_window, row.num_full_attention_layers),
            kv_text(row.kv_bytes_per_token, row.kv_dtype, row.conv_state_bytes_per_sequence),
            row.quantization,
            size_text(row.weights_bytes),
            row.path,
        )
    return table
