"""POST /v1/completions: prompts as texts or token ids, continued."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from transom.llm import Completion, TextDelta, best
from transom.registry import ServedModel
from transom.request import TokenIds
from transom.server.answering import answer, progress_fields, timing_fields
from transom.server.cache_field import cache_options
from transom.server.choices import (
    SYSTEM_FINGERPRINT,
    Piece,
    completion_logprobs,
    finish_fields,
    prompt_logprobs_fields,
    usage_fields,
)
from transom.server.context import ServerContext
from transom.server.gate import Gate
from transom.server.json_body import read_body
from transom.server.plan import Plan, limit_tokens, make_plan
from transom.server.prompts import encode_prompt
from transom.server.protocol import CompletionBody
from transom.server.request_record import record_of
from transom.server.structure_fields import compile_prescribed
from transom.server.tally import Tally, run_plan, run_to_end

DEFAULT_MAX_TOKENS = 16


def completions_router(context: ServerContext) -> APIRouter:
    """The route under both of its paths."""
    router = APIRouter()

    async def create_completion(request: Request) -> Response:
        context.check_room(request)
        served, body = await _read(context, request)
        context.check_prompt_logprobs(body.prompt_logprobs)
        gate = context.gate(served, request)
        await context.until_limits_are_known(served, request)
        plan = await _make_plan(served, body, gate, context.settings.max_output_tokens)
        tally = Tally(plan, context.metrics, record_of(request))
        return await answer(_Completion(served, body, plan, tally, gate), request, context)

    for path in ("/v1/completions", "/completions"):
        router.add_api_route(path, create_completion, methods=["POST"], response_model=None)
    return router


@dataclass(frozen=True, slots=True)
class _Completion:
    """One answer in OpenAI's words."""

    served: ServedModel
    body: CompletionBody
    plan: Plan
    tally: Tally
    gate: Gate

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        completions = await run_to_end(self.plan, self.gate, self.tally)
        choices = self._best_choices(completions)
        return self._envelope(choices, usage=usage_fields(self.tally.usage()), **self._timings())

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The answer in pieces of the same shape."""
        begun: set[int] = set()
        async with aclosing(run_plan(self.plan, self.gate, self.tally)) as deltas:
            async for sequence, delta in deltas:
                if delta.token_ids or delta.text or delta.finish_reason:
                    yield self._chunk(sequence, delta, is_first=sequence not in begun)
                    begun.add(sequence)
                elif self.body.return_progress:
                    yield self._envelope([], **self._running_usage(), **self._progress(sequence, delta))
        if self.body.include_usage:
            yield self._envelope([], usage=usage_fields(self.tally.usage()))

    def _chunk(self, sequence: int, delta: TextDelta, *, is_first: bool) -> dict[str, Any]:
        choice = self._choice(sequence, self.plan.prompt_of(sequence), delta)
        if not is_first:
            choice.pop("prompt_token_ids", None)
        return self._envelope([choice], **self._running_usage(), **self._timings())

    def _timings(self) -> dict[str, Any]:
        return timing_fields(self.tally) if self.body.timings_per_token else {}

    def _progress(self, sequence: int, delta: TextDelta) -> dict[str, Any]:
        return progress_fields(self.plan, self.tally, sequence, delta)

    def _running_usage(self) -> dict[str, Any]:
        if not self.body.include_usage:
            return {}
        return {"usage": usage_fields(self.tally.usage()) if self.body.continuous_usage else None}

    def _envelope(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.plan.id,
            "object": "text_completion",
            "created": self.plan.created,
            "model": self.plan.model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
            "choices": choices,
            **more,
        }

    def _best_choices(self, completions: list[Completion]) -> list[dict[str, Any]]:
        """The n best candidates of each prompt, best first; all of them in order when n are all."""
        kept: list[dict[str, Any]] = []
        for prompt in range(len(self.plan.prompts)):
            first = prompt * self.plan.num_candidates
            candidates = completions[first : first + self.plan.num_candidates]
            if self.body.n < len(candidates):
                candidates = best(candidates, self.body.n)
            kept += [self._choice(len(kept) + j, prompt, candidate) for j, candidate in enumerate(candidates)]
        return kept

    def _choice(self, index: int, prompt: int, piece: Piece) -> dict[str, Any]:
        fields = {
            "index": index,
            "text": piece.text,
            "logprobs": self._logprobs(piece),
            **finish_fields(piece, self.plan.limits[prompt]),
        }
        if self.body.return_token_ids:
            fields["token_ids"] = list(piece.token_ids)
            fields["prompt_token_ids"] = list(self.plan.prompts[prompt])
        as_ids = self.body.return_tokens_as_token_ids
        return fields | prompt_logprobs_fields(piece, self.body.prompt_logprobs, as_ids=as_ids)

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        if self.body.logprobs is None:
            return None
        echoed = (piece.prompt_logprobs or ()) if self.body.echo else ()
        tokens = [*echoed, *(piece.logprobs or ())]
        return completion_logprobs(tokens, self.body.logprobs, as_ids=self.body.return_tokens_as_token_ids)


async def _read(context: ServerContext, request: Request) -> tuple[ServedModel, CompletionBody]:
    """Nothing of the raw body outlives this: as lists of numbers its prompts take ten times the memory they need."""

    def parse(raw: dict[str, Any]) -> CompletionBody:
        return CompletionBody.parse(raw, allow_unknown_fields=context.settings.allow_unknown_fields)

    body = await read_body(request, context.large_bodies, parse)
    return context.find_model({"model": body.model}, request), body


async def _make_plan(served: ServedModel, body: CompletionBody, gate: Gate, cap: int | None) -> Plan:
    prompts = await asyncio.to_thread(_encode_all, served, body)
    cache, given = cache_options(served, body.cache), body.given_max_tokens
    most = gate.max_request_tokens(cache)
    limits = [
        limit_tokens(served, len(prompt), given, param="prompt", most=most, default=DEFAULT_MAX_TOKENS, cap=cap)
        for prompt in prompts
    ]
    is_ranked = body.num_candidates > body.n
    return make_plan(
        served,
        body,
        prompts,
        limits,
        caller=gate.caller,
        cache=cache,
        grammar=await compile_prescribed(served, body.prescribed()),
        id_prefix="cmpl",
        num_candidates=body.num_candidates,
        logprobs=0 if is_ranked and body.logprobs is None else body.logprobs,
        prompt_logprobs=_most(body.prompt_logprobs, body.logprobs if body.echo else None),
        echo=body.echo,
        end_token_ids=served.llm.fill_in_middle.end_ids if body.suffix and served.llm.fill_in_middle else (),
    )


def _most(*counts: int | None) -> int | None:
    return max((count for count in counts if count is not None), default=None)


def _encode_all(served: ServedModel, body: CompletionBody) -> list[TokenIds]:
    """Blocks for as long as the texts are long."""
    return [_encode(served, body, prompt) for prompt in body.prompts]


def _encode(served: ServedModel, body: CompletionBody, prompt: str | TokenIds) -> TokenIds:
    if not body.suffix:
        return encode_prompt(served, prompt, "prompt", add_special_tokens=body.add_special_tokens)
    if not isinstance(prompt, str):
        served.llm.check_token_ids(prompt, "prompt")
    return TokenIds(served.llm.encode_middle(prompt, body.suffix, add_special_tokens=body.add_special_tokens))
