"""One model that writes its answers, or the continuation of texts, to standard output as they come."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass

from transom.cli.failure import say
from transom.errors import ConfigError, RequestError
from transom.llm import GenerationRequest
from transom.registry import ServedModel
from transom.request import FinishReason, Request, SamplingParams

DEFAULT_MAX_TOKENS = 512
"""Of an answer, unless somebody says otherwise: models without an end of their own would fill the context window."""

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; None = as the model's authors recommend."""

    max_tokens: int | None = None
    """None: `DEFAULT_MAX_TOKENS`; 0 or less: as many as the context window holds."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None


class Responder:
    """A chat, or a row of independent completions. Raises `ConfigError` for a system message without a chat."""

    def __init__(self, served: ServedModel, sampling: Sampling, system: str | None, *, complete: bool) -> None:
        self.served = served
        self.is_chat = not complete and not served.llm.chat_template.is_default
        if system is not None and not self.is_chat:
            raise ConfigError("--system needs a model with a chat template, and no --complete")
        self._sampling = sampling
        self._messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._numbers = itertools.count(1)

    async def answer(self, text: str) -> None:
        """Writes the answer to `text`, or its continuation.

        What was written belongs to the chat, even if it was cut off by cancellation or an error; `RequestError` leaves
        the chat as it was.
        """
        reply: list[str] = []
        if not self.is_chat:
            ids = await asyncio.to_thread(self.served.llm.encode, text)
            await self._write(ids, "prompt", reply)
            return
        messages = [*self._messages, {"role": "user", "content": text}]
        ids = await asyncio.to_thread(self.served.llm.encode_chat, messages)
        try:
            await self._write(ids, "messages", reply)
        finally:
            if reply:
                self._messages = [*messages, {"role": "assistant", "content": "".join(reply)}]

    async def _write(self, ids: Iterable[int], param: str, written: list[str]) -> None:
        """Prints the answer and appends its pieces to `written`."""
        prompt = tuple(ids)
        if not prompt:
            raise RequestError("The prompt is empty, and this model has no token to begin with.", param=param)
        request = Request(f"run-{next(self._numbers)}", prompt, self._params(self._limit(len(prompt), param)))
        finish_reason: FinishReason | None = None
        async with aclosing(self.served.llm.generate(GenerationRequest(request))) as deltas:
            try:
                async for delta in deltas:
                    written.append(delta.text)
                    finish_reason = delta.finish_reason
                    print(delta.text, end="", flush=True)
            finally:
                if written:
                    print(flush=True)
        if finish_reason is FinishReason.LENGTH:
            self._say_limit(request.sampling.max_tokens)

    def _limit(self, num_prompt_tokens: int, param: str) -> int:
        """Tokens that may be generated. An explicit number must fit; the default takes what is left."""
        given = self._sampling.max_tokens
        if given is not None and given > 0:
            return self.served.llm.check_context(num_prompt_tokens, given, param)
        room = min(self.served.llm.check_context(num_prompt_tokens, None, param), self._held(num_prompt_tokens))
        return min(room, DEFAULT_MAX_TOKENS) if given is None else room

    def _held(self, num_prompt_tokens: int) -> int:
        """Tokens behind the prompt that the KV budgets hold; at least one: the engine says what does not fit."""
        return max(1, self.served.max_request_tokens(self.served.engine_config.cache) - num_prompt_tokens)

    def _say_limit(self, max_tokens: int) -> None:
        """Nobody asked for this number, so it is said."""
        if self._sampling.max_tokens is None and max_tokens == DEFAULT_MAX_TOKENS:
            say(f"stopped after {max_tokens} tokens; -n N sets another limit, -n 0 leaves only the context window")
        elif self._sampling.max_tokens is None or self._sampling.max_tokens < 1:
            held = self.served.max_request_tokens(self.served.engine_config.cache)
            limit = "the context window" if held >= self.served.llm.context_window else "what the KV budgets hold"
            say(f"stopped at the end of {limit}, {min(held, self.served.llm.context_window)} tokens")

    def _params(self, max_tokens: int) -> SamplingParams:
        given, model = self._sampling, self.served.generation_defaults
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=_first(given.temperature, model.temperature, 1.0),
            top_p=_first(given.top_p, model.top_p, 1.0),
            top_k=max(0, int(_first(given.top_k, model.top_k, 0))),
            min_p=_first(given.min_p, model.min_p, 0.0),
            repetition_penalty=_first(None, model.repetition_penalty, 1.0),
            seed=given.seed,
        )


def _first(given: float | None, model: float | None, default: float) -> float:
    return next(value for value in (given, model, default) if value is not None)
