"""An engine whose tokens are given in advance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from transom.config.model_config import GenerationDefaults, LayerKind, ModelConfig, RopeConfig
from transom.llm import LLM
from transom.request import FinishReason, Request, RequestOutput, TokenLogprobs, Usage
from transom.tokenizer import ChatTemplate, Tokenizer


class FakeEngine:
    """Plays `outputs` to every request, with the request's id; notes what is started, aborted and closed."""

    def __init__(self, outputs: Sequence[RequestOutput] = (), error: Exception | None = None) -> None:
        self.outputs = list(outputs)
        self.error = error
        self.started: list[Request] = []
        self.aborted: list[str] = []
        self.num_closed = 0

    async def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        """Plays the outputs; then hangs if none of them was the last."""
        self.started.append(request)
        try:
            if self.error is not None:
                raise self.error
            for output in self.outputs:
                await asyncio.sleep(0)
                yield output
            if not self.outputs or self.outputs[-1].finish_reason is None:
                await asyncio.Event().wait()
        finally:
            self.num_closed += 1

    async def abort(self, request_id: str) -> None:
        """Notes the request."""
        self.aborted.append(request_id)


def make_llm(tokenizer: Tokenizer, engine: FakeEngine, *, context_window: int = 256) -> LLM:
    """An `LLM` without a chat template over a fake engine."""
    config = make_model_config(context_window, tokenizer.vocab_size)
    return LLM(config, tokenizer, ChatTemplate(None, tokenizer), GenerationDefaults(), engine)


def make_model_config(context_window: int, vocab_size: int) -> ModelConfig:
    """A tiny Llama; only its context window and vocabulary matter here."""
    return ModelConfig(
        model_type="llama",
        vocab_size=vocab_size,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=context_window,
        layer_types=(LayerKind.FULL_ATTENTION,),
        sliding_window=None,
        hidden_act="silu",
        rms_norm_eps=1e-6,
        rope=RopeConfig("default", 10000.0, 8),
        tie_word_embeddings=True,
        attention_bias=False,
        attention_output_bias=False,
        mlp_bias=False,
        bos_token_id=1,
        eos_token_ids=(2,),
        pad_token_id=None,
        dtype="float32",
    )


def outputs_of(
    token_ids: Sequence[int],
    *,
    chunk: int = 1,
    finish_reason: FinishReason = FinishReason.LENGTH,
    num_prompt_tokens: int = 1,
    with_logprobs: bool = False,
) -> list[RequestOutput]:
    """The outputs of an engine that generates `token_ids`, `chunk` of them at a time."""
    chunks = [tuple(token_ids[start : start + chunk]) for start in range(0, len(token_ids), chunk)]
    outputs = [RequestOutput("r", tokens, _logprobs(tokens) if with_logprobs else None) for tokens in chunks]
    last = chunks[-1]
    outputs[-1] = RequestOutput(
        "r",
        last,
        _logprobs(last) if with_logprobs else None,
        finish_reason=finish_reason,
        stop_token_id=last[-1] if finish_reason is FinishReason.STOP else None,
        usage=Usage(num_prompt_tokens, len(token_ids)),
    )
    return outputs


def _logprobs(tokens: Sequence[int]) -> tuple[TokenLogprobs, ...]:
    return tuple(TokenLogprobs(token, -0.5, ((token, -0.5), (token + 1, -1.5))) for token in tokens)
