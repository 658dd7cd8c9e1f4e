"""Mistral: `[TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]`; newer ones `[TOOL_CALLS]name[ARGS]{...}`."""

from __future__ import annotations

import secrets
import string
from collections.abc import Collection, Sequence

from transom.llm.tool_parsers.call_grammar import arguments_schema, json_rule, list_of_objects, literal
from transom.llm.tool_parsers.marked_calls import MarkedCalls, Markup
from transom.llm.tool_parsers.named_calls import NamedCalls
from transom.llm.tool_parsers.tool_format import CallParser, Function, Mark, ToolFormat

_CALLS, _ARGUMENTS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_MARKUP = Markup(opening=(_CALLS,))
_ALPHABET = string.ascii_letters + string.digits


class MistralFormat(ToolFormat):
    """A list behind the mark."""

    name = "mistral"
    special_tokens: tuple[str, ...] = (_CALLS,)

    def parser(self, names: Collection[str]) -> CallParser:
        return MarkedCalls(_MARKUP, names)

    def grammar(self, functions: Sequence[Function], mark: Mark, *, parallel: bool) -> str:
        rules = list_of_objects(functions, "arguments", parallel=parallel)
        return f"calls: {mark(_CALLS)} {literal(' ')}? list\n{rules}"

    def call_id(self) -> str:
        """Nine letters and digits: its templates insist on it."""
        return "".join(secrets.choice(_ALPHABET) for _ in range(9))


class MistralNamedFormat(MistralFormat):
    """The name behind the mark, then the arguments alone."""

    name = "mistral_named"
    special_tokens = (_CALLS, _ARGUMENTS, _ID)

    def parser(self, names: Collection[str]) -> CallParser:
        return NamedCalls(_CALLS, _ARGUMENTS, _ID, names)

    def grammar(self, functions: Sequence[Function], mark: Mark, *, parallel: bool) -> str:
        rules = ["calls: call+" if parallel else "calls: call"]
        rules.append(f"call: {' | '.join(f'call_{index}' for index in range(len(functions)))}")
        for index, function in enumerate(functions):
            rules.append(f"call_{index}: {mark(_CALLS)} {literal(function.name)} {mark(_ARGUMENTS)} arguments_{index}")
            rules.append(f"arguments_{index}: {json_rule(arguments_schema(function))}")
        return "\n".join(rules)
