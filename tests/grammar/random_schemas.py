"""Random JSON schemas of everything that is served, satisfiable, and bounded so that most texts come to an end."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

_WORDS = ("name", "age", "city", "id", "tags", "größe", "is ok", 'a"b', "値", "x" * 20)


def random_schema(seed: int, depth: int = 3) -> Schema:
    """The same one for the same seed."""
    rng = random.Random(seed)
    return {"$defs": {"shared": _any(rng, 0)}, **_any(rng, depth)}


def _any(rng: random.Random, depth: int) -> Schema:
    simple: list[Callable[[random.Random], Schema]] = [
        _string,
        _integer,
        _number,
        _boolean,
        _null,
        _enum,
        _const,
        _format,
    ]
    nested = [_object, _object, _array, _any_of, _all_of, _pair, _tuple]
    return rng.choice(nested)(rng, depth - 1) if depth and rng.random() < 0.7 else rng.choice(simple)(rng)


def _string(rng: random.Random) -> Schema:
    if rng.random() < 0.3:
        return {
            "type": "string",
            "pattern": rng.choice(["^[a-z]{1,6}$", "^(foo|bar)+[0-9]?$", "^\\d{2,4}$", "^x.{0,4}y$"]),
        }
    low = rng.randrange(4)
    return {"type": "string", "minLength": low, "maxLength": low + rng.randrange(12)}


def _integer(rng: random.Random) -> Schema:
    low = rng.randrange(-1000, 1000)
    schema: Schema = {"type": "integer", "minimum": low, "maximum": low + rng.randrange(1, 500)}
    if rng.random() < 0.3:
        schema = {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + 2 + rng.randrange(500)}
    return schema


def _number(rng: random.Random) -> Schema:
    low = rng.randrange(-50, 50)
    return {"type": "number", "minimum": low, "maximum": low + rng.randrange(1, 50)}


def _boolean(_: random.Random) -> Schema:
    return {"type": "boolean"}


def _null(_: random.Random) -> Schema:
    return {"type": ["null", "boolean"]}


def _enum(rng: random.Random) -> Schema:
    return {"enum": rng.sample([1, 2.5, "a", "b\n", True, None, [1, "x"], {"k": 0}], rng.randrange(1, 5))}


def _const(rng: random.Random) -> Schema:
    return {"const": rng.choice(["fixed", 7, [], {"a": [True]}])}


def _format(rng: random.Random) -> Schema:
    return {"type": "string", "format": rng.choice(["date", "uuid", "ipv4"])}


def _object(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(_WORDS, rng.randrange(1, 5))
    required = rng.sample(names, rng.randrange(len(names) + 1))
    schema: Schema = {"type": "object", "properties": {name: _any(rng, depth) for name in names}, "required": required}
    schema["additionalProperties"] = False
    if rng.random() < 0.15:
        return {"type": "object", "additionalProperties": _any(rng, 0), "maxProperties": 2}
    return schema


def _array(rng: random.Random, depth: int) -> Schema:
    low = rng.randrange(3)
    return {"type": "array", "items": _any(rng, depth), "minItems": low, "maxItems": low + rng.randrange(3)}


def _tuple(rng: random.Random, depth: int) -> Schema:
    parts = [_any(rng, depth) for _ in range(rng.randrange(1, 4))]
    return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}


def _any_of(rng: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(rng, depth) for _ in range(rng.randrange(1, 4))]}


def _all_of(rng: random.Random, depth: int) -> Schema:
    first, second = (
        {"type": "object", "properties": {name: _any(rng, depth)}, "required": [name]} for name in ("first", "second")
    )
    return {"allOf": [first, second], "additionalProperties": False, "properties": {"first": True, "second": True}}


def _pair(rng: random.Random, depth: int) -> Schema:
    """An object with the shared definition in it."""
    return {
        "type": "object",
        "properties": {"left": _any(rng, depth), "right": {"$ref": "#/$defs/shared"}},
        "required": ["left", "right"],
        "additionalProperties": False,
    }
