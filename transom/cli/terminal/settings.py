"""What `/set` and `/strategy` change: names, bounds, and how values are said. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from transom.cli.answers import DEFAULT_MAX_TOKENS, AnswerSettings
from transom.errors import ConfigError
from transom.request import CacheStrategy
from transom.server.cache_field import CacheField

_NOTHING = frozenset({"default", "none", "off"})
STRATEGIES = tuple(strategy.value for strategy in CacheStrategy)


@dataclass(frozen=True, slots=True)
class _Number:
    """A setting that is a number between two others."""

    kind: type[int] | type[float]
    least: float
    most: float
    default: str


NUMBERS: Mapping[str, _Number] = {
    "max_tokens": _Number(int, -1, 2**31 - 1, str(DEFAULT_MAX_TOKENS)),
    "temperature": _Number(float, 0, 2, "the model's"),
    "top_p": _Number(float, 0, 1, "the model's"),
    "top_k": _Number(int, -1, 2**31 - 1, "the model's"),
    "min_p": _Number(float, 0, 1, "the model's"),
    "seed": _Number(int, -(2**63), 2**63 - 1, "a new one for each answer"),
}


def with_number(settings: AnswerSettings, name: str, text: str) -> AnswerSettings:
    """Raises `ConfigError` for what is no such setting, or no value of it."""
    if name not in NUMBERS:
        raise ConfigError(f"{name[:32]!r} is no setting; these are: {', '.join((*NUMBERS, 'system'))}")
    if text.lower() in _NOTHING:
        return _replaced(settings, name, None)
    rule = NUMBERS[name]
    try:
        value = rule.kind(text)
    except ValueError:
        value = None
    if value is None or not rule.least <= value <= rule.most:
        kind = "a whole number" if rule.kind is int else "a number"
        raise ConfigError(f"{name} is {kind} from {rule.least:g} to {rule.most:g}, or default")
    return _replaced(settings, name, value)


def _replaced(settings: AnswerSettings, name: str, value: float | None) -> AnswerSettings:
    changes: dict[str, Any] = {name: value}
    return replace(settings, **changes)


def shown(settings: AnswerSettings, system: str | None) -> dict[str, str]:
    """Every setting and its value."""
    rows = {}
    for name, rule in NUMBERS.items():
        value = getattr(settings, name)
        rows[name] = f"default ({rule.default})" if value is None else str(value)
    return {**rows, "system": "none" if system is None else system}


def with_strategy(settings: AnswerSettings, words: Sequence[str]) -> AnswerSettings:
    """`NAME [WINDOW [KEEP_FIRST]]`, or `default`. Whether the sizes can be, the model knows. Raises `ConfigError`."""
    name, *sizes = words
    if name in _NOTHING:
        return replace(settings, cache=None)
    if name not in STRATEGIES:
        raise ConfigError(f"{name[:32]!r} is no strategy; these are: {', '.join(STRATEGIES)}, default")
    if len(sizes) > 2 or not all(size.isascii() and size.isdigit() for size in sizes):
        raise ConfigError("a strategy is followed by the size of its window in tokens, and how many first tokens stay")
    named = dict(zip(("window_size", "keep_first"), map(int, sizes), strict=False))
    try:
        return replace(settings, cache=CacheField.model_validate({"strategy": name, **named}))
    except ValidationError as error:
        raise ConfigError(error.errors()[0]["msg"]) from None
