"""Llama 3.1 to 3.3: the answer is `{"name": ..., "parameters": {...}}`, perhaps behind `<|python_tag|>`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from transom.llm.tool_parsers.call_grammar import literal, objects
from transom.llm.tool_parsers.marked_calls import MarkedCalls, Markup
from transom.llm.tool_parsers.tool_format import CallParser, Function, Mark, ToolFormat

_MARKUP = Markup(opening=("<|python_tag|>",), at_start="{", argument_keys=("parameters", "arguments"))


class Llama3Format(ToolFormat):
    """Objects at the start of the answer, several with a semicolon between them."""

    name = "llama3_json"
    special_tokens = ("<|python_tag|>",)

    def parser(self, names: Collection[str]) -> CallParser:
        return MarkedCalls(_MARKUP, names)

    def grammar(self, functions: Sequence[Function], _: Mark, *, parallel: bool) -> str:
        rules = [f"calls: object ({literal('; ')} object)*" if parallel else "calls: object"]
        return "\n".join([*rules, *objects(functions, "parameters")])
