"""The operator's application, for the Unix socket alone: which models are in RAM, load, unload, drain, quotas.

Who may open the socket may do everything; there are no keys. Errors are told in full, for their reader runs the server.
Further commands are routers in ADMIN_ROUTERS; none of them is ever part of the public application.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from transom.engine import EngineState, EngineStatus
from transom.errors import RequestError, TransomError, UnavailableError
from transom.quotas import QuotaLedger, Quotas
from transom.registry import FailedModel, ModelRegistry, ModelSlot, ServedModel, SlotState
from transom.server.answering import json_response
from transom.server.errors import SERVER_ERROR, ErrorReply, reply_to
from transom.server.lifecycle import Lifecycle
from transom.server.snapshots import resident_bytes
from transom.server.telemetry import NO_TELEMETRY


@dataclass(frozen=True, slots=True)
class AdminContext:
    """What the routes share."""

    registry: ModelRegistry
    lifecycle: Lifecycle
    quotas: QuotaLedger


def models_router(context: AdminContext) -> APIRouter:
    """List, load and unload."""
    router, registry = APIRouter(), context.registry

    async def list_models() -> Response:
        models = [_describe(registry, served) for served in registry.models()]
        unusable = [_describe_unusable(failure) for failure in registry.unusable()]
        return json_response({"models": [*models, *unusable], "draining": context.lifecycle.draining})

    async def load(model_id: str) -> Response:
        served = registry.get(model_id)
        context.lifecycle.check()
        await registry.load(served)
        return json_response(_describe(registry, served))

    async def unload(model_id: str) -> Response:
        served = registry.get(model_id)
        await registry.unload(served)
        return json_response(_describe(registry, served))

    router.add_api_route("/models", list_models, methods=["GET"], response_model=None)
    for word, endpoint in {"load": load, "unload": unload}.items():
        router.add_api_route(f"/models/{{model_id:path}}/{word}", endpoint, methods=["POST"], response_model=None)
    return router


def quotas_router(context: AdminContext) -> APIRouter:
    """What the keys have used, and what their requests hold at this moment."""
    router = APIRouter()

    async def list_uses() -> Response:
        return json_response({"uses": [asdict(use) for use in context.quotas.uses()]})

    router.add_api_route("/quotas", list_uses, methods=["GET"], response_model=None)
    return router


def drain_router(context: AdminContext) -> APIRouter:
    """The end of the server, as by SIGTERM."""
    router = APIRouter()

    async def drain() -> Response:
        context.lifecycle.begin_draining()
        return json_response({"draining": True, "num_running": context.lifecycle.num_running}, 202)

    router.add_api_route("/drain", drain, methods=["POST"], response_model=None)
    return router


ADMIN_ROUTERS: tuple[Callable[[AdminContext], APIRouter], ...] = (models_router, quotas_router, drain_router)


def create_admin_app(registry: ModelRegistry, lifecycle: Lifecycle, quotas: QuotaLedger | None = None) -> FastAPI:
    """The application over the same models, lifecycle and quotas as the public one."""
    app = FastAPI(
        title="Transom, for its operator",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        telemetry=NO_TELEMETRY,
        exception_handlers={HTTPException: _routing_error, TransomError: _told_in_full, OSError: _told_in_full},
    )
    context = AdminContext(registry, lifecycle, quotas or QuotaLedger(Quotas()))
    for make_router in ADMIN_ROUTERS:
        app.include_router(make_router(context))
    return app


def _describe(registry: ModelRegistry, served: ServedModel) -> dict[str, Any]:
    slot = registry.slot(served)
    return {
        "id": served.id,
        **_standing(slot, served.engine.status),
        "load": served.entry.load,
        "pinned": served.entry.pinned,
        "num_requests": slot.num_users,
        "num_waiting": len(slot.waiting),
        "idle_seconds": registry.idle_seconds(served),
        "resident_bytes": resident_bytes(served.engine.process_id),
        "max_ram_bytes": served.engine_config.max_ram_bytes,
        "counted_ram_bytes": served.ram_bytes,
        "worker_pid": served.engine.process_id,
        "num_restarts": served.engine.num_restarts,
    }


def _standing(slot: ModelSlot, engine: EngineStatus) -> dict[str, str]:
    """State and, unless all is well, the reason; of a model that should be in RAM what its engine says."""
    if slot.state is SlotState.LOADED and engine.state in (EngineState.RESTARTING, EngineState.FAILED):
        return {"state": engine.state.value, "reason": engine.reason or "its worker died"}
    return {"state": slot.state.value, **({} if slot.failure is None else {"reason": str(slot.failure)})}


def _describe_unusable(failure: FailedModel) -> dict[str, Any]:
    return {"id": failure.entry.id, "state": "failed", "reason": str(failure.error), "load": failure.entry.load}


async def _routing_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return ErrorReply(error.status_code, str(error.detail), SERVER_ERROR, None).response()


async def _told_in_full(_: Request, error: Exception) -> Response:
    if isinstance(error, RequestError | UnavailableError):
        return reply_to(error).response()
    return ErrorReply(500, str(error), SERVER_ERROR, "load_failed").response()
