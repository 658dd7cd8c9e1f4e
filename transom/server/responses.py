"""POST /v1/responses: OpenAI's newer interface over the same chats. Keeps nothing: a request carries all it needs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from transom.errors import RequestError, TransomError
from transom.llm import TextDelta
from transom.registry import ServedModel
from transom.request import FinishReason
from transom.server.answering import answer, json_response
from transom.server.caller import caller_of
from transom.server.chat import fit_chat, plan_chat
from transom.server.chat_choice import ChatChoice
from transom.server.chat_reading import Reading
from transom.server.choices import chat_logprobs
from transom.server.context import ServerContext
from transom.server.errors import reply_to
from transom.server.event_stream import NAMED_EVENTS
from transom.server.gate import Gate, max_request_tokens
from transom.server.json_body import read_body
from transom.server.plan import Plan
from transom.server.protocol import ChatBody
from transom.server.request_record import record_of
from transom.server.response_body import ResponseBody, in_own_words
from transom.server.response_events import Event, ResponseWriter
from transom.server.tally import Tally, run_plan
from transom.server.truncation import FittedPrompt

_SHOWN = (
    "instructions",
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "tool_choice",
    "tools",
    "user",
)


def responses_router(context: ServerContext) -> APIRouter:
    """The route under both of its paths."""
    router = APIRouter()

    async def create_response(request: Request) -> Response:
        context.check_room(request)
        body, chat = await _read(context, request)
        served = context.find_model({"model": body.model}, request)
        gate = context.gate(served, request)
        await context.until_limits_are_known(served, request)
        try:
            prompt = await fit_chat(served, chat, gate.max_request_tokens)
            reading = Reading.of(served.llm, chat, prompt.token_ids)
            plan = await plan_chat(
                served,
                chat,
                prompt,
                reading,
                gate,
                context.settings.max_output_tokens,
                param="input",
                prefix="resp",
            )
        except RequestError as error:
            raise in_own_words(error) from None
        tally = Tally(plan, context.metrics, record_of(request))
        planned = _PlannedResponse(served, body, chat, reading, prompt, plan, tally, gate)
        return await answer(planned, request, context, NAMED_EVENTS)

    async def count_input_tokens(request: Request) -> Response:
        body, chat = await _read(context, request)
        try:
            served = context.find_model({"model": body.model}, request)
            most = partial(max_request_tokens, served, context.quotas, caller_of(request).tier)
            prompt = await fit_chat(served, chat, most)
        except RequestError as error:
            raise in_own_words(error) from None
        return json_response({"object": "response.input_tokens", "input_tokens": len(prompt.token_ids)})

    for path in ("/v1/responses", "/responses"):
        router.add_api_route(path, create_response, methods=["POST"], response_model=None)
        router.add_api_route(f"{path}/input_tokens", count_input_tokens, methods=["POST"], response_model=None)
    return router


@dataclass(frozen=True, slots=True)
class _PlannedResponse:
    """One answer in OpenAI's words."""

    served: ServedModel
    body: ResponseBody
    chat: ChatBody
    reading: Reading
    prompt: FittedPrompt
    plan: Plan
    tally: Tally
    gate: Gate

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece: what the events of a stream would add up to."""
        last: Event = {}
        async with aclosing(self.chunks()) as events:
            async for event in events:
                last = event
        response: dict[str, Any] = last["response"]
        return response

    async def chunks(self) -> AsyncGenerator[Event, None]:
        """Typed events. An answer that fails after the first one says so before the error is raised."""
        writer, choice, has_begun = ResponseWriter(self._envelope()), self.reading.new_choice(), False
        try:
            async with aclosing(run_plan(self.plan, self.gate, self.tally)) as deltas:
                async for _, delta in deltas:
                    for event in [*(() if has_begun else writer.begin()), *self._events(writer, choice, delta)]:
                        yield event
                    has_begun = True
        except TransomError as error:
            if has_begun:
                for event in writer.fail("server_error", reply_to(error).message):
                    yield event
            raise

    def _events(self, writer: ResponseWriter, choice: ChatChoice, delta: TextDelta) -> list[Event]:
        """Log probabilities are told with text, and those of other parts not at all: they have no place for them."""
        logprobs = chat_logprobs(delta.logprobs or (), as_ids=False)["content"] if self.body.logprobs else []
        pieces = choice.feed(delta)
        self.tally.see_reasoning(0, choice.num_reasoning_tokens)
        if logprobs and not pieces and not self.reading.separates:
            pieces = [{"content": ""}]
        events: list[Event] = []
        for piece in pieces:
            own, logprobs = (logprobs, []) if "content" in piece else ([], logprobs)
            events += writer.add(piece, own)
        if delta.finish_reason is None:
            return events
        incomplete = "max_output_tokens" if delta.finish_reason is FinishReason.LENGTH else None
        return [*events, *writer.end(incomplete, _usage_fields(self.tally))]

    def _envelope(self) -> dict[str, Any]:
        """What is known of the response before there is an answer; the settings as they are, not as they were given."""
        sampling = self.plan.requests[0].request.sampling
        return {
            "id": self.plan.id.replace("-", "_", 1),
            "object": "response",
            "created_at": self.plan.created,
            "model": self.plan.model,
            **{name: getattr(self.body, name) for name in _SHOWN},
            "background": False,
            "max_output_tokens": self.body.max_output_tokens,
            "max_tool_calls": self.body.max_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": self.chat.reasoning_effort, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": sampling.temperature,
            "text": {"format": self.body.text.format.shown()},
            "top_logprobs": self.body.top_logprobs or 0,
            "top_p": sampling.top_p,
            "truncation": self.chat.truncation,
            **self._truncation(),
        }

    def _truncation(self) -> dict[str, Any]:
        """Which of the input's items were left out, where that was allowed."""
        if self.chat.truncation == "disabled":
            return {}
        sources = self.body.sources()
        items = sorted(item for message in self.prompt.left_out for item in sources[message])
        numbers = {"left_out_items": items, "left_out_tokens": self.prompt.num_left_out_tokens}
        return {"input_truncation": {"truncated": bool(self.prompt.left_out), **numbers}}


def _usage_fields(tally: Tally) -> dict[str, Any]:
    usage = tally.usage()
    details = {"cached_tokens": usage.num_cached_tokens, "cache_write_tokens": usage.num_cache_write_tokens}
    if usage.is_lossy:
        details["evicted_tokens"] = usage.num_evicted_tokens
    return {
        "input_tokens": usage.num_prompt_tokens,
        "input_tokens_details": details,
        "output_tokens": usage.num_completion_tokens,
        "output_tokens_details": {"reasoning_tokens": tally.num_reasoning_tokens},
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
    }


async def _read(context: ServerContext, request: Request) -> tuple[ResponseBody, ChatBody]:
    def parse(raw: dict[str, Any]) -> tuple[ResponseBody, ChatBody]:
        body = ResponseBody.parse(raw, allow_unknown_fields=context.settings.allow_unknown_fields)
        return body, body.as_chat()

    return await read_body(request, context.large_bodies, parse)
