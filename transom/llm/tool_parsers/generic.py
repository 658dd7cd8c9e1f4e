"""For templates without a format of their own: the answer is `{"name": ..., "arguments": {...}}`, or a list of these.

A template that does not speak of tools at all is told about them in the conversation itself.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transom.llm.tool_parsers.call_grammar import list_of_objects
from transom.llm.tool_parsers.marked_calls import MarkedCalls, Markup
from transom.llm.tool_parsers.tool_format import CallParser, Function, Mark, ToolFormat

_MARKUP = Markup(opening=("<|tool_call|>", "<tool_call>"), at_start="{[", argument_keys=("arguments", "parameters"))
_INSTRUCTION = (
    "You can call these functions:\n{functions}\n"
    'To call some of them, answer with nothing but a JSON list: [{{"name": NAME, "arguments": {{...}}}}, ...].'
)

Message = Mapping[str, Any]


class GenericFormat(ToolFormat):
    """Calls are the whole answer."""

    name = "json"
    special_tokens = ("<|tool_call|>", "<tool_call>")

    def parser(self, names: Collection[str]) -> CallParser:
        return MarkedCalls(_MARKUP, names)

    def grammar(self, functions: Sequence[Function], _: Mark, *, parallel: bool) -> str:
        return f"calls: list\n{list_of_objects(functions, 'arguments', parallel=parallel)}"


def tell_in_words(messages: Sequence[Message], tools: Sequence[Message] | None) -> list[dict[str, Any]]:
    """The conversation for a template that knows no tools: definitions, calls and results as ordinary messages."""
    told = [_in_words(message) for message in messages]
    if not tools:
        return told
    functions = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    instruction = _INSTRUCTION.format(functions=functions)
    if told and told[0].get("role") in ("system", "developer"):
        first = {**told[0], "content": f"{told[0].get('content') or ''}\n\n{instruction}"}
        return [first, *told[1:]]
    return [{"role": "system", "content": instruction}, *told]


def _in_words(message: Message) -> dict[str, Any]:
    if message.get("role") in ("tool", "function"):
        return {"role": "user", "content": f"Result of the call: {message.get('content') or ''}"}
    if not message.get("tool_calls"):
        return dict(message)
    calls = [
        {"name": call["function"]["name"], "arguments": _parsed(call["function"]["arguments"])}
        for call in message["tool_calls"]
    ]
    content = "\n".join(filter(None, [message.get("content"), json.dumps(calls, ensure_ascii=False)]))
    return {key: value for key, value in message.items() if key != "tool_calls"} | {"content": content}


def _parsed(arguments: Any) -> Any:
    """A call's arguments are JSON in a string; if they are not, they stay a string."""
    try:
        return json.loads(arguments)
    except (TypeError, ValueError, RecursionError):
        return arguments
