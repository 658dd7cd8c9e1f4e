"""POST /v1/chat/completions: messages, answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from transom.errors import ContextLengthExceededError, RequestError
from transom.llm import TEMPLATE_VARIABLES, Completion, TextDelta
from transom.registry import ServedModel
from transom.request import CacheOptions, FinishReason
from transom.server.answering import answer, json_response, progress_fields, timing_fields
from transom.server.cache_field import cache_options
from transom.server.caller import caller_of
from transom.server.chat_choice import ChatChoice, message_of
from transom.server.chat_reading import Reading
from transom.server.choices import (
    SYSTEM_FINGERPRINT,
    Piece,
    chat_logprobs,
    finish_fields,
    prompt_logprobs_fields,
    usage_fields,
)
from transom.server.context import ServerContext
from transom.server.gate import Gate, max_request_tokens
from transom.server.json_body import read_body
from transom.server.plan import Plan, limit_tokens, make_plan
from transom.server.protocol import ChatBody, ChatPromptBody
from transom.server.request_record import record_of
from transom.server.tally import Tally, run_plan, run_to_end
from transom.server.truncation import FittedPrompt, PromptLimits, fit_messages

_WHAT_STAYS = (
    " Truncation leaves out whole older messages only: without all that it may leave out, the rest is still too long."
)
_SHARE_OF_ANSWER = 4
"""Where messages are left out for an answer without `max_tokens`, it gets at least this part of the window."""


MostTokens = Callable[[CacheOptions], int]
"""How long a request may be, by what its cache forgets."""


def chat_router(context: ServerContext) -> APIRouter:
    """The route and its token counter, under both of their paths."""
    router = APIRouter()

    async def create_chat_completion(request: Request) -> Response:
        context.check_room(request)
        served, body = await _read(context, request)
        context.check_prompt_logprobs(body.prompt_logprobs)
        gate = context.gate(served, request)
        await context.until_limits_are_known(served, request)
        prompt = await fit_chat(served, body, gate.max_request_tokens)
        reading = Reading.of(served.llm, body, prompt.token_ids)
        cap = context.settings.max_output_tokens
        plan = await plan_chat(served, body, prompt, reading, gate, cap)
        tally = Tally(plan, context.metrics, record_of(request))
        completion = _ChatCompletion(served, reading, body, prompt, plan, tally, gate)
        return await answer(completion, request, context)

    async def count_input_tokens(request: Request) -> Response:
        served, body = await _read(context, request)
        most = partial(max_request_tokens, served, context.quotas, caller_of(request).tier)
        prompt = await fit_chat(served, body, most)
        fields = {"object": "response.input_tokens", "input_tokens": len(prompt.token_ids)}
        return json_response({**fields, **_truncation_fields(body, prompt)})

    for prefix in ("/v1", ""):
        path = f"{prefix}/chat/completions"
        router.add_api_route(path, create_chat_completion, methods=["POST"], response_model=None)
        router.add_api_route(f"{path}/input_tokens", count_input_tokens, methods=["POST"], response_model=None)
    return router


async def encode_chat(served: ServedModel, body: ChatBody | ChatPromptBody) -> tuple[int, ...]:
    """The prompt's token ids, the template's own included. Raises `RequestError` from the template."""
    return await asyncio.to_thread(_encode, served, body, range(len(body.messages)))


async def render_chat(served: ServedModel, body: ChatPromptBody) -> str:
    """The prompt's text. Raises as `encode_chat`."""
    messages = [message.to_template() for message in body.messages]
    chat = await asyncio.to_thread(served.llm.render_chat, messages, **_template_arguments(body))
    return chat.text


def _encode(served: ServedModel, body: ChatBody | ChatPromptBody, indices: Sequence[int]) -> tuple[int, ...]:
    """Of the messages with these indices. Blocks."""
    messages = [body.messages[index].to_template() for index in indices]
    ids = served.llm.encode_chat(messages, **_template_arguments(body))
    return tuple(served.llm.tokenizer.surround(ids) if body.add_special_tokens else ids)


