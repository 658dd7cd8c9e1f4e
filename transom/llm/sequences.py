"""Several sequences from one request: `n` and `best_of`. Knows no engine: works on streams of deltas."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from transom.llm.generation_request import GenerationRequest, TextDelta, TokenDetail
from transom.request import FinishReason, Usage


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole sequence: all its deltas in one."""

    text: str
    token_ids: tuple[int, ...]
    text_offsets: tuple[int, ...]
    logprobs: tuple[TokenDetail, ...] | None
    prompt_logprobs: tuple[TokenDetail, ...] | None
    finish_reason: FinishReason
    stop_reason: str | int | None
    usage: Usage
    vector: tuple[float, ...] | None = None

    @property
    def mean_logprob(self) -> float:
        """Total log probability per token, what `best_of` ranks by; needs the log probabilities."""
        logprobs = [detail.logprob for detail in self.logprobs or () if detail.logprob is not None]
        return sum(logprobs) / len(logprobs) if logprobs else float("-inf")


def repeat(request: GenerationRequest, count: int) -> list[GenerationRequest]:
    """`count` requests that differ in id and, where seeded, in seed: `seed + i`, as a signed 64-bit number."""
    return [_repetition(request, index) for index in range(count)]


def best(completions: Sequence[Completion], count: int) -> list[Completion]:
    """The `count` completions with the highest log probability per token, best first; of equals the earlier."""
    return sorted(completions, key=lambda completion: -completion.mean_logprob)[:count]


async def collect(deltas: AsyncIterator[TextDelta]) -> Completion:
    """Waits for the end of a sequence."""
    return join([delta async for delta in deltas])


def join(deltas: Sequence[TextDelta]) -> Completion:
    """All deltas of one sequence, the last one with `finish_reason` and `usage`, as one."""
    last = deltas[-1]
    assert last.finish_reason is not None
    assert last.usage is not None
    scored = [delta.logprobs for delta in deltas if delta.logprobs is not None]
    return Completion(
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
        text_offsets=tuple(offset for delta in deltas for offset in delta.text_offsets),
        logprobs=tuple(detail for details in scored for detail in details) if scored else None,
        prompt_logprobs=next((delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs is not None), None),
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
        usage=last.usage,
        vector=last.vector,
    )


def _repetition(request: GenerationRequest, index: int) -> GenerationRequest:
    original = request.request
    seed = None if original.sampling.seed is None else _signed_64(original.sampling.seed + index)
    sampling = original.sampling if seed is None else replace(original.sampling, seed=seed)
    renamed = replace(original, request_id=f"{original.request_id}-{index}", sampling=sampling)
    return replace(request, request=renamed)


def _signed_64(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63
