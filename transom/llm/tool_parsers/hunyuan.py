"""HunYuan: `<tool_calls>[{"name": ..., "arguments": {...}}, ...]</tool_calls>`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from transom.llm.tool_parsers.call_grammar import list_of_objects
from transom.llm.tool_parsers.marked_calls import MarkedCalls, Markup
from transom.llm.tool_parsers.tool_format import CallParser, Function, Mark, ToolFormat

_MARKUP = Markup(opening=("<tool_calls>",), closing="</tool_calls>")


class HunyuanFormat(ToolFormat):
    """A list between one pair of marks."""

    name = "hunyuan"
    special_tokens = ("<tool_calls>", "</tool_calls>")

    def parser(self, names: Collection[str]) -> CallParser:
        return MarkedCalls(_MARKUP, names)

    def grammar(self, functions: Sequence[Function], mark: Mark, *, parallel: bool) -> str:
        rules = list_of_objects(functions, "arguments", parallel=parallel)
        return f"calls: {mark('<tool_calls>')} list {mark('</tool_calls>')}\n{rules}"
