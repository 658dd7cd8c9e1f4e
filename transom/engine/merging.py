"""Outputs of one request, merged when the reader is slower than the engine. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from transom.request import RequestOutput, TokenLogprobs


def merge(earlier: RequestOutput, later: RequestOutput) -> RequestOutput:
    """One output that says what the two say; both are of the same request, and only `later` may be final."""
    return replace(
        later,
        token_ids=earlier.token_ids + later.token_ids,
        logprobs=_joined(earlier.logprobs, later.logprobs),
        prompt_logprobs=later.prompt_logprobs if earlier.prompt_logprobs is None else earlier.prompt_logprobs,
        queue_seconds=later.queue_seconds if earlier.queue_seconds is None else earlier.queue_seconds,
        usage=earlier.usage if later.usage is None else later.usage,
        num_computed_tokens=max(earlier.num_computed_tokens, later.num_computed_tokens),
    )


def merge_all(outputs: Iterable[RequestOutput]) -> dict[str, RequestOutput]:
    """One output per request, in the order of their first appearance."""
    merged: dict[str, RequestOutput] = {}
    for output in outputs:
        known = merged.get(output.request_id)
        merged[output.request_id] = output if known is None else merge(known, output)
    return merged


def _joined(
    earlier: tuple[TokenLogprobs, ...] | None, later: tuple[TokenLogprobs, ...] | None
) -> tuple[TokenLogprobs, ...] | None:
    return later if earlier is None else earlier + (later or ())
