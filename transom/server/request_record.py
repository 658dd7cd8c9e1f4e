"""What is noted of one request while it is answered: for its line in the log, the metrics and its trace.

Plain data in the request's state, put there by the outermost layer, filled in by whoever knows. Numbers and words of
the program's own alone; never a text, a key or a path that a caller has written.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.types import Scope

from transom.errors import QuotaExceededError
from transom.request import Usage
from transom.server.errors import ErrorReply


@dataclass(slots=True)
class RequestRecord:
    """Times are those of `time.perf_counter`."""

    request_id: str
    arrived: float = field(default_factory=time.perf_counter)
    model: str | None = None
    """Of routes that name one."""
    tenant: str = ""
    answer_id: str | None = None
    """The ids that the engine's requests begin with."""
    queued: float | None = None
    """When its first sequence began to wait for its turn."""
    queue_seconds: float | None = None
    """How long that waited for its first step."""
    first_token: float | None = None
    last_token: float | None = None
    usage: Usage | None = None
    finish_reasons: list[str] = field(default_factory=list)
    """Of the sequences that ended, in that order."""
    error_code: str | None = None
    failed_with: int | None = None
    """The status of an answer that failed after its beginning."""
    over_quota: tuple[str, str] | None = None
    """The limit and whose it is, for a refusal that a quota is the reason of."""

    def note_error(self, error: Exception, reply: ErrorReply) -> None:
        """The request ends with `reply`."""
        self.error_code = reply.code
        if isinstance(error, QuotaExceededError):
            self.over_quota = error.limit, error.scope

    def log_fields(self) -> dict[str, Any]:
        """What is known, by the names of the log."""
        usage = self.usage
        fields = {
            "request_id": self.request_id,
            "answer_id": self.answer_id,
            "model": self.model,
            "tenant": self.tenant or None,
            "prompt_tokens": usage and usage.num_prompt_tokens,
            "cached_tokens": usage and usage.num_cached_tokens,
            "completion_tokens": usage and usage.num_completion_tokens,
            "queue_seconds": _rounded(self.queue_seconds),
            "ttft_seconds": _rounded(None if self.first_token is None else self.first_token - self.arrived),
            "finish_reason": ",".join(dict.fromkeys(self.finish_reasons)) or None,
            "error_code": self.error_code,
        }
        return {name: value for name, value in fields.items() if value is not None}


def record_of(holder: Request | Scope) -> RequestRecord:
    """The record of a request, or of its scope."""
    record = (holder.scope if isinstance(holder, Request) else holder)["state"]["record"]
    assert isinstance(record, RequestRecord)
    return record


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
