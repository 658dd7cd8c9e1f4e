"""What a route holds until its answer is over: an `ExitStack` in the request's state. Pure ASGI.

A route returns before its answer is sent, and may be cancelled in between; this is closed whatever happens.
"""

from __future__ import annotations

from contextlib import ExitStack

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send


class UntilAnswered:
    """Gives every request its stack."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as stack:
            scope.setdefault("state", {})["until_answered"] = stack
            await self._app(scope, receive, send)


def until_answered(request: Request) -> ExitStack:
    """What is entered here is left when the answer is over."""
    stack = request.state.until_answered
    assert isinstance(stack, ExitStack)
    return stack
