"""`create_app`: routes, guards and error bodies put together. Reads no environment and opens no socket."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from transom.config.keys_file import KeysFile
from transom.metrics import MetricsCollector
from transom.quotas import QuotaLedger, Quotas
from transom.registry import ModelRegistry
from transom.server.auth import RequireKey
from transom.server.cache_status import cache_router
from transom.server.chat import chat_router
from transom.server.choices import SYSTEM_FINGERPRINT
from transom.server.completions import completions_router
from transom.server.context import ServerContext
from transom.server.embeddings import embeddings_router
from transom.server.errors import INVALID_REQUEST, ErrorReply
from transom.server.health import health_router
from transom.server.host_guard import HostGuard
from transom.server.key_ring import FileKeys, KeyRing
from transom.server.lifecycle import Lifecycle
from transom.server.models import models_router
from transom.server.openapi import describe_api
from transom.server.outer import OuterLayer
from transom.server.props import props_router
from transom.server.rate_limits import rate_limit_headers
from transom.server.request_record import record_of
from transom.server.responses import responses_router
from transom.server.settings import ServerSettings
from transom.server.snapshots import take_snapshots
from transom.server.static_page import StaticPage
from transom.server.telemetry import NO_TELEMETRY
from transom.server.tokenize import tokenize_router
from transom.server.turns import Turns
from transom.server.until_answered import UntilAnswered
from transom.server.windows import windows_router

if TYPE_CHECKING:
    from transom.server.tracing import Tracing

_ROUTERS = (
    completions_router,
    chat_router,
    responses_router,
    embeddings_router,
    props_router,
    cache_router,
    models_router,
    tokenize_router,
    windows_router,
    health_router,
)


def create_app(
    registry: ModelRegistry,
    settings: ServerSettings,
    lifecycle: Lifecycle | None = None,
    quotas: QuotaLedger | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The whole HTTP application over the models of `registry`, which the caller starts and closes, as `quotas`.

    Must be made in the event loop that runs it. Raises `ConfigError` for a public address without a key, and for a
    keys file that cannot be used.
    """
    settings.check_bind()
    turns: dict[str, Turns] = {}
    metrics = MetricsCollector(lambda: take_snapshots(registry, turns), version("transom"))
    quotas = quotas or QuotaLedger(Quotas())
    context = ServerContext(registry, metrics, settings, lifecycle or Lifecycle(), quotas, turns)
    page = StaticPage() if settings.has_page else None
    app = FastAPI(
        title="Transom",
        version=SYSTEM_FINGERPRINT.removeprefix("transom-"),
        docs_url=None,  # they would fetch scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        telemetry=NO_TELEMETRY,
        middleware=[
            Middleware(OuterLayer, metrics=metrics, headers=partial(rate_limit_headers, quotas), tracing=tracing),
            Middleware(HostGuard, settings=settings),
            Middleware(UntilAnswered),
            Middleware(RequireKey, keys=_key_ring(registry, settings, quotas), open_paths=_open_paths(page)),
        ],
        exception_handlers={HTTPException: _routing_error},
    )
    for make_router in _ROUTERS:
        app.include_router(make_router(context))
    if page is not None:
        app.include_router(page.router())
    app.openapi = partial(describe_api, app)  # type: ignore[method-assign]
    return app


def _open_paths(page: StaticPage | None) -> frozenset[str]:
    return frozenset() if page is None else page.paths


def _key_ring(registry: ModelRegistry, settings: ServerSettings, quotas: QuotaLedger) -> KeyRing:
    if settings.api_keys_file is None:
        return KeyRing(settings.api_keys)
    path, models = settings.api_keys_file, registry.ids()

    def check(file: KeysFile) -> None:
        file.check_names(models, quotas.tiers, path)

    return KeyRing(settings.api_keys, FileKeys(path, check))


async def _routing_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, in the same form as every other error."""
    assert isinstance(error, HTTPException)
    path = f"{request.method} {request.url.path[:128]}"
    headers = dict(error.headers or {})
    code, message = {
        404: ("not_found", f"There is no route {path}."),
        405: ("method_not_allowed", f"{path} is not allowed; use {headers.get('Allow', 'another method')}."),
    }.get(error.status_code, (None, str(error.detail)))
    reply = ErrorReply(error.status_code, message, INVALID_REQUEST, code, headers=headers)
    record_of(request).note_error(error, reply)
    return reply.response()
