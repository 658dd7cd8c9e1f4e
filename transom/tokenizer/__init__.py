"""Room 5b: tokenizer, incremental detokenizer, chat templates. Text in, token ids out, and back. Knows no requests."""

from __future__ import annotations

from transom.tokenizer.chat_template import ChatTemplate, RenderedChat
from transom.tokenizer.detokenizer import Detokenizer
from transom.tokenizer.fill_in_middle import FillInMiddle, encode_inner
from transom.tokenizer.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "Detokenizer", "FillInMiddle", "RenderedChat", "Tokenizer", "encode_inner"]
