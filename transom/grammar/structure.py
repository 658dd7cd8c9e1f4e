"""`Structure`: a prescribed form as callers say it, with the bounds that are checked before anybody works on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

JSON_OPTIONS: dict[str, Any] = {
    "whitespace_pattern": r" |\r?\n[ \t]{0,32}",  # without a bound some models never stop
    "coerce_one_of": False,
    "lenient": False,
}
"""How `llguidance` is to read schemas."""

MAX_SOURCE_BYTES = 64 * 1024
MAX_DEPTH = 32


class StructureKind(StrEnum):
    """What `Structure.source` is."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    """A JSON list of texts."""
    GRAMMAR = "grammar"
    """Lark, as `llguidance` extends it, or GBNF."""


@dataclass(frozen=True, slots=True)
class Structure:
    """The form that a text must have."""

    kind: StructureKind
    source: str
    preamble: str = ""
    """Rules of Lark, the first of them `preamble`: what comes before it."""

    @classmethod
    def json_schema(cls, schema: Any) -> Structure:
        """A JSON text that satisfies `schema`, an object or a boolean. Raises ValueError beyond the bounds."""
        if not isinstance(schema, dict | bool):
            raise ValueError("a JSON schema is an object")
        if schema is False:
            raise ValueError("nothing satisfies the schema false")
        if _depth(schema) > MAX_DEPTH:
            raise ValueError(f"the schema is nested deeper than {MAX_DEPTH} levels")
        schema = {} if schema is True else schema
        return _bounded(cls(StructureKind.JSON_SCHEMA, json.dumps(schema, ensure_ascii=False)))

    @classmethod
    def json_object(cls) -> Structure:
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def regex(cls, pattern: str) -> Structure:
        """A text that `pattern` matches as a whole. Raises ValueError beyond the bounds."""
        return _bounded(cls(StructureKind.REGEX, pattern))

    @classmethod
    def choice(cls, choices: Sequence[str]) -> Structure:
        """One of the texts. Raises ValueError beyond the bounds."""
        if not choices or not all(choices):
            raise ValueError("there must be choices, none of them empty")
        return _bounded(cls(StructureKind.CHOICE, json.dumps(list(choices), ensure_ascii=False)))

    def after(self, preamble: str) -> Structure:
        """The same behind something else."""
        return replace(self, preamble=preamble)

    @classmethod
    def grammar(cls, source: str) -> Structure:
        """A text that a Lark or GBNF grammar describes. Raises ValueError beyond the bounds."""
        return _bounded(cls(StructureKind.GRAMMAR, source))


def _bounded(structure: Structure) -> Structure:
    size = len(structure.source.encode("utf-8", "surrogatepass"))
    if size > MAX_SOURCE_BYTES:
        raise ValueError(f"it has {size} bytes; {MAX_SOURCE_BYTES} are allowed")
    return structure


def _depth(value: Any) -> int:
    """Levels of objects and lists; without recursion, for it is not yet known how deep they go."""
    deepest, level = 0, [value]
    while containers := [item for item in level if isinstance(item, dict | list)]:
        deepest += 1
        level = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
    return deepest
