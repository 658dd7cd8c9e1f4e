"""Pieces of Lark, as `llguidance` extends it, from which the formats make their grammars."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transom.grammar.structure import JSON_OPTIONS
from transom.llm.tool_parsers.tool_format import Function

_PLACE = re.compile(r"at (\d+)\(\d+\): (?:failed to compile JSON schema: )?")
"""How `llguidance` says where in a grammar something is wrong: line (column)."""
_INDEXED_RULE = re.compile(r"[a-z]+_(\d+)")
"""Rules of one function have its index in their names, in all formats."""


def literal(text: str) -> str:
    """A text in quotes."""
    return json.dumps(text, ensure_ascii=False)


def json_rule(schema: Mapping[str, Any]) -> str:
    """JSON of a schema."""
    return f"%json {json.dumps({**schema, 'x-guidance': JSON_OPTIONS}, ensure_ascii=False)}"


def arguments_schema(function: Function, path: str = "#") -> dict[str, Any]:
    """The schema of a function's arguments, always an object; its references hold where it is at `path` of another."""
    schema = {"type": "object", **function.parameters}
    return _moved(schema, path) if path != "#" else schema


def call_object(function: Function, arguments_key: str) -> str:
    """`{"name": ..., "arguments": {...}}`."""
    schema = {
        "type": "object",
        "properties": {
            "name": {"const": function.name},
            arguments_key: arguments_schema(function, f"#/properties/{arguments_key}"),
        },
        "required": ["name", arguments_key],
        "additionalProperties": False,
    }
    return json_rule(schema)


def _moved(value: Any, path: str) -> Any:
    """`value` with its references to itself beginning at `path`."""
    if isinstance(value, dict):
        return {
            key: path + item[1:]
            if key == "$ref" and isinstance(item, str) and item.startswith("#")
            else _moved(item, path)
            for key, item in value.items()
        }
    return [_moved(item, path) for item in value] if isinstance(value, list) else value


def list_of_objects(functions: Sequence[Function], arguments_key: str, *, parallel: bool) -> str:
    """Rules for `list`: `[{"name": ..., ...}, ...]`."""
    more = f"({literal(', ')} object)*" if parallel else ""
    return "\n".join([f'list: "[" object {more} "]"', *objects(functions, arguments_key)])


def objects(functions: Sequence[Function], arguments_key: str) -> list[str]:
    """Rules for `object`: a call of one of the functions."""
    return [
        f"object: {' | '.join(f'object_{index}' for index in range(len(functions)))}",
        *(f"object_{index}: {call_object(function, arguments_key)}" for index, function in enumerate(functions)),
    ]


def said_of_function(message: str, grammar: str, functions: Sequence[Function]) -> str:
    """What was found wrong at a line of `grammar`, said of the function whose rule that is; else as it was."""
    place = _PLACE.search(message)
    lines = grammar.split("\n")
    if place is None or not 1 <= int(place[1]) <= len(lines):
        return message
    rule = _INDEXED_RULE.match(lines[int(place[1]) - 1])
    if rule is None or int(rule[1]) >= len(functions):
        return message
    subject = f"the parameters of the function '{functions[int(rule[1])].name}': "
    return message[: place.start()] + subject + message[place.end() :]
