"""What is asked of `LLM` and what comes back, as plain data. Text and tokens; no HTTP, no JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transom.llm.chat_format import AnswerParser
from transom.request import FinishReason, Request, Usage


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to be generated, and how its text is made from the tokens."""

    request: Request
    stop: tuple[str, ...] = ()
    """Stop strings, none empty. The text ends where the first of them is complete."""
    include_stop_str_in_output: bool = False
    """The text ends with the stop string (or stop token) instead of before it."""
    skip_special_tokens: bool = True
    shown_tokens: frozenset[str] = frozenset()
    """Special tokens that show in the text nevertheless."""
    echo: bool = False
    """The text starts with the prompt's."""
    new_call_reader: Callable[[], AnswerParser] | None = None
    """Where given, the text ends where its reader has read a complete call."""


@dataclass(frozen=True, slots=True)
class RivalToken:
    """One of the most likely tokens at a position."""

    token_id: int
    token_bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenDetail:
    """A token of the prompt or of the output with its log probability and place in the text."""

    token_id: int
    token_bytes: bytes
    """What the token alone stands for; may be a part of a UTF-8 character."""
    logprob: float | None
    """None for the first token of a prompt: nothing precedes it."""
    text_offset: int
    """Characters of the text (of the prompt too, with `echo`) before this token's first one."""
    top: tuple[RivalToken, ...] = ()
    """Best first."""
    rank: int | None = None
    """Among all of the vocabulary, 1 is the most likely; only for tokens of the prompt."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What is new in one sequence. Texts of all deltas joined are the whole text."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    """New tokens, also those whose text is still held back."""
    text_offsets: tuple[int, ...] = ()
    """For each new token the characters of the text (of the prompt too, with `echo`) before its first one."""
    logprobs: tuple[TokenDetail, ...] | None = None
    """One per new token, when asked for."""
    prompt_logprobs: tuple[TokenDetail, ...] | None = None
    """One per prompt token, once, when asked for."""
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    """The stop string, or the request's stop token; None after an end-of-sequence token of the model."""
    usage: Usage | None = None
    """Present with `finish_reason`."""
    num_computed_tokens: int = 0
    """Progress of prefill, in tokens; deltas without text and tokens carry nothing else."""
    queue_seconds: float | None = None
    """How long the sequence waited for its first step; in its first delta alone."""
    vector: tuple[float, ...] | None = None
    """With `finish_reason`, where the request asks for one and for no text; not normalised."""
