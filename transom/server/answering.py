"""From a planned answer to a response: in one piece or as a stream, watched for clients that go away."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response

from transom.llm import TextDelta
from transom.registry import ModelRegistry, ServedModel
from transom.server.context import ServerContext
from transom.server.event_stream import PLAIN_EVENTS, EventForm, EventStream
from transom.server.interruption import run_watched
from transom.server.plan import Plan
from transom.server.tally import Tally


class AskedFor(Protocol):
    """What of a body says in which way it is to be answered."""

    @property
    def stream(self) -> bool: ...
    @property
    def sse_ping_interval(self) -> int | None: ...


class Answer(Protocol):
    """One planned answer, in the words of its route."""

    @property
    def served(self) -> ServedModel:
        """Who answers."""
        ...

    @property
    def body(self) -> AskedFor:
        """What was asked."""
        ...

    async def whole(self) -> dict[str, Any]:
        """Runs it; the answer in one piece."""
        ...

    def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """Runs it; the answer in pieces."""
        ...


async def answer(planned: Answer, request: Request, context: ServerContext, form: EventForm = PLAIN_EVENTS) -> Response:
    """Runs `planned` in the way its body asks for; `form` is that of its events."""
    limit = context.settings.request_timeout
    if planned.body.stream:
        return EventStream(
            _chunks_of_loaded(planned, context.registry),
            context.lifecycle,
            ping_interval=_ping_interval(planned.body, context.settings.ping_interval),
            slow_reader_timeout=context.settings.slow_reader_timeout,
            limit_seconds=limit,
            form=form,
        )
    whole = _whole_of_loaded(planned, context.registry)
    with context.lifecycle.answering():
        content = await run_watched(whole, request.receive, context.lifecycle, limit)
    return json_response(content)


async def _whole_of_loaded(planned: Answer, registry: ModelRegistry) -> dict[str, Any]:
    async with registry.use(planned.served):
        return await planned.whole()


async def _chunks_of_loaded(planned: Answer, registry: ModelRegistry) -> AsyncGenerator[dict[str, Any], None]:
    """Waiting for the load is part of the stream, so that pings are sent meanwhile."""
    async with registry.use(planned.served), aclosing(planned.chunks()) as chunks:
        async for chunk in chunks:
            yield chunk


def json_response(content: Any, status: int = 200) -> Response:
    """`content` as JSON."""
    return Response(orjson.dumps(content), status, media_type="application/json")


def progress_fields(plan: Plan, tally: Tally, sequence: int, delta: TextDelta) -> dict[str, Any]:
    """llama.cpp's extension: how far the prompt has been read. How much of it was cached is known at the end only."""
    total = len(plan.prompts[plan.prompt_of(sequence)])
    processed = min(delta.num_computed_tokens, total)
    return {"prompt_progress": {"total": total, "processed": processed, "time_ms": tally.elapsed_ms}}


def timing_fields(tally: Tally) -> dict[str, Any]:
    """llama.cpp's `timings`, of all sequences together; how much of a prompt was cached only when it is known."""
    to_first, since_first = tally.seconds
    usage = tally.usage()
    timings: dict[str, Any] = {
        "prompt_ms": round(to_first * 1000, 3),
        "predicted_n": usage.num_completion_tokens,
        "predicted_ms": round(since_first * 1000, 3),
    }
    if tally.knows_cached:
        cached = usage.num_cached_tokens
        timings |= {"prompt_n": usage.num_prompt_tokens - cached, "cache_n": cached}
    return {"timings": timings}


def _ping_interval(body: AskedFor, default: float) -> float | None:
    """llama.cpp's field wins; 0 and -1 switch the pings off."""
    if body.sse_ping_interval is None:
        return default
    return float(body.sse_ping_interval) if body.sse_ping_interval > 0 else None
