"""What is asked of a model in the terminal and what comes back, as plain data. Knows no engine and no screen."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from transom.llm.chat_events import ContentPiece, ReasoningPiece
from transom.request import FinishReason, Usage
from transom.server.cache_field import CacheField

Message = dict[str, str]
"""`role` and `content`."""


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How an answer is made; None = as the model's authors, or its registry entry, recommend."""

    max_tokens: int | None = None
    """None: `DEFAULT_MAX_TOKENS`; 0 or less: as many as the context window holds."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    cache: CacheField | None = None
    """What the attention of an answer may forget."""


DEFAULT_MAX_TOKENS = 512
"""Of an answer, unless somebody says otherwise: models without an end of their own would fill the context window."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Messages to be answered, or a text to be continued."""

    messages: tuple[Message, ...] = ()
    text: str | None = None
    """For a model without a chat template; `messages` is empty then."""
    continues: bool = False
    """The last message is the model's own, and goes on."""


class Limit(StrEnum):
    """Which limit an answer had."""

    GIVEN = "max_tokens"
    DEFAULT = "default"
    WINDOW = "context window"
    BUDGET = "KV budgets"


def limit_open_answer(max_tokens: int | None, room: int, held: int) -> tuple[Limit, int]:
    """The limit of an answer whose length nobody chose (None), or that may be as long as it wants (0 or less).

    `room` tokens are left of the context window, `held` of the KV budgets.
    """
    bounds = [(room, Limit.WINDOW), (held, Limit.BUDGET)]
    if max_tokens is None:
        bounds.append((DEFAULT_MAX_TOKENS, Limit.DEFAULT))
    least, limit = min(bounds, key=lambda bound: bound[0])
    return limit, least


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """So many tokens of the prompt are computed."""

    num_computed_tokens: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Ending:
    """The last piece of an answer."""

    finish_reason: FinishReason
    usage: Usage
    limit: Limit
    max_tokens: int
    """By this limit."""


Piece = PromptProgress | ContentPiece | ReasoningPiece | Ending


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Which messages have to go so that the rest and its answer fit."""

    indices: tuple[int, ...]
    num_tokens: int
    """In them."""
    num_left_tokens: int
    """In the rest."""


@dataclass(frozen=True, slots=True)
class TierUse:
    """Keys and values in one tier: blocks that running answers use, blocks that are kept for what begins alike."""

    name: str
    num_used_blocks: int
    num_kept_blocks: int
    num_bytes: int
    num_bytes_total: int


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What a model's keys and values take, as of its last report."""

    block_size: int
    tiers: tuple[TierUse, ...]
    """The hot one, and the cold one if there is one."""


class ChatModel(Protocol):
    """A model that is spoken to, wherever it runs."""

    @property
    def id(self) -> str: ...
    @property
    def is_chat(self) -> bool:
        """It has a chat template, and nobody wants its texts continued instead."""
        ...

    @property
    def context_window(self) -> int: ...
    @property
    def description(self) -> str:
        """A line for who begins to speak to it."""
        ...

    def answer(self, asked: Asked, settings: AnswerSettings) -> AsyncGenerator[Piece]:
        """Pieces, `Ending` last; closing the generator stops the model and frees what the answer holds.

        Raises `RequestError`, whose code says whether context window or budgets are too small; `UnavailableError`,
        `EngineError`.
        """
        ...

    async def count(self, asked: Asked) -> int:
        """Tokens of what is asked. Raises `RequestError`."""
        ...

    async def fit(self, messages: tuple[Message, ...], settings: AnswerSettings) -> LeftOut:
        """What `truncation: "auto"` leaves out of them. Raises `RequestError`."""
        ...

    async def strategy(self, settings: AnswerSettings) -> str:
        """What the attention of an answer may forget, in words. Raises `RequestError` for settings that cannot be."""
        ...

    async def cache_use(self) -> CacheUse | None:
        """None while nothing is known of it, or where it is not for the asker."""
        ...


OnProgress = Callable[[int, int], None]
"""Told how many of how many bytes are loaded."""


class Models(Protocol):
    """The models that can be spoken to, one at a time."""

    @property
    def current(self) -> ChatModel:
        """The open one."""
        ...

    def names(self) -> list[str]:
        """Of those that are known; others may be opened, too."""
        ...

    async def open(self, name: str, on_progress: OnProgress) -> None:
        """Another model becomes the current one; when that fails, the one before is.

        Raises `ConfigError`, `UnavailableError` and what else keeps a model from being loaded.
        """
        ...

    async def close(self) -> None:
        """Gives back what the current model holds."""
        ...
