"""Writes docs/configuration.md from the code that checks the registry file, so that the page cannot drift.

    python scripts/write_configuration_docs.py

A test compares the page with what this program would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from transom.config import not_supported
from transom.config.engine_config import (
    COLD_CHUNK_GROWTH,
    DEFAULT_NUM_BATCHED_TOKENS,
    DEFAULT_NUM_WAITING_TOKENS,
    WAITING_WINDOWS,
    EngineConfig,
)
from transom.config.json_file import MAX_JSON_BYTES
from transom.config.keys_file import ApiKey
from transom.config.kv_size import BLOCK_SIZE, COLD_ALIGNMENT
from transom.config.model_families import FAMILIES
from transom.config.registry_config import (
    CacheConfig,
    ModelEntry,
    RegistryConfig,
    ResourceQuota,
    ServerConfig,
    SpeculativeConfig,
    TierConfig,
)
from transom.config.rope_config import ROPE_TYPES

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("The file", RegistryConfig),
    ("`server`", ServerConfig),
    ("`models[]`", ModelEntry),
    ("`models[].tier_config`", TierConfig),
    ("`models[].cache`", CacheConfig),
    ("`models[].speculative`", SpeculativeConfig),
    ("`models[].resource_quota`, and each of `quota_tiers`", ResourceQuota),
)

INTRODUCTION = f"""# Configuration

<!-- Written by scripts/write_configuration_docs.py. Change the code, then run it. -->

The registry file, usually `config.json`, says which models are served and within which budgets:

```json
{{
  "server": {{"port": 9632}},
  "models": [
    {{
      "id": "my-model",
      "path": "models/my-model",
      "max_position_embeddings": 8192,
      "tier_config": {{"kv_cache_ram_mb": 1024, "kv_dtype": "f16", "max_ssd_mb": 8192, "ssd_path": "/var/lib/transom"}}
    }}
  ]
}}
```

