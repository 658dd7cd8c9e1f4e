"""`transom run`: one model in its own worker, without HTTP; what it writes goes to standard output as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from transom.cli.failure import say
from transom.cli.options import ModelOptions
from transom.cli.sources import adjust_limits, load_registry, num_threads
from transom.errors import ConfigError, RequestError
from transom.llm import GenerationRequest
from transom.registry import ModelRegistry, ServedModel
from transom.request import Request, SamplingParams

Message = dict[str, str]
_MAX_LINE_BYTES = 65536
"""A terminal hands over one line at a time, and none longer than 4096 bytes."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; None = as the model's authors recommend."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None


def run_in_terminal(
    options: ModelOptions, prompt: str | None, sampling: Sampling, *, system: str | None, complete: bool
) -> None:
    """Answers `prompt`, or what comes by a pipe, or everything that is typed until the end of input."""
    asyncio.run(_run(options, prompt, sampling, system, complete))


async def _run(
    options: ModelOptions, prompt: str | None, sampling: Sampling, system: str | None, complete: bool
) -> None:
    async with _loaded(options) as served:
        terminal = _Terminal(served, sampling, system, is_chat=not complete and not served.llm.chat_template.is_default)
        if prompt is not None:
            await terminal.answer(prompt)
        elif not sys.stdin.isatty():
            await terminal.answer(await asyncio.to_thread(sys.stdin.read))
        else:
            await terminal.converse()


@asynccontextmanager
async def _loaded(options: ModelOptions) -> AsyncIterator[ServedModel]:
    entries = load_registry(options).models[:1]
    registry = ModelRegistry.prepare(
        entries, num_threads=num_threads(options), adjust=lambda config: adjust_limits(options, config)
    )
    try:
        for failure in await registry.start():
            raise failure.error
        yield registry.first()
    finally:
        await registry.close()


class _Terminal:
    """A conversation, or a row of independent completions, with one model."""

    def __init__(self, served: ServedModel, sampling: Sampling, system: str | None, *, is_chat: bool) -> None:
        if system is not None and not is_chat:
            raise ConfigError("--system needs a model with a chat template")
        self._served = served
        self._sampling = sampling
        self._is_chat = is_chat
        self._messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._numbers = itertools.count(1)

    async def converse(self) -> None:
        """Until the end of input. An answer that cannot be given is said, and the conversation goes on."""
        while (line := await _read_line()) is not None:
            if not line.strip():
                continue
            try:
                await self.answer(line)
            except RequestError as error:
                say(str(error))

    async def answer(self, text: str) -> None:
        """Writes the answer to `text`, or its continuation. `RequestError` leaves the conversation as it was."""
        if not self._is_chat:
            ids = await asyncio.to_thread(self._served.llm.encode, text)
            await self._write(ids, "prompt")
            return
        messages = [*self._messages, {"role": "user", "content": text}]
        ids = await asyncio.to_thread(self._served.llm.encode_chat, messages)
        reply = await self._write(ids, "messages")
        self._messages = [*messages, {"role": "assistant", "content": reply}]

    async def _write(self, ids: Iterable[int], param: str) -> str:
        prompt = tuple(ids)
        if not prompt:
            raise RequestError("The prompt is empty.", param=param)
        request = Request(f"run-{next(self._numbers)}", prompt, self._params(self._max_tokens(prompt, param)))
        texts: list[str] = []
        async with contextlib.aclosing(self._served.llm.generate(GenerationRequest(request))) as deltas:
            async for delta in deltas:
                texts.append(delta.text)
                print(delta.text, end="", flush=True)
        print()
        return "".join(texts)

    def _max_tokens(self, prompt: tuple[int, ...], param: str) -> int:
        """As given, or what the context window and the KV budgets leave."""
        room = self._served.llm.check_context(len(prompt), self._sampling.max_tokens, param)
        if self._sampling.max_tokens is not None:
            return room
        held = self._served.max_request_tokens(self._served.engine_config.cache) - len(prompt)
        return min(room, max(1, held))

    def _params(self, max_tokens: int) -> SamplingParams:
        given, model = self._sampling, self._served.generation_defaults
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=_first(given.temperature, model.temperature, 1.0),
            top_p=_first(given.top_p, model.top_p, 1.0),
            top_k=max(0, int(_first(given.top_k, model.top_k, 0))),
            min_p=_first(given.min_p, model.min_p, 0.0),
            repetition_penalty=_first(None, model.repetition_penalty, 1.0),
            seed=given.seed,
        )


async def _read_line() -> str | None:
    """One typed line, None at the end of input. No thread waits for it, so Ctrl-C need not, either."""
    print("> ", end="", flush=True)
    loop = asyncio.get_running_loop()
    typed = asyncio.Event()
    descriptor = sys.stdin.fileno()
    loop.add_reader(descriptor, typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(descriptor)
    line = os.read(descriptor, _MAX_LINE_BYTES)
    if not line:
        print()
    return line.decode("utf-8", "replace").rstrip("\n") if line else None


def _first(given: float | None, model: float | None, default: float) -> float:
    return next(value for value in (given, model, default) if value is not None)
