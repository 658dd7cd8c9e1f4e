"""The files beside a model that describe its tokenizer, read and checked. Owns their names and keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transom.errors import TokenizerError

_TOKEN_KEYS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """What `tokenizer_config.json` (or the older `special_tokens_map.json`) adds to `tokenizer.json`."""

    named_tokens: Mapping[str, str]
    """Text of `bos_token`, `eos_token`, ... as far as the model has them."""
    extra_special_tokens: tuple[str, ...]
    add_bos_token: bool | None
    """None: as the post-processor of `tokenizer.json` says."""
    add_eos_token: bool | None

    @classmethod
    def from_directory(cls, directory: Path) -> TokenizerSettings:
        """Reads the settings; a directory without them is in order. TokenizerError names a damaged file."""
        settings = read_json_object(directory / "special_tokens_map.json", missing_ok=True)
        settings |= read_json_object(directory / "tokenizer_config.json", missing_ok=True)
        named = {key: _token_text(settings[key]) for key in _TOKEN_KEYS if settings.get(key)}
        extra = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
        return cls(
            named_tokens=named,
            extra_special_tokens=tuple(map(_token_text, extra.values() if isinstance(extra, dict) else extra)),
            add_bos_token=settings.get("add_bos_token"),
            add_eos_token=settings.get("add_eos_token"),
        )


def read_json_object(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """The JSON object in a file; TokenizerError names the file when it is something else."""
    if missing_ok and not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: must hold a JSON object")
    return value


def _token_text(token: Any) -> str:
    """A token is given by its text, or by an object with its text and how to match it."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise TokenizerError(f"tokenizer_config.json: {token!r} is not a token")
    return text
