"""What describes a model's tokenizer beside its vocabulary, read and checked. Owns names of files and keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transom.errors import TokenizerError

_TOKEN_KEYS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_GGUF_TEMPLATE_KEYS = ("tokenizer.chat_template", "tokenizer.chat_template.tool_use")


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """What `tokenizer_config.json` (or the older `special_tokens_map.json`) adds to `tokenizer.json`."""

    named_tokens: Mapping[str, str]
    """Text of `bos_token`, `eos_token`, ... as far as the model has them."""
    extra_special_tokens: tuple[str, ...]
    add_bos_token: bool | None
    """None: as the post-processor of `tokenizer.json` says."""
    add_eos_token: bool | None
    end_token_ids: frozenset[int] = frozenset()
    """Tokens that end a turn or a text; a directory says that elsewhere, in the model's own settings."""

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


@dataclass(frozen=True, slots=True)
class ChatTemplateSources:
    """A model's chat templates, not yet compiled; None where it has none."""

    default: str | None
    tool_use: str | None
    """For conversations with tools, where the model keeps one of its own for them."""

    @classmethod
    def from_directory(cls, directory: Path) -> ChatTemplateSources:
        """From the first file that has any: `chat_template.jinja`, `tokenizer_config.json`, `chat_template.json`."""
        path = directory / "chat_template.jinja"
        if path.exists():
            return cls(_read_text(path), None)
        for name in ("tokenizer_config.json", "chat_template.json"):
            template = read_json_object(directory / name, missing_ok=True).get("chat_template")
            if template is not None:
                return cls._from_json(template, directory / name)
        return cls(None, None)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object]) -> ChatTemplateSources:
        """From the metadata of a GGUF file; TokenizerError names the key that holds no text."""
        return cls(*(_text_or_none(metadata, key) for key in _GGUF_TEMPLATE_KEYS))

    @classmethod
    def _from_json(cls, template: Any, path: Path) -> ChatTemplateSources:
        """One template as a string, or several as a list of objects with `name` and `template`."""
        match template:
            case str():
                return cls(template, None)
            case [*entries] if all(_is_named_template(entry) for entry in entries):
                by_name = {entry["name"]: entry["template"] for entry in entries}
                return cls(by_name.get("default"), by_name.get("tool_use"))
        raise TokenizerError(f"{path}: 'chat_template' must be a string or a list of named templates")


def read_json_object(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """The JSON object in a file; TokenizerError names the file when it is something else."""
    if missing_ok and not path.exists():
        return {}
    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: must hold a JSON object")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path}: cannot be read: {error}") from error


def _text_or_none(metadata: Mapping[str, object], key: str) -> str | None:
    value = metadata.get(key)
    if value is not None and not isinstance(value, str):
        raise TokenizerError(f"{key}: must be a text")
    return value


def _is_named_template(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)


def _token_text(token: Any) -> str:
    """A token is given by its text, or by an object with its text and how to match it."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise TokenizerError(f"tokenizer_config.json: {token!r} is not a token")
    return text
