"""`RemoteModels`: the models of a running server, spoken to by its HTTP interface. Knows no engine.

Works with a server of this program: it counts, truncates, and tells its progress and its cache by fields of its own.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import quote

import httpx2

from transom.cli.answers import (
    AnswerSettings,
    Asked,
    CacheUse,
    Ending,
    LeftOut,
    Limit,
    Message,
    OnProgress,
    Piece,
    PromptProgress,
    TierUse,
    limit_open_answer,
)
from transom.cli.typed_server import of_this_program, server_address
from transom.errors import ModelNotFoundError, RequestError, TransomError, UnavailableError
from transom.llm.chat_events import ContentPiece, ReasoningPiece
from transom.request import FinishReason, Usage

_TIMEOUT = httpx2.Timeout(None, connect=10.0)
"""An answer may take its time; the server sends pings meanwhile."""


class RemoteModels:
    """Models of one server. Nothing is open until `open` was called."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        complete: bool,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """`transport`: another way to the server than the network. Raises `ConfigError` for an address that is none."""
        self._connection = _Connection(url, api_key, transport)
        self._complete = complete
        self._current: RemoteModel | None = None
        self._names: list[str] = []

    @property
    def current(self) -> RemoteModel:
        assert self._current is not None
        return self._current

    def names(self) -> list[str]:
        """As the server listed them when a model was opened."""
        return self._names

    async def open(self, name: str, on_progress: OnProgress) -> None:  # noqa: ARG002 - the server loads, by and by
        """As `Models`; without a name the server's first model."""
        with of_this_program(self._connection.url):
            listed = (await self._connection.ask("GET", "/v1/models"))["data"]
            self._names = [str(model["id"]) for model in listed]
            chosen = next((model for model in listed if name in ("", model["id"])), None)
            if chosen is None:
                raise ModelNotFoundError(name[:64], self._names)
            self._current = await RemoteModel.of(self._connection, chosen, complete=self._complete)

    async def close(self) -> None:
        """Closes connections."""
        await self._connection.close()


class RemoteModel:
    """One model of a server."""

    def __init__(
        self, connection: _Connection, model_id: str, context_window: int, held: int, *, is_chat: bool
    ) -> None:
        """`held`: the longest request that the model's budgets hold, in tokens."""
        self._connection = connection
        self._id = model_id
        self._context_window = context_window
        self._held = held
        self._is_chat = is_chat

    @classmethod
    async def of(cls, connection: _Connection, listed: Mapping[str, Any], *, complete: bool) -> RemoteModel:
        """By its entry in the server's list."""
        model_id = str(listed["id"])
        properties = await connection.ask("GET", f"/props?model={quote(model_id, safe='')}")
        is_chat = not complete and bool(properties.get("chat_template"))
        window = int(listed["max_model_len"])
        held = (listed.get("meta") or {}).get("max_request_tokens") or window
        return cls(connection, model_id, window, held, is_chat=is_chat)

    @property
    def id(self) -> str:
        return self._id

    @property
    def is_chat(self) -> bool:
        return self._is_chat

    @property
    def context_window(self) -> int:
        return self._context_window

    @property
    def description(self) -> str:
        kind = "chat" if self.is_chat else "completion"
        text = f"{self.id} ({kind}) at {self._connection.url}, context window {self.context_window} tokens."
        return text if self.is_chat else f"{text} Every line is completed on its own."

    async def answer(self, asked: Asked, settings: AnswerSettings) -> AsyncGenerator[Piece]:
        """As `ChatModel`."""
        with of_this_program(self._connection.url):
            limit, max_tokens = await self._limit(asked, settings)
            body = {
                **self._body(asked),
                **_sampling(settings),
                "max_tokens": max_tokens,
                "stream": True,
                "stream_options": {"include_usage": True},
                "return_progress": True,
            }
            reason, usage = None, None
            async for event in self._connection.stream(self._path(asked), _given(body)):
                usage = event.get("usage") or usage
                for piece in _pieces(event):
                    yield piece
                for choice in event.get("choices") or ():
                    reason = choice.get("finish_reason") or reason
            if usage is not None:
                yield Ending(_reason(reason), _usage(usage), limit, max_tokens)

    async def count(self, asked: Asked) -> int:
        """As `ChatModel`."""
        with of_this_program(self._connection.url):
            if asked.text is not None:
                body = {"model": self.id, "content": asked.text, "add_special": True}
                return len((await self._connection.ask("POST", "/tokenize", body))["tokens"])
            answer = await self._connection.ask("POST", "/v1/chat/completions/input_tokens", self._body(asked))
            return int(answer["input_tokens"])

    async def fit(self, messages: tuple[Message, ...], settings: AnswerSettings) -> LeftOut:
        """As `ChatModel`."""
        body = {**self._body(Asked(messages)), **_sampling(settings), "truncation": "auto"}
        if settings.max_tokens is not None and settings.max_tokens > 0:
            body["max_tokens"] = settings.max_tokens
        answer = await self._connection.ask("POST", "/v1/chat/completions/input_tokens", _given(body))
        with of_this_program(self._connection.url):
            truncation = answer["truncation"]
            return LeftOut(
                tuple(truncation["left_out_messages"]), truncation["left_out_tokens"], int(answer["input_tokens"])
            )

    async def strategy(self, settings: AnswerSettings) -> str:
        """As `ChatModel`; whether sizes can be, the server says with the next answer."""
        if settings.cache is None:
            return "as the server is configured"
        sizes = settings.cache.model_dump(exclude_none=True, exclude={"strategy"})
        return ", ".join([str(settings.cache.strategy), *(f"{name} {size}" for name, size in sizes.items())])

    async def cache_use(self) -> CacheUse | None:
        """As `ChatModel`; None for a key that may not see it."""
        try:
            cache = await self._connection.ask("GET", f"/v1/models/{quote(self.id)}/cache")
        except TransomError:
            return None
        with of_this_program(self._connection.url):
            hot, *cold = cache["tiers"]
            layers = cache["layers"]
            tiers = [_tier(hot, layers, "hot", hot["used_bytes"] + hot["reuse_bytes"])]
            tiers += [_tier(tier, layers, "cold", tier["physical_bytes"]) for tier in cold]
            return CacheUse(cache["block_size"], tuple(tiers))

    async def _limit(self, asked: Asked, settings: AnswerSettings) -> tuple[Limit, int]:
        """At least one token: the server says what does not fit."""
        given = settings.max_tokens
        if given is not None and given > 0:
            return Limit.GIVEN, given
        num_tokens = await self.count(asked)
        held = self._held if settings.cache is None else self.context_window
        return limit_open_answer(given, max(1, self.context_window - num_tokens), max(1, held - num_tokens))

    def _body(self, asked: Asked) -> dict[str, Any]:
        if asked.text is not None:
            return {"model": self.id, "prompt": asked.text}
        goes_on = {"add_generation_prompt": False, "continue_final_message": True} if asked.continues else {}
        return {"model": self.id, "messages": list(asked.messages), **goes_on}

    def _path(self, asked: Asked) -> str:
        return "/v1/completions" if asked.text is not None else "/v1/chat/completions"


