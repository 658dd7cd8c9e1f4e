"""`OpenRequests`: which sequences are being answered, and for whom. Knows no engine; one thread, the event loop's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from transom.server.caller import Caller
from transom.server.plan import Plan


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """One sequence, from the moment its answer begins until that is over. Holds no text."""

    request_id: str
    """The engine's."""
    answer_id: str
    model: str
    key: str
    """Name of the key that asked, "" without one."""
    num_prompt_tokens: int
    max_tokens: int

    def is_visible_to(self, caller: Caller) -> bool:
        """Admins see everything, everybody else what their own key asked for."""
        return caller.is_admin or caller.name == self.key


class OpenRequests:
    """Of one server."""

    def __init__(self) -> None:
        self._requests: dict[str, OpenRequest] = {}

    @contextmanager
    def noted(self, plan: Plan, caller: Caller) -> Iterator[None]:
        """All sequences of the answer are open within."""
        opened = {request.request_id: request for request in _requests(plan, caller)}
        self._requests |= opened
        try:
            yield
        finally:
            for request_id in opened:
                del self._requests[request_id]

    def of_model(self, model: str) -> Mapping[str, OpenRequest]:
        """By the engine's id, in order of arrival."""
        return {request_id: each for request_id, each in self._requests.items() if each.model == model}


def _requests(plan: Plan, caller: Caller) -> Iterator[OpenRequest]:
    for generation in plan.requests:
        request = generation.request
        num_prompt_tokens = len(request.prompt_token_ids)
        max_tokens = request.sampling.max_tokens
        yield OpenRequest(request.request_id, plan.id, plan.model, caller.name, num_prompt_tokens, max_tokens)
