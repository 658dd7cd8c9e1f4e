"""How models write function calls, one file per format, and which of them a model writes."""

from __future__ import annotations

import re

from transom.llm.tool_parsers.generic import GenericFormat, tell_in_words
from transom.llm.tool_parsers.hermes import HermesFormat
from transom.llm.tool_parsers.hunyuan import HunyuanFormat
from transom.llm.tool_parsers.llama3 import Llama3Format
from transom.llm.tool_parsers.mistral import MistralFormat, MistralNamedFormat
from transom.llm.tool_parsers.pythonic import PythonicFormat
from transom.llm.tool_parsers.tool_format import CallParser, Function, Mark, ToolFormat

__all__ = ["FORMATS", "CallParser", "Function", "Mark", "ToolFormat", "find_format", "knows_tools", "tell_in_words"]

FORMATS: dict[str, ToolFormat] = {
    tool_format.name: tool_format
    for tool_format in (
        HermesFormat(),
        HunyuanFormat(),
        Llama3Format(),
        MistralFormat(),
        MistralNamedFormat(),
        PythonicFormat(),
        GenericFormat(),
    )
}
"""By their names in the registry file."""

_SIGNS = (
    ("<|tool_call_start|>", "pythonic"),
    ("<|tool_list_start|>", "pythonic"),
    ("[ARGS]", "mistral_named"),
    ("[TOOL_CALLS]", "mistral"),
    ("<tool_calls>", "hunyuan"),
    ("<tool_call>", "hermes"),
    ("<|python_tag|>", "llama3_json"),
    ("Environment: ipython", "llama3_json"),
)


def find_format(template: str) -> ToolFormat:
    """The format that a chat template was written for, by the marks in it; the generic one if it has none."""
    return FORMATS[next((name for sign, name in _SIGNS if sign in template), GenericFormat.name)]


def knows_tools(template: str) -> bool:
    """Whether a chat template tells the model of its tools."""
    return re.search(r"\btools\b", template) is not None