class _Connection:
    """HTTP with one server; its errors become ours."""

    def __init__(self, url: str, api_key: str | None, transport: httpx2.AsyncBaseTransport | None) -> None:
        server_address(url, "--server")
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=_TIMEOUT, transport=transport)

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Raises `RequestError` for the caller's fault, `UnavailableError` for the server's."""
        try:
            response = await self._client.request(method, path, json=body)
        except httpx2.TransportError as error:
            raise UnavailableError(f"{self.url} cannot be asked: {error}") from error
        return self._checked(response.status_code, response.content)

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The events of an answer; leaving it early closes the connection, which stops the answer."""
        try:
            async with self._client.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    self._checked(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        event = self._checked(200, line.removeprefix("data: ").encode())
                        if "error" in event:
                            raise _error(500, event)
                        yield event
        except httpx2.TransportError as error:
            raise UnavailableError(f"{self.url} cannot be asked: {error}") from error

    def _checked(self, status: int, content: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise UnavailableError(f"{self.url} is not a server of this program")
        if status != 200:
            raise _error(status, answer)
        return answer


def _error(status: int, answer: Mapping[str, Any]) -> TransomError:
    error = answer.get("error")
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message") or f"the server answered {status}")
    if 400 <= status < 429:
        return RequestError(message, code=error.get("code"))
    return UnavailableError(message)


def _sampling(settings: AnswerSettings) -> dict[str, Any]:
    cache = None if settings.cache is None else settings.cache.model_dump(exclude_none=True)
    return {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "min_p": settings.min_p,
        "seed": settings.seed,
        "cache": cache,
    }


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _pieces(event: Mapping[str, Any]) -> list[Piece]:
    pieces: list[Piece] = []
    if progress := event.get("prompt_progress"):
        pieces.append(PromptProgress(int(progress["processed"]), int(progress["total"])))
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if text := delta.get("reasoning_content"):
            pieces.append(ReasoningPiece(_text(text)))
        if text := delta.get("content") or choice.get("text"):
            pieces.append(ContentPiece(_text(text)))
    return pieces


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _reason(text: str | None) -> FinishReason:
    return FinishReason.LENGTH if text == "length" else FinishReason.STOP


def _usage(fields: Mapping[str, Any]) -> Usage:
    details = fields.get("prompt_tokens_details") or {}
    return Usage(
        int(fields["prompt_tokens"]),
        int(fields["completion_tokens"]),
        num_cached_tokens=details.get("cached_tokens") or 0,
        num_evicted_tokens=details.get("evicted_tokens") or 0,
        is_lossy="evicted_tokens" in details,
    )


def _tier(tier: Mapping[str, Any], layers: list[Mapping[str, Any]], name: str, num_bytes: int) -> TierUse:
    used = sum(layer[f"{name}_blocks"] for layer in layers)
    kept = sum(layer[f"{name}_reuse_blocks"] for layer in layers)
    return TierUse(tier["name"], used, kept, num_bytes, tier["total_bytes"])
