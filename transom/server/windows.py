"""GET /v1/windows: what the context window of every running request looks like, once or live.

Numbers and states of blocks only: neither text nor tokens. A key sees its own requests, an admin everybody's; what
concerns all requests together is for admins.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from transom.cache import BLOCK_SIZE, KindWindow, SequenceWindow
from transom.engine import EngineStats
from transom.errors import RequestError
from transom.registry import ServedModel
from transom.server.answering import json_response
from transom.server.cache_status import cache_numbers, sequence_numbers
from transom.server.caller import Caller, caller_of, is_still_caller
from transom.server.context import ServerContext
from transom.server.event_stream import EventStream
from transom.server.interruption import cancel, run_watched
from transom.server.open_requests import OpenRequest
from transom.server.window_watch import Pace, Sight, WindowWatch


def windows_router(context: ServerContext) -> APIRouter:
    """The route under both of its paths. `?model=` shows one model, `?stream=true` sends what changes."""
    router = APIRouter()
    watch = WindowWatch(context.registry.models())

    async def get_windows(request: Request) -> Response:
        shown = _Shown(context, watch, request, _asked_models(context, request))
        if _wants_stream(request):
            return EventStream(
                shown.changes(),
                context.lifecycle,
                ping_interval=context.settings.ping_interval,
                slow_reader_timeout=context.settings.slow_reader_timeout,
            )
        with context.lifecycle.answering():
            await run_watched(watch.look(), request.receive, context.lifecycle)
        return json_response(shown.now())

    for prefix in ("/v1", ""):
        router.add_api_route(f"{prefix}/windows", get_windows, methods=["GET"], response_model=None)
    return router


def _asked_models(context: ServerContext, request: Request) -> tuple[ServedModel, ...]:
    caller, name = caller_of(request), request.query_params.get("model")
    if name is None:
        return tuple(context.registry.models(caller.may_use))
    return (context.registry.get(name, caller.may_use),)


def _wants_stream(request: Request) -> bool:
    match request.query_params.get("stream", "false"):
        case "true":
            return True
        case "false":
            return False
        case _:
            raise RequestError("Invalid value for 'stream': must be true or false.", param="stream")


@dataclass(frozen=True, slots=True)
class _Shown:
    """What one caller sees of these models."""

    context: ServerContext
    watch: WindowWatch
    request: Request
    models: tuple[ServedModel, ...]

    @property
    def caller(self) -> Caller:
        """For whom it is."""
        return caller_of(self.request)

    def now(self) -> dict[str, Any]:
        """As of the last look."""
        return {
            "object": "windows",
            "block_size": BLOCK_SIZE,
            "is_admin": self.caller.is_admin,
            "models": [self._model(served) for served in self.models],
        }

    async def changes(self) -> AsyncGenerator[dict[str, Any], None]:
        """Whenever something is otherwise than before, until the server drains or the key is no longer what it was."""
        lifecycle = self.context.lifecycle
        last: dict[str, Any] | None = None
        async with self.watch.watching(self.caller.name):
            while not lifecycle.draining and is_still_caller(self.request):
                now = self.now()
                if now != last:
                    last = now
                    yield now
                await _first_of(self.watch.until_seen(), lifecycle.until_draining())

    def _model(self, served: ServedModel) -> dict[str, Any]:
        sight = self.watch.sight(served)
        stats = served.engine.stats() if sight.view is None else sight.view.stats
        return {
            "id": served.id,
            **served.status_fields(),
            "context_window": served.engine_config.context_window,
            "steps": None if stats is None else stats.num_steps,
            **self._everybody(sight, stats),
            "requests": self._requests(served, sight),
        }

    def _everybody(self, sight: Sight, stats: EngineStats | None) -> dict[str, Any]:
        """What concerns all requests together; nulls for whoever may not know."""
        if stats is None or not self.caller.is_admin:
            return {"running": None, "waiting": None, "tokens_per_second": None, "cache": None}
        return {
            "running": stats.scheduler.num_running,
            "waiting": stats.scheduler.num_waiting,
            "tokens_per_second": {"generated": _rate(sight.generated), "computed": _rate(sight.computed)},
            "cache": cache_numbers(stats.cache),
        }

    def _requests(self, served: ServedModel, sight: Sight) -> list[dict[str, Any]]:
        """Those that run in the engine's order, behind them those that wait."""
        opened = self.context.open_requests.of_model(served.id)
        windows = () if sight.view is None else sight.view.windows
        running = [
            {**_asked_for(window.stats.request_id, opened.get(window.stats.request_id)), **_window(window, sight)}
            for window in windows
            if self._may_see(opened.get(window.stats.request_id))
        ]
        shown = {window.stats.request_id for window in windows}
        waiting = [
            {**_asked_for(request_id, request), **_NO_WINDOW}
            for request_id, request in opened.items()
            if request_id not in shown and request.is_visible_to(self.caller)
        ]
        return running + waiting

    def _may_see(self, request: OpenRequest | None) -> bool:
        """A sequence that nobody waits for any more is on its way out."""
        return self.caller.is_admin if request is None else request.is_visible_to(self.caller)


async def _first_of(*waits: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
    finally:
        await cancel(*tasks)


_NO_WINDOW: dict[str, Any] = {"state": "waiting", "tokens": 0, "layers": []}


def _asked_for(request_id: str, request: OpenRequest | None) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "answer_id": None if request is None else request.answer_id,
        "prompt_tokens": None if request is None else request.num_prompt_tokens,
        "max_tokens": None if request is None else request.max_tokens,
    }


def _window(window: SequenceWindow, sight: Sight) -> dict[str, Any]:
    """The numbers are those of the model's cache status, and of the same moment."""
    pace = sight.requests.get(window.stats.request_id)
    return {
        "state": "running",
        **sequence_numbers(window.stats),
        "cached_tokens": window.num_cached_tokens,
        "tokens_per_second": None if pace is None else _rate(pace),
        "layers": [_kind(kind) for kind in window.kinds],
    }


def _kind(kind: KindWindow) -> dict[str, Any]:
    importance = kind.importance
    return {
        "kind": kind.kind.value,
        "num_layers": kind.num_layers,
        "blocks": [[run.state.value, run.num_blocks] for run in kind.runs],
        "shared": [list(run) for run in kind.shared],
        "keep_first": kind.keep_first,
        "first_recent": kind.first_recent,
        "importance": None
        if importance is None
        else {"blocks_per_cell": importance.blocks_per_cell, "shares": list(importance.shares)},
    }


def _rate(pace: Pace) -> float | None:
    return None if pace.per_second is None else round(pace.per_second, 1)
