"""Traces go where a flag or the environment says, and nowhere otherwise."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.server.asgi import complete
from tests.server.served import make_app
from transom.cli.tracing import tracing_to
from transom.errors import ConfigError


class Collector(HTTPServer):
    """Keeps what is sent to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[tuple[str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        self.server.bodies.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


async def test_a_collector_gets_the_spans_at_the_end_at_the_latest(collector: Collector) -> None:
    with tracing_to(collector.url, {"OTEL_SERVICE_NAME": "my-server"}) as tracing:
        assert (await complete(make_app(tracing=tracing), max_tokens=2)).status == 200
    [(path, body)] = collector.bodies
    assert path == "/v1/traces"
    [resource] = ExportTraceServiceRequest.FromString(body).resource_spans
    names = [span.name for scope in resource.scope_spans for span in scope.spans]
    assert sorted(names) == ["decode", "prefill", "queue", "text_completion tiny"]
    service = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert service["service.name"] == "my-server"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_where_nobody_asks_there_is_none(environment: dict[str, str]) -> None:
    with tracing_to(None, environment) as tracing:
        assert tracing is None


def test_the_environment_asks_by_opentelemetrys_own_words(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    with tracing_to(None) as tracing:
        assert tracing is not None


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="http://"), tracing_to("localhost:4318"):
        pass


def test_nothing_of_it_is_imported_by_a_server_without_traces() -> None:
    found = "any(name.startswith('opentelemetry.sdk') or name == 'transom.server.tracing' for name in sys.modules)"
    script = f"import sys, transom.cli.serve; sys.exit({found})"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_without_the_packages_a_flag_is_an_error_and_the_environment_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(ConfigError, match=r"transom\[otel\]"), tracing_to("http://localhost:4318"):
        pass
    with tracing_to(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}) as tracing:
        assert tracing is None
    assert "transom[otel]" in caplog.text
