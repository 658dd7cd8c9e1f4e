"""LFM2: `<|tool_call_start|>[f(a=1, b="x"), g()]<|tool_call_end|>`: a list of Python calls with named literals."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transom.llm.chat_events import ArgumentsPiece, CallEnd, CallStart, ChatEvent
from transom.llm.tool_parsers.call_grammar import arguments_schema, json_rule, literal
from transom.llm.tool_parsers.content_spacing import ContentSpacing
from transom.llm.tool_parsers.marks import MarkFinder
from transom.llm.tool_parsers.tool_format import CallParser, Function, Mark, ToolFormat

_OPENING, _CLOSING = "<|tool_call_start|>", "<|tool_call_end|>"
_MAX_LIST = 2**16
"""Characters of a list of calls."""


class PythonicFormat(ToolFormat):
    """Python between a pair of marks."""

    name = "pythonic"
    special_tokens = (_OPENING, _CLOSING)

    def parser(self, names: Collection[str]) -> CallParser:
        return PythonicCalls(names)

    def grammar(self, functions: Sequence[Function], mark: Mark, *, parallel: bool) -> str:
        more = f"({literal(', ')} call)*" if parallel else ""
        rules = [f'calls: {mark(_OPENING)} "[" call {more} "]" {mark(_CLOSING)}']
        rules.append(f"call: {' | '.join(f'call_{index}' for index in range(len(functions)))}")
        for index, function in enumerate(functions):
            rules += _call_rules(index, function)
        return "\n".join(rules)


def _call_rules(index: int, function: Function) -> list[str]:
    """Properties in their order, those that are not required or left out; the comma depends on what came before.

    `first_I_N` is the rest of the arguments from the Nth on when none was written yet, `more_I_N` when one was.
    """
    schema = arguments_schema(function)
    properties, required = schema.get("properties", {}), schema.get("required", ())
    rules = [f'call_{index}: {literal(f"{function.name}(")} first_{index}_0 ")"']
    for number, (name, value) in enumerate(properties.items()):
        item, next_first, more = (
            f"argument_{index}_{number}",
            f"first_{index}_{number + 1}",
            f"more_{index}_{number + 1}",
        )
        rules.append(f"first_{index}_{number}: {item} {more}{'' if name in required else f' | {next_first}'}")
        rules.append(f"more_{index}_{number}: {literal(', ')} {item} {more}{'' if name in required else f' | {more}'}")
        rules.append(f"{item}: {literal(f'{name}=')} {json_rule({**_definitions(schema), **_as_object(value)})}")
    last = len(properties)
    return [*rules, f'first_{index}_{last}: ""', f'more_{index}_{last}: ""']


def _definitions(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What the properties of a schema may refer to."""
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}


def _as_object(schema: Any) -> dict[str, Any]:
    return schema if isinstance(schema, dict) else {}


class PythonicCalls:
    """Text outside is content. Calls are told when their list is complete: Python cannot be read in pieces."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._outside, self._inside = MarkFinder((_OPENING,)), MarkFinder((_CLOSING,))
        self._content = ContentSpacing()
        self._list: list[str] | None = None
        self._length = 0
        self._held = ""

    def feed(self, text: str) -> list[ChatEvent]:
        """What is certain after more text."""
        events: list[ChatEvent] = []
        rest, self._held = self._held + text, ""
        while rest:
            finder = self._outside if self._list is None else self._inside
            before, mark, behind = finder.split(rest)
            if self._list is None:
                events += self._content.add(before)
            else:
                self._take(before, events)
            if mark is None:
                self._held = behind
                break
            rest = behind
            if mark == _OPENING:
                self._list, self._length = [], 0
            elif self._list is not None:
                events += self._told("".join(self._list), mark)
                self._list = None
        return events

    def finish(self) -> list[ChatEvent]:
        """What is left at the end of the text. A list without its end counts if it is one."""
        events = self._content.add(self._held) if self._list is None else self._told("".join(self._list), self._held)
        self._list, self._held = None, ""
        return [*events, *self._content.finish()]

    def _take(self, text: str, events: list[ChatEvent]) -> None:
        """More of the list; one that is too long is text."""
        assert self._list is not None
        self._list.append(text)
        self._length += len(text)
        if self._length > _MAX_LIST:
            events += self._content.add(_OPENING + "".join(self._list))
            self._list = None

    def _told(self, listed: str, closing: str) -> list[ChatEvent]:
        calls = read_calls(listed)
        if not calls or any(name not in self._names for name, _ in calls):
            return self._content.add(_OPENING + listed + closing)
        self._content.called()
        return [event for name, text in calls for event in (CallStart(name), ArgumentsPiece(text), CallEnd())]


def read_calls(text: str) -> list[tuple[str, str]] | None:
    """(name, arguments as JSON) of each call in a list of Python, or a single call; None if it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escape sequences
            tree = ast.parse(text.strip(), mode="eval").body
        calls = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
        return [_read_call(call) for call in calls]
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _read_call(call: ast.expr) -> tuple[str, str]:
    if not isinstance(call, ast.Call) or call.args:
        raise ValueError("not a call with named arguments")
    arguments = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ValueError("a call with unpacked arguments")
        arguments[keyword.arg] = _read_value(keyword.value)
    return ast.unparse(call.func), json.dumps(arguments, ensure_ascii=False, allow_nan=False)


def _read_value(value: ast.expr) -> Any:
    """A literal of Python, or of JSON."""
    match value:
        case ast.Constant(value=str() | int() | float() | None as constant):
            return constant
        case ast.Name(id="true" | "false" | "null" as name):
            return {"true": True, "false": False, "null": None}[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_read_value(item) for item in items]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {str(_read_value(key)): _read_value(item) for key, item in zip(keys, values, strict=True) if key}
    raise ValueError("not a literal")
