"""Settings of the registry file whose feature does not exist yet. A feature that arrives deletes its line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

__all__ = ["OF_AN_ENTRY", "Unsupported", "all_unsupported"]


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A setting that would have no effect, and is therefore refused instead of ignored."""

    key: str
    """Dotted path of attributes below the object the table is for."""
    refused: str
    """Which values, in words."""
    is_used: Callable[[Any], bool]
    """Whether the object asks for it."""
    instead: str
    """What there is."""


OF_AN_ENTRY = (
    Unsupported(
        "tier_config.enable_distributed",
        "true",
        lambda entry: entry.tier_config.enable_distributed,
        "a model runs on one machine",
    ),
)


def all_unsupported(holder: object, table: tuple[Unsupported, ...]) -> Iterator[str]:
    """What to say, on one line each, about the settings of `holder` that would have no effect.

    A text begins with the key, so that a path to the holder can stand before it.
    """
    for line in table:
        if line.is_used(holder):
            value = _shown(attrgetter(line.key)(holder))
            yield f"{line.key} is {value}, which is not supported yet (there is: {line.instead})"


def _shown(value: object) -> str:
    """Scalars as in the file; objects are not repeated."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (str, int, Path)) else "set"
