"""GET / and /page/...: the web page, files that lie beside this one. Owns what a browser may do with them.

They hold no secrets and are open to everybody; what they show comes from the other routes, which ask for a key. All of
it is in memory from the beginning, and nothing but these names can be asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

_DIRECTORY = Path(__file__).with_name("page")
_INDEX = "index.html"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "cache-control": "no-cache",  # kept, but asked for again: the entity tag answers
    "content-security-policy": _CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    entity_tag: str


class StaticPage:
    """The files by the path that they are asked for."""

    def __init__(self) -> None:
        self._files: Mapping[str, _File] = {_path_of(path): _read(path) for path in sorted(_files())}

    @property
    def paths(self) -> frozenset[str]:
        """What needs no key. Exact spellings only."""
        return frozenset(self._files)

    def router(self) -> APIRouter:
        """One route for each file; they are no part of the described API."""
        router = APIRouter()
        for path in self._files:
            router.add_api_route(
                path, self._answer, methods=["GET", "HEAD"], response_model=None, include_in_schema=False
            )
        return router

    async def _answer(self, request: Request) -> Response:
        file = self._files[request.scope["path"]]
        headers = {**_HEADERS, "etag": file.entity_tag}
        if file.entity_tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)


def _files() -> list[Path]:
    return [path for path in _DIRECTORY.rglob("*") if path.suffix in _MEDIA_TYPES]


def _path_of(path: Path) -> str:
    name = path.relative_to(_DIRECTORY).as_posix()
    return "/" if name == _INDEX else f"/page/{name}"


def _read(path: Path) -> _File:
    content = path.read_bytes()
    return _File(content, _MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
