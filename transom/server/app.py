"""`create_app`: routes, guards and error bodies put together. Reads no environment and opens no socket."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psutil
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from transom.metrics import MetricsCollector, ModelSnapshot, TierUsage
from transom.registry import ModelRegistry, ServedModel
from transom.server.auth import KeyRing, RequireKey
from transom.server.chat import chat_router
from transom.server.choices import SYSTEM_FINGERPRINT
from transom.server.completions import completions_router
from transom.server.context import ServerContext
from transom.server.errors import INVALID_REQUEST, ErrorReply
from transom.server.health import health_router
from transom.server.host_guard import HostGuard
from transom.server.lifecycle import Lifecycle
from transom.server.models import models_router
from transom.server.outer import OuterLayer
from transom.server.settings import ServerSettings
from transom.server.tokenize import tokenize_router


def create_app(registry: ModelRegistry, settings: ServerSettings, lifecycle: Lifecycle | None = None) -> FastAPI:
    """The whole HTTP application over the models of `registry`, which the caller starts and closes.

    Must be made in the event loop that runs it. Raises `ConfigError` for a public address without a key.
    """
    settings.check_bind()
    metrics = MetricsCollector(lambda: _snapshots(registry))
    context = ServerContext(registry, metrics, settings, lifecycle or Lifecycle())
    app = FastAPI(
        title="Transom",
        version=SYSTEM_FINGERPRINT.removeprefix("transom-"),
        docs_url=None,  # they would fetch scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(OuterLayer, metrics=metrics),
            Middleware(HostGuard, settings=settings),
            Middleware(RequireKey, keys=KeyRing(settings.api_keys)),
        ],
        exception_handlers={HTTPException: _routing_error},
    )
    for make_router in (completions_router, chat_router, models_router, tokenize_router, health_router):
        app.include_router(make_router(context))
    return app


async def _routing_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the same form as every other error."""
    assert isinstance(error, HTTPException)
    path = f"{request.method} {request.url.path[:128]}"
    code, message = {
        404: ("not_found", f"There is no route {path}."),
        405: ("method_not_allowed", f"{path} is not allowed."),
    }.get(error.status_code, (None, str(error.detail)))
    return ErrorReply(error.status_code, message, INVALID_REQUEST, code, headers=dict(error.headers or {})).response()


def _snapshots(registry: ModelRegistry) -> Iterable[ModelSnapshot]:
    return [_snapshot(served) for served in registry.models()]


def _snapshot(served: ServedModel) -> ModelSnapshot:
    stats = served.engine.stats()
    numbers: dict[str, Any] = {}
    if stats is not None:
        scheduler, cache = stats.scheduler, stats.cache
        numbers = {
            "num_running": scheduler.num_running,
            "num_waiting": scheduler.num_waiting,
            "num_preemptions": scheduler.num_preemptions,
            "num_computed_tokens": scheduler.num_computed_tokens,
            "kv_tokens": cache.num_tokens,
            "tiers": tuple(TierUsage(tier.name, tier.num_bytes_used, tier.num_bytes_total) for tier in cache.tiers),
            "blocks_by_kind": tuple(
                (kind.kind.value, kind.num_blocks_used, kind.num_blocks_total) for kind in cache.kinds
            ),
        }
    resident = _resident_bytes(served.engine.process_id)
    return ModelSnapshot(
        served.id,
        served.is_ready,
        num_restarts=served.engine.num_restarts,
        worker_resident_bytes=resident,
        **numbers,
    )


def _resident_bytes(process_id: int | None) -> int:
    """0 for a process that is not there (any more)."""
    if process_id is None:
        return 0
    try:
        return int(psutil.Process(process_id).memory_info().rss)
    except psutil.Error:
        return 0
