"""A Hugging Face hub on this machine: listing, files with ranges, redirects, and every kind of trouble on demand."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40
REPOSITORY = "Org/Tiny-Model"


@dataclass
class FakeHub:
    """Serves `files` as the model `REPOSITORY`."""

    files: dict[str, bytes]
    port: int = 0
    commit: str = COMMIT
    small_files: frozenset[str] = frozenset()
    """These have git's checksum instead of SHA-256."""
    corrupted: set[str] = field(default_factory=set)
    """Their last byte arrives as another one."""
    drops: dict[str, list[int]] = field(default_factory=dict)
    """The next connections for a file break after so many bytes."""
    claims: dict[str, int] = field(default_factory=dict)
    """Sizes that the listing names instead of the true ones."""
    siblings: Any = None
    """Of the listing, instead of those that describe `files`."""
    ignores_ranges: bool = False
    redirects_to: str | None = None
    """Files lie on another host, given as SCHEME://HOST:PORT."""
    refusal: tuple[int, dict[str, str]] | None = None
    """Status and headers of every answer."""
    token: str | None = None
    """Whoever does not send it is told that there is no model."""
    holds: threading.Event | None = None
    """Files stop in the middle until it is set."""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Paths and headers, in small letters."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ranges(self) -> list[str | None]:
        """What was asked for of files."""
        return [headers.get("range") for path, headers in self.requests if "/resolve/" in path]

    def listing(self) -> dict[str, Any]:
        if self.siblings is not None:
            return {"sha": self.commit, "siblings": self.siblings}
        return {"sha": self.commit, "siblings": [self._described(path, data) for path, data in self.files.items()]}

    def _described(self, path: str, data: bytes) -> dict[str, Any]:
        size = self.claims.get(path, len(data))
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        described = {"rfilename": path, "size": size, "blobId": blob}
        if path in self.small_files:
            return described
        return {**described, "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 130}}


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what the tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def running(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub, reachable at its `endpoint`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

        def do_GET(self) -> None:
            _answer(self, hub)

    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        if hub.holds is not None:
            hub.holds.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(handler: BaseHTTPRequestHandler, hub: FakeHub) -> None:
    headers = {name.lower(): value for name, value in handler.headers.items()}
    hub.requests.append((handler.path, headers))
    if hub.refusal is not None:
        _send(handler, hub.refusal[0], b"", hub.refusal[1])
    elif hub.token is not None and headers.get("authorization") != f"Bearer {hub.token}":
        _send(handler, 401, b"", {"x-error-code": "RepoNotFound"})
    elif handler.path == f"/api/models/{REPOSITORY}/revision/main?blobs=true":
        _send(handler, 200, json.dumps(hub.listing()).encode())
    elif handler.path.startswith(prefix := f"/{REPOSITORY}/resolve/{hub.commit}/"):
        _send_file(handler, hub, handler.path.removeprefix(prefix), headers.get("range"))
    else:
        _send(handler, 404, b"", {"x-error-code": "RevisionNotFound" if REPOSITORY in handler.path else "RepoNotFound"})


def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _send_file(handler: BaseHTTPRequestHandler, hub: FakeHub, path: str, wanted: str | None) -> None:
    if hub.redirects_to is not None:
        return _send(handler, 302, b"", {"location": f"{hub.redirects_to}{handler.path}"})
    data = hub.files[path]
    if path in hub.corrupted:
        data = data[:-1] + bytes([data[-1] ^ 1])
    start = 0 if wanted is None or hub.ignores_ranges else int(wanted.removeprefix("bytes=").removesuffix("-"))
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("content-range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    handler.send_header("content-length", str(len(data) - start))
    handler.end_headers()
    if hub.drops.get(path):
        handler.wfile.write(data[start : start + hub.drops[path].pop(0)])
        handler.close_connection = True
        return None
    middle = start + (len(data) - start) // 2
    handler.wfile.write(data[start:middle])
    handler.wfile.flush()
    if hub.holds is not None:
        hub.holds.wait()
    handler.wfile.write(data[middle:])
    return None
