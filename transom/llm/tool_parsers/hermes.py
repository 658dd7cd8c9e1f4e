"""Hermes 2 Pro, Qwen 2.5, Qwen 3 and many others: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from transom.llm.tool_parsers.call_grammar import literal, objects
from transom.llm.tool_parsers.marked_calls import MarkedCalls, Markup
from transom.llm.tool_parsers.tool_format import CallParser, Function, Mark, ToolFormat

_MARKUP = Markup(opening=("<tool_call>",), closing="</tool_call>", several=False)


class HermesFormat(ToolFormat):
    """One object between a pair of marks for each call."""

    name = "hermes"
    special_tokens = ("<tool_call>", "</tool_call>")

    def parser(self, names: Collection[str]) -> CallParser:
        return MarkedCalls(_MARKUP, names)

    def grammar(self, functions: Sequence[Function], mark: Mark, *, parallel: bool) -> str:
        opening, closing, line = mark("<tool_call>"), mark("</tool_call>"), literal("\n")
        rules = [f"calls: call ({line} call)*" if parallel else "calls: call"]
        rules.append(f"call: {opening} {line} object {line} {closing}")
        return "\n".join([*rules, *objects(functions, "arguments")])