It is strict: a key that does not exist, a key given twice, a value of another type or beyond its bounds ends the start
with one line for each problem, naming file, key, value and rule. Sizes ending in `_mb` are MiB (2^20 bytes). Relative
paths are taken from the file's directory, `~` is the home directory. The file may have at
most {MAX_JSON_BYTES // 2**20} MiB.
"""

KEYS_FILE = """## The keys file

Where `server.api_keys_file` is given, every request but those for health must carry one of its keys, as `Authorization:
Bearer KEY` or `X-Api-Key: KEY`. `transom keys create NAME` makes a key of 256 random bits, prints it once and writes
its entry; the file holds digests only. It must belong to the user who runs the server (or to root) and be readable by
its owner alone. A changed file is read again within a second, without a restart; one that has become unusable changes
nothing but the log. A request whose key may not use a model is told what it would be told of a model that does not
exist. Health is told to everybody, which models there are to keys that may use them. The keys of `--api-key` are the
operator's: all models, admin.

"""

RULES = f"""
## Rules between keys

* All ids and aliases of a file differ from each other.
* `max_position_embeddings` is at most the model's own; `sliding_window` is at most the model's own where it has one.
* With a `sliding_window`, every attention layer slides by it. One as wide as the context window changes nothing for a
  model without a window of its own.
* `cache.window_size` is at most the context window and `cache.keep_first` less than `cache.window_size`; a default is
  checked only where the strategy uses it.
* `tier_config.kv_cache_ram_mb` is at most `tier_config.max_ram_mb`, and holds at least one block ({BLOCK_SIZE} tokens
  of every layer).
* `tier_config.max_ram_mb` holds weights, KV and workspace together, or the model is refused before it is loaded. With a
  cold tier the workspace is larger, because prompts are read in chunks up to {COLD_CHUNK_GROWTH} times as long.
* `tier_config.max_ssd_mb` above 0 needs `tier_config.ssd_path` and holds at least one block, each layer's share rounded
  up to {COLD_ALIGNMENT} bytes. The model's directory `<ssd_path>/<id>` must be, or be made, a directory that only this
  user can use and that no other server uses: all that is checked before the server says that it is ready.
* `tier_config.hot_tokens` is at least one block ({BLOCK_SIZE}).

## What KV takes

Bytes for each token = 2 x attention layers x `num_key_value_heads` x `head_dim` x bytes of `kv_dtype` (f32: 4, f16: 2,
q8_0: 1, and 2 bytes more for each group of 32 channels or fewer), in whole blocks of {BLOCK_SIZE} tokens. A layer with
an attention window keeps no more than the window rounded up to blocks and one block more (while a prompt is read: and
one chunk of up to {DEFAULT_NUM_BATCHED_TOKENS} tokens more).

## Limits of the engine

A step computes at most {EngineConfig.__dataclass_fields__["max_num_batched_tokens"].default} tokens of at most \
{EngineConfig.__dataclass_fields__["max_num_seqs"].default} sequences; up to
{EngineConfig.__dataclass_fields__["max_num_waiting"].default} further requests wait, with at most
{DEFAULT_NUM_WAITING_TOKENS} prompt tokens together, or {WAITING_WINDOWS} context windows if that is more.
Others are refused as overload.

## What a model directory must hold

`config.json` of one of the families {", ".join(f"`{name}`" for name in sorted(FAMILIES))}, with rope of type
{", ".join(f"`{name}`" for name in ROPE_TYPES)}; `model.safetensors`, or shards with `model.safetensors.index.json`;
`tokenizer.json`. `generation_config.json` gives further end-of-sequence tokens and sampling defaults. Anything in
`config.json` that would change the computation and is not implemented is refused by name.
"""


def render() -> str:
    """The whole page."""
    tables = "\n".join(_section(title, model) for title, model in SECTIONS)
    keys = f"{KEYS_FILE}{_section('`keys[]`', ApiKey, level=3)}"
    return f"{INTRODUCTION}\n{tables}{RULES}\n{keys}\n{_not_supported()}"


def _section(title: str, model: type[BaseModel], level: int = 2) -> str:
    rows = "\n".join(_row(name, field) for name, field in model.model_fields.items())
    meaning = " ".join((model.__doc__ or "").split())
    heading = f"{'#' * level} {title}"
    return f"{heading}\n\n{meaning}\n\n| key | value | default | meaning |\n|---|---|---|---|\n{rows}\n"


def _row(name: str, field: FieldInfo) -> str:
    meaning = " ".join((field.description or "").split())
    return f"| `{name}` | {_type(field)} | {_default(field)} | {meaning} |"


def _type(field: FieldInfo) -> str:
    words = _type_words(field.annotation)
    bounds = ", ".join(_bounds(field.metadata + list(_nested_metadata(field.annotation))))
    return f"{words} ({bounds})" if bounds else words


def _type_words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_type_words(arguments[0])}s"
    if origin is dict:
        return f"object of {_type_words(arguments[1])}s"
    if hasattr(annotation, "__metadata__"):
        return _type_words(arguments[0])
    if arguments:
        return " or ".join(_type_words(argument) for argument in arguments)
    return "object" if issubclass(annotation, BaseModel) else _SCALARS[annotation]


_SCALARS = {bool: "true, false", int: "integer", float: "number", str: "string", Path: "path", type(None): "null"}


def _nested_metadata(annotation: Any) -> Iterator[Any]:
    for argument in get_args(annotation):
        metadata = getattr(argument, "__metadata__", ())
        for each in metadata:
            yield from getattr(each, "metadata", ())


def _bounds(metadata: list[Any]) -> Iterator[str]:
    for each in metadata:
        match each:
            case annotated_types.Ge(ge=bound):
                yield f"{bound} or more"
            case annotated_types.Gt(gt=bound):
                yield f"more than {bound}"
            case annotated_types.Le(le=bound):
                yield f"at most {bound}"
            case _:
                pass


def _default(field: FieldInfo) -> str:
    default = field.default
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, BaseModel):
        return "its defaults"
    words: dict[Any, str] = {None: "null", True: "true", False: "false", (): "[]"}
    if isinstance(default, dict):
        return "`{}`"
    return f"`{words[default] if default in words and not _is_number(default) else default}`"


def _is_number(value: object) -> bool:
    """0 and 1 equal False and True, yet are not they."""
    return type(value) in (int, float)


def _not_supported() -> str:
    lines = [_unsupported_row("models[].", line) for line in not_supported.OF_AN_ENTRY]
    return (
        "## Not supported yet\n\nThese settings are checked like all others, and then refused by name at start: nothing"
        " is accepted and ignored.\n\n| key | refused value | what there is |\n|---|---|---|\n"
        + "\n".join(lines)
        + "\n"
    )


def _unsupported_row(prefix: str, line: not_supported.Unsupported) -> str:
    return f"| `{prefix}{line.key}` | {line.refused} | {line.instead} |"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
