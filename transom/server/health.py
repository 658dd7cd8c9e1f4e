"""Is the server alive, is it ready, how does it do: for orchestrators and dashboards."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from transom.metrics import OPEN_METRICS_TYPE, PLAIN_TYPE
from transom.server.answering import json_response
from transom.server.caller import Caller, caller_of, check_admin
from transom.server.context import ServerContext

_RETRY = {"retry-after": "1"}


def health_router(context: ServerContext) -> APIRouter:
    """Live, ready, llama.cpp's health, and the metrics."""
    router = APIRouter()

    async def live() -> Response:
        return json_response({"status": "ok"})

    async def ready(request: Request) -> Response:
        return _ready(context, caller_of(request))

    async def health() -> Response:
        if context.registry.is_loading:
            error = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
            return _unavailable({"error": error})
        return json_response({"status": "ok"})

    async def metrics(request: Request) -> Response:
        check_admin(request)
        if "application/openmetrics-text" in request.headers.get("accept", ""):
            return Response(context.metrics.render_open_metrics(), media_type=OPEN_METRICS_TYPE)
        return Response(context.metrics.render(), media_type=PLAIN_TYPE)

    router.add_api_route("/health/live", live, methods=["GET"], response_model=None)
    for path in ("/health/ready", "/ready"):
        router.add_api_route(path, ready, methods=["GET"], response_model=None)
    for path in ("/health", "/v1/health"):
        router.add_api_route(path, health, methods=["GET"], response_model=None)
    router.add_api_route("/metrics", metrics, methods=["GET"], response_model=None)
    return router


def _ready(context: ServerContext, caller: Caller) -> Response:
    """The status is for everybody; models, with the reasons of those that failed, for who may use them."""
    loaded = {served.id: served.status_fields() for served in context.registry.models()}
    failed = {failure.entry.id: failure.status_fields() for failure in context.registry.failed()}
    models = {name: fields for name, fields in {**loaded, **failed}.items() if caller.may_use(name)}
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
