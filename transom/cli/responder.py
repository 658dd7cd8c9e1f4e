"""`Responder`: a model in a worker of this program that answers messages or continues texts, piece by piece.

Knows the text room and the served model, and nothing of terminals.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from transom.cache.stats import CacheStats
from transom.cli.answers import (
    AnswerSettings,
    Asked,
    CacheUse,
    Ending,
    LeftOut,
    Limit,
    Message,
    Piece,
    PromptProgress,
    TierUse,
    limit_open_answer,
)
from transom.cli.banner import count_full_attention, window_text
from transom.engine import EngineState
from transom.errors import RequestError
from transom.llm import GenerationRequest
from transom.llm.chat_events import ContentPiece, ReasoningPiece
from transom.llm.chat_format import AnswerParser
from transom.registry import ServedModel
from transom.request import CacheOptions, Request, SamplingParams
from transom.server.cache_field import cache_options
from transom.server.chat_messages import Message as CheckedMessage
from transom.server.truncation import PromptLimits, fit_messages

_RESTART_POLL_SECONDS = 0.1
_PROMPT_END = 8
"""Tokens in which an opened reasoning shows."""
_SHARE_OF_ANSWER = 4
"""Where messages are left out, an answer gets at least this part of the window."""


class Responder:
    """A chat model, or one whose texts are continued. Lives in the event loop's thread."""

    def __init__(self, served: ServedModel, *, complete: bool = False, separates_reasoning: bool = True) -> None:
        """`complete`: texts are continued, even if there is a chat template. `separates_reasoning`: what the model
        writes for itself comes as pieces of another kind."""
        self.served = served
        self.is_chat = not complete and not served.llm.chat_template.is_default
        self._separates = self.is_chat and separates_reasoning and served.llm.chat_format.reasoning is not None
        self._numbers = itertools.count(1)

    @property
    def id(self) -> str:
        return self.served.id

    @property
    def context_window(self) -> int:
        return self.served.llm.context_window

    @property
    def description(self) -> str:
        config = self.served.model_config
        kind = "chat" if self.is_chat else "completion"
        window = window_text(config.sliding_window, count_full_attention(config))
        text = f"{self.id} ({kind}), context window {self.context_window} tokens, attention window {window}."
        if self.is_chat:
            return text
        reason = "The model has no chat template: every" if self.served.llm.chat_template.is_default else "Every"
        return f"{text} {reason} line is completed on its own."

    async def answer(self, asked: Asked, settings: AnswerSettings) -> AsyncGenerator[Piece]:
        """As `ChatModel`. A worker that died is started again while this waits."""
        await self._until_ready()
        prompt = await asyncio.to_thread(self._encode, asked)
        param = "prompt" if asked.text is not None else "messages"
        if not prompt:
            raise RequestError("The prompt is empty, and this model has no token to begin with.", param=param)
        cache = cache_options(self.served, settings.cache)
        limit, max_tokens = self._limit(len(prompt), param, settings, cache)
        request = Request(f"run-{next(self._numbers)}", prompt, self._params(settings, max_tokens), cache=cache)
        shown = self.served.llm.chat_format.shown_tokens if self._separates else frozenset[str]()
        parser = self._parser(prompt)
        yield PromptProgress(0, len(prompt))
        async with aclosing(self.served.llm.generate(GenerationRequest(request, shown_tokens=shown))) as deltas:
            async for delta in deltas:
                if not (delta.token_ids or delta.text or delta.finish_reason):
                    yield PromptProgress(min(delta.num_computed_tokens, len(prompt)), len(prompt))
                for event in parser.feed(delta.text):
                    if isinstance(event, ContentPiece | ReasoningPiece):
                        yield event
                if delta.finish_reason is not None and delta.usage is not None:
                    for event in parser.finish():
                        if isinstance(event, ContentPiece | ReasoningPiece):
                            yield event
                    yield Ending(delta.finish_reason, delta.usage, limit, max_tokens)

    async def count(self, asked: Asked) -> int:
        """As `ChatModel`."""
        return len(await asyncio.to_thread(self._encode, asked))

    async def fit(self, messages: tuple[Message, ...], settings: AnswerSettings) -> LeftOut:
        """As `ChatModel`; room for the answer is made in any case."""
        most = self.served.max_request_tokens(cache_options(self.served, settings.cache))
        given = settings.max_tokens
        room = given if given is not None and given > 0 else most // _SHARE_OF_ANSWER
        checked = [CheckedMessage(role=each["role"], content=each["content"]) for each in messages]  # type: ignore[arg-type]

        def encode(indices: Sequence[int]) -> tuple[int, ...]:
            return self._encode(Asked(tuple(messages[index] for index in indices)))

        fitted = await asyncio.to_thread(fit_messages, checked, encode, PromptLimits(most - room, most - room))
        if not fitted.left_out and len(fitted.token_ids) >= most:  # that much cannot be had, but any is better
            fitted = await asyncio.to_thread(fit_messages, checked, encode, PromptLimits(most - 1, most - 1))
        return LeftOut(fitted.left_out, fitted.num_left_out_tokens, len(fitted.token_ids))

    async def strategy(self, settings: AnswerSettings) -> str:
        """As `ChatModel`."""
        return strategy_text(cache_options(self.served, settings.cache))

    async def cache_use(self) -> CacheUse | None:
        """As `ChatModel`: the worker's last report, half a second old at most."""
        stats = self.served.engine.stats()
        return None if stats is None else _cache_use(stats.cache)

    async def _until_ready(self) -> None:
        """A worker that died is started again only while the event loop runs."""
        while self.served.engine.status.state is EngineState.RESTARTING:  # noqa: ASYNC110
            await asyncio.sleep(_RESTART_POLL_SECONDS)

    def _encode(self, asked: Asked) -> tuple[int, ...]:
        """Blocks."""
        if asked.text is not None:
            return tuple(self.served.llm.encode(asked.text))
        return tuple(
            self.served.llm.encode_chat(
                asked.messages,
                add_generation_prompt=not asked.continues,
                continue_final_message=asked.continues,
            )
        )

    def _parser(self, prompt: Sequence[int]) -> AnswerParser:
        llm = self.served.llm
        end = llm.decode(prompt[-_PROMPT_END:], skip_special_tokens=False) if self._separates else ""
        return llm.chat_format.parser(
            (),
            separates_reasoning=self._separates,
            is_reasoning_open=llm.chat_format.is_reasoning_open(end),
            parallel=False,
        )

    def _limit(
        self, num_prompt_tokens: int, param: str, settings: AnswerSettings, cache: CacheOptions
    ) -> tuple[Limit, int]:
        """Tokens that may be generated. An explicit number must fit; the default takes what is left."""
        given = settings.max_tokens
        if given is not None and given > 0:
            return Limit.GIVEN, self.served.llm.check_context(num_prompt_tokens, given, param)
        room = self.served.llm.check_context(num_prompt_tokens, None, param)
        # at least one: the engine says what does not fit
        held = max(1, self.served.max_request_tokens(cache) - num_prompt_tokens)
        return limit_open_answer(given, room, held)

    def _params(self, settings: AnswerSettings, max_tokens: int) -> SamplingParams:
        model = self.served.generation_defaults
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=_first(settings.temperature, model.temperature, 1.0),
            top_p=_first(settings.top_p, model.top_p, 1.0),
            top_k=max(0, int(_first(settings.top_k, model.top_k, 0))),
            min_p=_first(settings.min_p, model.min_p, 0.0),
            repetition_penalty=_first(None, model.repetition_penalty, 1.0),
            seed=settings.seed,
        )


def strategy_text(options: CacheOptions) -> str:
    """A strategy with the sizes it uses, in words."""
    sizes = []
    if options.window_size is not None:
        sizes.append(f"window of {options.window_size} tokens")
    if options.keep_first:
        sizes.append(f"the first {options.keep_first} stay")
    return ", ".join([options.strategy.value, *sizes])


def _cache_use(cache: CacheStats) -> CacheUse:
    hot, *cold = cache.tiers
    tiers = [
        TierUse(
            hot.name,
            sum(kind.num_blocks_used for kind in cache.kinds),
            sum(kind.num_reuse_blocks for kind in cache.kinds),
            hot.num_bytes_used + hot.num_bytes_reuse,
            hot.num_bytes_total,
        )
    ]
    tiers += [
        TierUse(
            tier.name,
            sum(kind.num_cold_blocks for kind in cache.kinds),
            sum(kind.num_cold_reuse_blocks for kind in cache.kinds),
            tier.num_physical_bytes,
            tier.num_bytes_total,
        )
        for tier in cold
    ]
    return CacheUse(cache.block_size, tuple(tiers))


def _first(given: float | None, model: float | None, default: float) -> float:
    return next(value for value in (given, model, default) if value is not None)