def _template_arguments(body: ChatBody | ChatPromptBody) -> dict[str, Any]:
    return {
        "tools": _tools(body),
        "add_generation_prompt": body.add_generation_prompt,
        "continue_final_message": body.continue_final_message,
        **_template_variables(body),
    }


def _tools(body: ChatBody | ChatPromptBody) -> list[dict[str, Any]] | None:
    """What the model is told of; nothing where nothing may be called."""
    if isinstance(body, ChatBody) and not body.chosen_tools.functions:
        return None
    return [tool.to_template() for tool in body.tools] or None


def _template_variables(body: ChatBody | ChatPromptBody) -> dict[str, Any]:
    """The request's own, and the effort where a template knows it. Names are checked before they become arguments."""
    for name in body.chat_template_kwargs:
        if name not in TEMPLATE_VARIABLES:
            known = ", ".join(sorted(TEMPLATE_VARIABLES))
            raise RequestError(
                f"'{name[:64]}' is not a variable that a request may set; these are: {known}.",
                param="chat_template_kwargs",
            )
    if isinstance(body, ChatPromptBody) or body.reasoning_effort is None:
        return dict(body.chat_template_kwargs)
    return {"reasoning_effort": body.reasoning_effort, **body.chat_template_kwargs}


@dataclass(frozen=True, slots=True)
class _ChatCompletion:
    """One answer in OpenAI's words."""

    served: ServedModel
    reading: Reading
    body: ChatBody
    prompt: FittedPrompt
    plan: Plan
    tally: Tally
    gate: Gate

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        completions = await run_to_end(self.plan, self.gate, self.tally)
        rendered = [self._choice(index, completion) for index, completion in enumerate(completions)]
        told = {**self._once(completions[0]), **self._timings()}
        return self._envelope("chat.completion", rendered, **told, usage=self._usage())

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The answer in pieces; the first of each choice names the role."""
        begun: dict[int, ChatChoice] = {}
        async with aclosing(run_plan(self.plan, self.gate, self.tally)) as deltas:
            async for sequence, delta in deltas:
                if not (delta.token_ids or delta.text or delta.finish_reason):
                    if self.body.return_progress:
                        yield self._piece([], **progress_fields(self.plan, self.tally, sequence, delta))
                    continue
                if sequence not in begun:
                    opening = self._once(delta) if not begun else {}
                    begun[sequence] = self.reading.new_choice()
                    yield self._piece([self._opening(sequence)], **opening)
                for choice in self._deltas(sequence, begun[sequence], delta):
                    yield self._piece([choice], **self._timings())
        if self.body.include_usage:
            yield self._envelope("chat.completion.chunk", [], usage=self._usage())

    def _timings(self) -> dict[str, Any]:
        return timing_fields(self.tally) if self.body.timings_per_token else {}

    def _usage(self) -> dict[str, Any]:
        return usage_fields(self.tally.usage(), self.tally.num_reasoning_tokens)

    def _piece(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        if self.body.include_usage:
            more["usage"] = self._usage() if self.body.continuous_usage else None
        return self._envelope("chat.completion.chunk", choices, **more)

    def _envelope(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.plan.id,
            "object": kind,
            "created": self.plan.created,
            "model": self.plan.model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
            "service_tier": "default",
            "choices": choices,
            **more,
        }

    def _once(self, piece: Piece) -> dict[str, Any]:
        """What is said of the prompt, in the answer or in its first piece."""
        fields = _truncation_fields(self.body, self.prompt)
        if self.body.return_token_ids:
            fields["prompt_token_ids"] = list(self.plan.prompts[0])
        as_ids = self.body.return_tokens_as_token_ids
        return fields | prompt_logprobs_fields(piece, self.body.prompt_logprobs, as_ids=as_ids)

    def _choice(self, index: int, completion: Completion) -> dict[str, Any]:
        choice = self.reading.new_choice()
        message = message_of(choice.feed(completion))
        self.tally.see_reasoning(index, choice.num_reasoning_tokens)
        return self._choice_fields(index, completion, choice, message=message)

    def _opening(self, index: int) -> dict[str, Any]:
        return {**self._empty_choice(index), "delta": {"role": "assistant", "content": "", "refusal": None}}

    def _deltas(self, index: int, choice: ChatChoice, delta: TextDelta) -> list[dict[str, Any]]:
        """The last one carries what comes with the tokens; where there is text to come, one without any may be all."""
        contents = choice.feed(delta)
        self.tally.see_reasoning(index, choice.num_reasoning_tokens)
        if not contents and not delta.finish_reason and not self.reading.separates:
            contents = [{"content": ""}]
        if not contents and not (delta.finish_reason or delta.logprobs or self.body.return_token_ids):
            return []
        *others, last = contents or [{}]
        bare = [{**self._empty_choice(index), "delta": content} for content in others]
        return [*bare, self._choice_fields(index, delta, choice, delta=last)]

    def _empty_choice(self, index: int) -> dict[str, Any]:
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": None}

    def _choice_fields(self, index: int, piece: Piece, choice: ChatChoice, **content: Any) -> dict[str, Any]:
        as_ids = self.body.return_tokens_as_token_ids
        fields = {
            "index": index,
            **content,
            "logprobs": chat_logprobs(piece.logprobs or (), as_ids=as_ids) if self.body.logprobs else None,
            **finish_fields(piece, self.plan.limits[0]),
        }
        if choice.has_called and piece.finish_reason is FinishReason.STOP:
            fields["finish_reason"] = "tool_calls"
        if self.body.return_token_ids:
            fields["token_ids"] = list(piece.token_ids)
        return fields


async def _read(context: ServerContext, request: Request) -> tuple[ServedModel, ChatBody]:
    def parse(raw: dict[str, Any]) -> ChatBody:
        return ChatBody.parse(raw, allow_unknown_fields=context.settings.allow_unknown_fields)

    body = await read_body(request, context.large_bodies, parse)
    return context.find_model({"model": body.model}, request), body


async def fit_chat(served: ServedModel, body: ChatBody, most: MostTokens) -> FittedPrompt:
    """The whole prompt or, where the request allows that, as much of it as fits within `most`."""
    if body.truncation == "disabled":
        return FittedPrompt(await encode_chat(served, body))
    limits = _prompt_limits(most(cache_options(served, body.cache)), body)
    return await asyncio.to_thread(fit_messages, body.messages, partial(_encode, served, body), limits)


def _prompt_limits(most: int, body: ChatBody) -> PromptLimits:
    """What can be held, `most`, less the answer; one without a limit needs a token, and should get a share."""
    if body.given_max_tokens is not None:
        return PromptLimits(most - body.given_max_tokens, most - body.given_max_tokens)
    return PromptLimits(most - 1, most - most // _SHARE_OF_ANSWER)


def _truncation_fields(body: ChatBody, prompt: FittedPrompt) -> dict[str, Any]:
    return {} if body.truncation == "disabled" else {"truncation": prompt.fields()}


async def plan_chat(
    served: ServedModel,
    body: ChatBody,
    prompt: FittedPrompt,
    reading: Reading,
    gate: Gate,
    cap: int | None,
    *,
    param: str = "messages",
    prefix: str = "chatcmpl",
) -> Plan:
    """The plan of an answer. `param` is the field that holds the prompt, `prefix` begins the answer's id."""
    cache, num_tokens = cache_options(served, body.cache), len(prompt.token_ids)
    try:
        most = gate.max_request_tokens(cache)
        limit = limit_tokens(served, num_tokens, body.given_max_tokens, param=param, most=most, cap=cap)
    except ContextLengthExceededError as error:
        if body.truncation == "disabled":
            raise
        raise ContextLengthExceededError(
            num_prompt_tokens=error.num_prompt_tokens,
            max_tokens=error.max_tokens,
            context_window=error.context_window,
            param=param,
            remark=_WHAT_STAYS,
        ) from None
    return make_plan(
        served,
        body,
        [prompt.token_ids],
        [limit],
        caller=gate.caller,
        cache=cache,
        grammar=await reading.grammar(served),
        shown_tokens=reading.shown_tokens,
        new_call_reader=reading.new_call_reader,
        id_prefix=prefix,
        num_candidates=body.n,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs,
    )
