"""`LLM`: one served model from text to text. Joins tokenizer, chat template and engine; owns promise 1 (the context).

Knows no HTTP, no tensors, and of the engine only that it generates tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol

from transom.config.model_config import GenerationDefaults, ModelConfig
from transom.errors import ContextLengthExceededError, RequestError
from transom.grammar.compiler import GrammarCompiler
from transom.grammar.structure import Structure
from transom.grammar.vocabulary import Vocabulary
from transom.llm.chat_format import ChatFormat
from transom.llm.generation_request import GenerationRequest, TextDelta
from transom.llm.text_stream import TextStream
from transom.llm.tool_parsers import tell_in_words
from transom.request import CacheStrategy, GrammarSpec, Request, RequestOutput, Usage
from transom.tokenizer import ChatTemplate, FillInMiddle, RenderedChat, Tokenizer, encode_inner

TEMPLATE_VARIABLES = frozenset({"date_string", "enable_thinking", "reasoning_effort", "thinking", "thinking_budget"})
"""What a request may tell a chat template beside the messages: these names, with scalar values."""


class TokenGenerator(Protocol):
    """What `LLM` needs of an engine."""

    def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        """Outputs of one request until one has `finish_reason`. Errors of admission are raised before the first."""
        ...

    async def abort(self, request_id: str) -> None:
        """Ends a request and frees what it holds; an unknown or finished one is no error."""
        ...


class LLM:
    """A model that reads and writes text. `generate` belongs to the event loop; the rest is safe in any thread.

    `encode` and `encode_chat` block (milliseconds to a second, by length) and release the GIL for most of it: run them
    by `asyncio.to_thread`. `close` ends the helper processes; the engine is its owner's.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        tokenizer: Tokenizer,
        chat_template: ChatTemplate,
        generation_defaults: GenerationDefaults,
        engine: TokenGenerator,
        *,
        tool_parser: str | None = None,
    ) -> None:
        """`tool_parser` names the format of function calls; None is the chat template's."""
        self.model_config = model_config
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.generation_defaults = generation_defaults
        self.fill_in_middle = FillInMiddle.of(tokenizer)
        self.chat_format = ChatFormat.of(chat_template.source, self._special_token_id, tool_parser)
        self._engine = engine
        self._compiling = ThreadPoolExecutor(1, "grammar-compiler")  # the shared threads are for who is quick
        self._grammars = GrammarCompiler(lambda: Vocabulary.of(tokenizer, model_config.vocab_size))

    @property
    def context_window(self) -> int:
        """The most tokens that prompt and completion may have together."""
        return self.model_config.max_position_embeddings

    def encode(self, text: str, *, add_special_tokens: bool = True, parse_special_tokens: bool = False) -> list[int]:
        """Token ids of a prompt; special tokens that it spells stay text unless `parse_special_tokens`."""
        return self.tokenizer.encode(
            text, add_special_tokens=add_special_tokens, parse_special_tokens=parse_special_tokens
        )

    def encode_middle(self, before: str | Sequence[int], after: str, *, add_special_tokens: bool = True) -> list[int]:
        """The prompt whose continuation stands between two texts; RequestError for a model that was not made for it."""
        if self.fill_in_middle is None:
            raise RequestError(
                "The parameter 'suffix' is not supported by this model: it has no tokens for filling in the middle.",
                param="suffix",
                code="unsupported_parameter",
            )
        before_ids = encode_inner(self.tokenizer, before) if isinstance(before, str) else before
        ids = self.fill_in_middle.arrange(before_ids, encode_inner(self.tokenizer, after))
        return self.tokenizer.surround(ids) if add_special_tokens else ids

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **template_variables: Any,
    ) -> list[int]:
        """Token ids of a conversation. TemplateError when the template refuses; RequestError for a foreign variable."""
        chat = self.render_chat(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **template_variables,
        )
        return chat.encode(self.tokenizer)

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **template_variables: Any,
    ) -> RenderedChat:
        """The conversation as text (`.text`), before it becomes tokens. Raises as `encode_chat`."""
        _check_template_variables(template_variables)
        if not self.chat_format.knows_tools:
            messages, tools = tell_in_words(messages, tools), None
        return self.chat_template.render(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **template_variables,
        )

    async def compile_grammar(self, structure: Structure, param: str) -> GrammarSpec:
        """The grammar of a prescribed form, for `SamplingParams`; RequestError naming `param`. New ones take turns."""
        if self._grammars.is_known(structure):
            return self._grammars.compile(structure, param)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._compiling, self._grammars.compile, structure, param)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids (checked by `check_token_ids`)."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def check_token_ids(self, token_ids: Sequence[int], param: str) -> None:
        """RequestError naming the first id outside of the model's vocabulary."""
        vocab_size = self.model_config.vocab_size
        if 0 <= min(token_ids, default=0) <= max(token_ids, default=0) < vocab_size:
            return
        wrong = next(token_id for token_id in token_ids if not 0 <= token_id < vocab_size)
        raise RequestError(f"Token id {wrong} is out of range: ids are 0 to {vocab_size - 1}.", param=param)

    def check_context(self, num_prompt_tokens: int, max_tokens: int | None, param: str) -> int:
        """How many tokens may be generated: `max_tokens`, or the rest of the context window for None.

        Nothing is cut to fit: ContextLengthExceededError when the prompt leaves no room for `max_tokens`, or for a
        single token. `param` names the request field that holds the prompt.
        """
        room = self.context_window - num_prompt_tokens
        wanted = max(room, 1) if max_tokens is None else max_tokens
        if wanted > room:
            raise ContextLengthExceededError(
                num_prompt_tokens=num_prompt_tokens,
                max_tokens=wanted,
                context_window=self.context_window,
                param=param,
            )
        return wanted

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextDelta]:
        """Deltas of one sequence; the last one has `finish_reason` and `usage`.

        Errors of admission (BudgetExceededError, UnavailableError, ...) are raised by the first step. Ending the
        iteration early, by `aclose` or cancellation, aborts the engine's request; so does a stop string, before its
        delta is given. Where the cache strategy may forget, that delta waits for the engine's count of what it forgot,
        a step at most.
        """
        stream = TextStream(self.tokenizer, request)
        engine_is_done = False
        try:
            async with aclosing(_closable(self._engine.generate(request.request))) as outputs:
                async for output in outputs:
                    engine_is_done = output.finish_reason is not None
                    delta = stream.feed(output)
                    if delta.finish_reason is not None and not engine_is_done:
                        engine_is_done = True
                        await self._engine.abort(request.request.request_id)
                        if _may_forget(request.request):
                            delta = replace(delta, usage=stream.usage_with(await _last_usage(outputs)))
                    yield delta
                    if delta.finish_reason is not None:
                        return
        finally:
            if not engine_is_done:
                await self._engine.abort(request.request.request_id)

    def _special_token_id(self, token: str) -> int | None:
        return self.tokenizer.token_to_id(token) if token in self.tokenizer.special_tokens else None

    def close(self) -> None:
        """Ends the helper processes."""
        self.chat_template.close()
        self._compiling.shutdown(wait=False, cancel_futures=True)
        self._grammars.close()


async def _closable(outputs: AsyncIterator[RequestOutput]) -> AsyncGenerator[RequestOutput]:
    """`outputs` as a generator, which can be closed; closes `outputs` with it where that can be closed, too."""
    try:
        async for output in outputs:
            yield output
    finally:
        if isinstance(outputs, AsyncGenerator):
            await outputs.aclose()


def _may_forget(request: Request) -> bool:
    return request.cache is not None and request.cache.strategy is not CacheStrategy.FULL


async def _last_usage(outputs: AsyncIterator[RequestOutput]) -> Usage | None:
    """What the engine counted of a request that was just aborted: how much it forgot is known to nobody else."""
    async for output in outputs:
        if output.finish_reason is not None:
            return output.usage
    return None


def _check_template_variables(variables: Mapping[str, Any]) -> None:
    for name, value in variables.items():
        if name not in TEMPLATE_VARIABLES:
            raise RequestError(
                f"'{name}' is not a chat template variable that a request may set; these are: "
                f"{', '.join(sorted(TEMPLATE_VARIABLES))}.",
                param="chat_template_kwargs",
            )
        if not isinstance(value, str | int | float | bool | None):
            raise RequestError(f"'{name}' must be a string, number or boolean.", param="chat_template_kwargs")
