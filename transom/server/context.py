"""What the routes share, handed to each of them explicitly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from transom.errors import RequestError
from transom.metrics import UNKNOWN_MODEL, MetricsCollector
from transom.registry import ModelRegistry, ServedModel
from transom.server.lifecycle import Lifecycle
from transom.server.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class ServerContext:
    """One server."""

    registry: ModelRegistry
    metrics: MetricsCollector
    settings: ServerSettings
    lifecycle: Lifecycle

    def find_model(self, body: Mapping[str, Any], request: Request) -> ServedModel:
        """The loaded model that a body names, noted for the metrics.

        Raises as `named_model`, and `UnavailableError` while the model cannot be asked.
        """
        request.state.model = UNKNOWN_MODEL
        served = self.named_model(body)
        request.state.model = served.id
        self.lifecycle.check()
        served.check_ready()
        return served

    def named_model(self, body: Mapping[str, Any]) -> ServedModel:
        """The model that a body names, whatever its state. Raises `RequestError` for none or an unknown one."""
        name = body.get("model")
        name = self.settings.default_model if name is None else name
        if name is None:
            raise RequestError("Missing required parameter: 'model'.", param="model", code="missing_parameter")
        if not isinstance(name, str):
            raise RequestError("Invalid value for 'model': must be a text.", param="model")
        return self.registry.get(name)
