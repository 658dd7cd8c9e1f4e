"""Refuses requests by their heads: too large, ambiguous, or for another host (DNS rebinding). Pure ASGI."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from transom.server.errors import HttpError
from transom.server.settings import ServerSettings, as_address, is_loopback

MAX_HEADER_BYTES = 16 * 2**10

_Headers = list[tuple[bytes, bytes]]


class HostGuard:
    """Lets requests pass whose headers are of a sensible size and say one length, whose path has no control character,
    and whose one Host header is a loopback name, the bound address or an allowed name.

    Bound to all interfaces, any literal address is taken: rebinding needs a name.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._names = {settings.host.lower(), *(name.lower() for name in settings.allowed_hosts)}
        bound = as_address(settings.host)
        self._any_address = bound is not None and bound.is_unspecified

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _check_size(scope["headers"])
            _check_framing(scope["headers"])
            _check_path(scope["path"])
            self._check_host([value for name, value in scope["headers"] if name == b"host"])
        await self._app(scope, receive, send)

    def _check_host(self, values: list[bytes]) -> None:
        if len(values) != 1:
            raise HttpError(400, "Exactly one Host header is needed.", "invalid_value")
        host = _without_port(values[0].decode("latin-1").strip().lower())
        if not self._is_own(host):
            raise HttpError(
                403,
                "This server is not known under that host name (transom serve --allowed-host NAME).",
                "host_not_allowed",
                type="permission_error",
            )

    def _is_own(self, host: str) -> bool:
        if host in self._names or is_loopback(host):
            return True
        return self._any_address and as_address(host) is not None


def _check_size(headers: _Headers) -> None:
    """Names, values, and the four bytes of punctuation of each line."""
    if sum(len(name) + len(value) + 4 for name, value in headers) > MAX_HEADER_BYTES:
        raise HttpError(431, f"The headers are larger than {MAX_HEADER_BYTES} bytes.", "headers_too_large")


def _check_framing(headers: _Headers) -> None:
    """A body has one length: who stands in front may read another one out of two, and take its rest for a request."""
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in headers}:
        raise HttpError(
            400,
            "A request has Content-Length or Transfer-Encoding, not both.",
            "invalid_value",
            headers={"connection": "close"},
        )


def _check_path(path: str) -> None:
    """No route has a control character in it, though the end of a pattern matches before the last line break."""
    if any(character < " " or character == "\x7f" for character in path):
        raise HttpError(404, "There is no route with control characters.", "not_found")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isascii() and port.isdigit() and (":" not in name or name.endswith("]")) else host
