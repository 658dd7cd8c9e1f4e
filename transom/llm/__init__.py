"""Room 9: from text to text. Templates, stop strings, incremental detokenization, the context check. Knows no HTTP."""

from __future__ import annotations

from transom.llm.feeding import Allowance, feed
from transom.llm.generation_request import GenerationRequest, RivalToken, TextDelta, TokenDetail
from transom.llm.llm import LLM, TEMPLATE_VARIABLES, TokenGenerator
from transom.llm.sequences import Completion, best, collect, join, repeat
from transom.llm.stop_strings import StopStringScanner
from transom.llm.text_stream import TextStream
from transom.llm.token_text import completion_token_text, token_text

__all__ = [
    "LLM",
    "TEMPLATE_VARIABLES",
    "Allowance",
    "Completion",
    "GenerationRequest",
    "RivalToken",
    "StopStringScanner",
    "TextDelta",
    "TextStream",
    "TokenDetail",
    "TokenGenerator",
    "best",
    "collect",
    "completion_token_text",
    "feed",
    "join",
    "repeat",
    "token_text",
]
