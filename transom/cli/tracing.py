"""Where traces go: a flag or OpenTelemetry's own environment variables say it. Nothing of it is imported otherwise."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from transom.errors import ConfigError

if TYPE_CHECKING:
    from transom.server.tracing import Tracing

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PATH = "/v1/traces"
_MISSING = f"traces need further packages: {sys.executable} -m pip install 'transom[otel]'"

_log = logging.getLogger(__name__)


@contextmanager
def tracing_to(endpoint: str | None, environment: Mapping[str, str] = os.environ) -> Iterator[Tracing | None]:
    """Traces to the OTLP collector at `endpoint` (HTTP), or wherever the environment says; None where nobody asks.

    Raises `ConfigError` when the packages for it are missing; asked for by the environment alone that is a warning.
    """
    if endpoint is None and not _is_wanted(environment):
        yield None
        return
    try:
        tracing = _open(endpoint, environment)
    except ImportError:
        if endpoint is not None:
            raise ConfigError(f"--otlp-endpoint: {_MISSING}") from None
        _log.warning(_MISSING)
        yield None
        return
    try:
        yield tracing
    finally:
        tracing.close()


def _is_wanted(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environment.get(name) for name in _ENDPOINTS)


def _open(endpoint: str | None, environment: Mapping[str, str]) -> Tracing:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from transom.server.tracing import Tracing

    resource = Resource.create(
        {"service.name": environment.get("OTEL_SERVICE_NAME") or "transom", "service.version": version("transom")}
    )
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint and _with_path(endpoint))))
    return Tracing(provider)


def _with_path(endpoint: str) -> str:
    """A collector's address is given without the path, as in OpenTelemetry's own variable."""
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"--otlp-endpoint is {endpoint}, must begin with http:// or https://")
    return endpoint if endpoint.endswith(_PATH) else endpoint.rstrip("/") + _PATH
