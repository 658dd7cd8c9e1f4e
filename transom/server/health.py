"""Is the server alive, is it ready, how does it do: for orchestrators and dashboards."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from transom.metrics import CONTENT_TYPE
from transom.server.answering import json_response
from transom.server.caller import check_admin
from transom.server.context import ServerContext

_RETRY = {"retry-after": "1"}


def health_router(context: ServerContext) -> APIRouter:
    """Live, ready, llama.cpp's health, and the metrics."""
    router = APIRouter()

    async def live() -> Response:
        return json_response({"status": "ok"})

    async def ready() -> Response:
        return _ready(context)

    async def health() -> Response:
        if context.registry.is_loading:
            error = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
            return _unavailable({"error": error})
        return json_response({"status": "ok"})

    async def metrics(request: Request) -> Response:
        check_admin(request)
        return Response(context.metrics.render(), media_type=CONTENT_TYPE)

    routes = {"/health/live": live, "/health/ready": ready, "/ready": ready, "/health": health, "/v1/health": health}
    for path, endpoint in routes.items():
        router.add_api_route(path, endpoint, methods=["GET"], response_model=None)
    router.add_api_route("/metrics", metrics, methods=["GET"], response_model=None)
    return router


def _ready(context: ServerContext) -> Response:
    loaded = {served.id: served.status_fields() for served in context.registry.models()}
    failed = {failure.entry.id: failure.status_fields() for failure in context.registry.failed()}
    models = {**loaded, **failed}
    if context.lifecycle.draining:
        return _unavailable({"status": "draining", "models": models})
    if context.registry.is_loading:
        return _unavailable({"status": "loading", "models": models})
    if not any(served.can_be_asked for served in context.registry.models()):
        return _unavailable({"status": "no model is ready", "models": models})
    return json_response({"status": "ready", "models": models})


def _unavailable(content: dict[str, Any]) -> Response:
    response = json_response(content, 503)
    response.headers.update(_RETRY)
    return response
