"""The words both routes use for a sequence: how it ended, its log probabilities, what was used."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from transom.llm import Completion, TextDelta, TokenDetail, completion_token_text, token_text
from transom.request import FinishReason, Usage
from transom.server.plan import Limit

SYSTEM_FINGERPRINT = f"transom-{version('transom')}"
IMPOSSIBLE_LOGPROB = -9999.0
"""JSON has no minus infinity."""

Piece = TextDelta | Completion
"""A sequence, in part or as a whole."""


def finish_fields(piece: Piece, limit: Limit) -> dict[str, Any]:
    """`finish_reason` and what explains it; null until the end."""
    if piece.finish_reason is None:
        return {"finish_reason": None}
    fields: dict[str, Any] = {"finish_reason": piece.finish_reason.value, "stop_reason": piece.stop_reason}
    if piece.finish_reason is FinishReason.LENGTH:
        fields["length_cause"] = limit.length_cause
    return fields


def usage_fields(usage: Usage, num_reasoning_tokens: int = 0) -> dict[str, Any]:
    """The `usage` object."""
    return {
        "prompt_tokens": usage.num_prompt_tokens,
        "completion_tokens": usage.num_completion_tokens,
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
        "prompt_tokens_details": _prompt_details(usage),
        "completion_tokens_details": {"reasoning_tokens": num_reasoning_tokens},
    }


def _prompt_details(usage: Usage) -> dict[str, int]:
    """`evicted_tokens` is there whenever the cache strategy may forget: then its 0 says something, too."""
    details = {"cached_tokens": usage.num_cached_tokens, "cache_write_tokens": usage.num_cache_write_tokens}
    return {**details, "evicted_tokens": usage.num_evicted_tokens} if usage.is_lossy else details


def completion_logprobs(tokens: Sequence[TokenDetail], count: int, *, as_ids: bool) -> dict[str, Any]:
    """`logprobs` of a completion: parallel lists. The chosen token is always among its `count` rivals."""
    return {
        "tokens": [_completion_text(token.token_id, token.token_bytes, as_ids) for token in tokens],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [_rivals_by_text(token, count, as_ids) for token in tokens],
        "text_offset": [token.text_offset for token in tokens],
    }


def prompt_logprobs_fields(piece: Piece, count: int | None, *, as_ids: bool) -> dict[str, Any]:
    """vLLM's `prompt_logprobs`: for each token of the prompt the `count` likeliest ones and itself, by token id.
    Nothing where nobody asked, or in a piece without them."""
    if count is None or piece.prompt_logprobs is None:
        return {}
    tokens = piece.prompt_logprobs
    return {"prompt_logprobs": [None if token.logprob is None else _ranked(token, count, as_ids) for token in tokens]}


def _ranked(token: TokenDetail, count: int, as_ids: bool) -> dict[str, Any]:
    best = [(rival.token_id, rival.token_bytes, rival.logprob, rank) for rank, rival in enumerate(token.top[:count], 1)]
    itself = (token.token_id, token.token_bytes, token.logprob, token.rank)
    return {
        str(token_id): {
            "logprob": _finite(logprob),
            "rank": rank,
            "decoded_token": _completion_text(token_id, token_bytes, as_ids),
        }
        for token_id, token_bytes, logprob, rank in [*best, itself]
    }


def chat_logprobs(tokens: Sequence[TokenDetail], *, as_ids: bool) -> dict[str, Any]:
    """`logprobs` of a chat choice."""
    content = [
        _chat_token(token.token_id, token.token_bytes, token.logprob, as_ids)
        | {"top_logprobs": [_chat_token(r.token_id, r.token_bytes, r.logprob, as_ids) for r in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _rivals_by_text(token: TokenDetail, count: int, as_ids: bool) -> dict[str, float | None] | None:
    if token.logprob is None:
        return None
    rivals = {_completion_text(r.token_id, r.token_bytes, as_ids): _finite(r.logprob) for r in token.top[:count]}
    return {**rivals, _completion_text(token.token_id, token.token_bytes, as_ids): _finite(token.logprob)}


def _chat_token(token_id: int, token_bytes: bytes, logprob: float | None, as_ids: bool) -> dict[str, Any]:
    text = f"token_id:{token_id}" if as_ids else token_text(token_bytes)
    return {"token": text, "bytes": list(token_bytes), "logprob": _finite(logprob)}


def _completion_text(token_id: int, token_bytes: bytes, as_ids: bool) -> str:
    """The token's text; bytes that are no whole character are spelled out."""
    return f"token_id:{token_id}" if as_ids else completion_token_text(token_bytes)


def _finite(logprob: float | None) -> float | None:
    """None stays None: nothing was asked of that token."""
    return None if logprob is None else max(logprob, IMPOSSIBLE_LOGPROB)
