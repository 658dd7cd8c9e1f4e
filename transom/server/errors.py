"""The one table from this project's errors to HTTP status, OpenAI type and code, and the shape of an error body.

What went wrong inside is for the log; an answer carries what the caller can act on and the request id, nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.responses import Response

from transom.errors import (
    ContextLengthExceededError,
    EngineError,
    KeyQueueFullError,
    ModelNotFoundError,
    QuotaExceededError,
    RequestError,
    TransomError,
    UnavailableError,
)

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """Everything an error answer says. `extra` are further members of the error object, `headers` of the answer."""

    status: int
    message: str
    type: str
    code: str | None
    param: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The JSON body, in OpenAI's form."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code, **self.extra}
        return {"error": error}

    def response(self) -> Response:
        """The answer as a whole."""
        return Response(orjson.dumps(self.body()), self.status, self.headers, media_type="application/json")


class HttpError(Exception):
    """A refusal that only HTTP has words for: wrong method, media type, size, key. Carries its whole answer."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None,
        *,
        type: str = INVALID_REQUEST,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reply = ErrorReply(status, message, type, code, headers=headers or {})


def reply_to(error: Exception) -> ErrorReply:
    """The answer to any exception. Unknown ones become a 500 that says nothing of their text."""
    match error:
        case HttpError():
            return error.reply
        case ContextLengthExceededError():
            numbers = {"n_prompt_tokens": error.num_prompt_tokens, "n_ctx": error.context_window}
            return _refusal(400, error, numbers)
        case ModelNotFoundError():
            return _refusal(404, error)
        case RequestError():
            return _refusal(400, error)
        case QuotaExceededError():
            return _over_quota(error)
        case KeyQueueFullError():
            return _passing(429, _RATE_LIMIT, error)
        case UnavailableError():
            return _passing(503, SERVER_ERROR, error)
        case EngineError() | TransomError():
            return ErrorReply(500, str(error) if isinstance(error, EngineError) else _FIXED, SERVER_ERROR, _INTERNAL)
        case _:
            return ErrorReply(500, _FIXED, SERVER_ERROR, _INTERNAL)


_INTERNAL = "internal_error"
_RATE_LIMIT = "rate_limit_error"
_USED_UP = "insufficient_quota"
_FIXED = "The server failed to answer this request. The log has the details under this answer's x-request-id."


def _refusal(status: int, error: RequestError, extra: dict[str, Any] | None = None) -> ErrorReply:
    return ErrorReply(status, str(error), INVALID_REQUEST, error.code, error.param, extra or {})


def _over_quota(error: QuotaExceededError) -> ErrorReply:
    """A stock client waits by itself, but not for a day."""
    headers, limit = _retry_headers(error.retry_after_seconds), {"limit": error.limit, "scope": error.scope}
    if error.is_daily:
        headers["x-should-retry"] = "false"
        return ErrorReply(429, str(error), _USED_UP, _USED_UP, extra=limit, headers=headers)
    return ErrorReply(429, str(error), _RATE_LIMIT, "rate_limit_exceeded", extra=limit, headers=headers)


def _passing(status: int, type: str, error: UnavailableError) -> ErrorReply:
    return ErrorReply(status, str(error), type, error.code, headers=_retry_headers(error.retry_after_seconds))


def _retry_headers(seconds: float) -> dict[str, str]:
    milliseconds = math.ceil(max(seconds, 0.001) * 1000)
    return {"retry-after": str(math.ceil(milliseconds / 1000)), "retry-after-ms": str(milliseconds)}
