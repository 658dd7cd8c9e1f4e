"""From token outputs of one sequence to text: detokenization, stop strings, log probabilities with their texts. Pure.

The state machine behind `LLM.generate`; needs no event loop and no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transom.errors import EngineError
from transom.llm.generation_request import GenerationRequest, RivalToken, TextDelta, TokenDetail
from transom.llm.stop_strings import StopStringScanner
from transom.request import FinishReason, RequestOutput, TokenLogprobs, Usage
from transom.tokenizer import Detokenizer, Tokenizer


class TextStream:
    """Feeds on `RequestOutput`s of one sequence, whatever number of tokens each brings; gives `TextDelta`s.

    The joined text, its end and the counted tokens depend on the tokens alone, not on how outputs were merged.
    """

    def __init__(self, tokenizer: Tokenizer, request: GenerationRequest) -> None:
        self._tokenizer = tokenizer
        self._request = request
        self._prompt_ids = request.request.prompt_token_ids
        self._detokenizer = self._new_detokenizer(self._prompt_ids)
        self._scanner = StopStringScanner(request.stop, include_stop=request.include_stop_str_in_output)
        self._call_reader = request.new_call_reader() if request.new_call_reader is not None else None
        self._text_offset = 0
        self._num_completion_tokens = 0
        self._counted: Usage | None = None
        """What the engine told last."""
        self._prompt_text = self._take_prompt() if request.echo else ""

    def feed(self, output: RequestOutput) -> TextDelta:
        """What `output` adds; nothing may be fed after a delta with `finish_reason`. EngineError: it failed."""
        if output.finish_reason is FinishReason.ERROR:
            raise EngineError(output.error or "The request failed inside the engine.")
        self._counted = output.usage or self._counted
        texts: list[str] = []
        offsets: list[int] = []
        details: list[TokenDetail] = []
        for index, token_id in enumerate(output.token_ids):
            if output.logprobs is not None:
                details.append(self._detail(output.logprobs[index], self._text_offset))
            offsets.append(self._text_offset)
            texts.append(self._take_token(token_id, is_stop_token=self._is_stop_token(output, index)))
            if self._is_complete:
                break
        num_tokens = len(texts)
        delta = TextDelta(
            token_ids=output.token_ids[:num_tokens],
            text_offsets=tuple(offsets),
            logprobs=None if output.logprobs is None else tuple(details),
            prompt_logprobs=self._prompt_details(output),
            num_computed_tokens=output.num_computed_tokens,
            queue_seconds=output.queue_seconds,
            vector=output.vector,
        )
        delta = self._finished(delta, output, texts)
        if delta.token_ids or delta.finish_reason is not None:
            texts.insert(0, self._prompt_text)
            self._prompt_text = ""
        return replace(delta, text="".join(texts))

    def _finished(self, delta: TextDelta, output: RequestOutput, texts: list[str]) -> TextDelta:
        """`delta` with its end, if this is it; the last text is added to `texts`."""
        if not self._is_complete and output.finish_reason is not None:
            texts.append(self._scanner.feed(self._detokenizer.flush()))
        if self._is_complete:
            usage = self.usage_with(self._counted)
            return replace(delta, finish_reason=FinishReason.STOP, stop_reason=self._scanner.matched, usage=usage)
        if output.finish_reason is None:
            return delta
        texts.append(self._scanner.flush())
        wanted = output.stop_token_id in self._request.request.sampling.stop_token_ids
        return replace(
            delta,
            finish_reason=output.finish_reason,
            stop_reason=output.stop_token_id if wanted else None,
            usage=output.usage or self.usage_with(self._counted),
        )

    def _take_token(self, token_id: int, *, is_stop_token: bool) -> str:
        """The certain text after one more token. The stop token itself shows only where stops are to be included."""
        self._num_completion_tokens += 1
        if is_stop_token and not self._request.include_stop_str_in_output:
            return ""
        text = self._detokenizer.feed(token_id)
        self._text_offset += len(text)
        certain = self._scanner.feed(text)
        if self._call_reader is not None:
            self._call_reader.feed(certain)
        return certain

    @property
    def _is_complete(self) -> bool:
        """By what the text says, whether the engine would go on or not."""
        has_called = self._call_reader is not None and self._call_reader.has_called
        return has_called or self._scanner.matched is not None

    def _is_stop_token(self, output: RequestOutput, index: int) -> bool:
        return output.stop_token_id is not None and index == len(output.token_ids) - 1

    def _take_prompt(self) -> str:
        """The prompt's text; a character that its last tokens only begin belongs to what follows."""
        detokenizer = self._new_detokenizer(())
        text = "".join(map(detokenizer.feed, self._prompt_ids))
        self._text_offset = len(text)
        return text

    def usage_with(self, counted: Usage | None) -> Usage:
        """The tokens that were fed, for the engine may have gone on beyond the one that completed a stop string, with
        what only the engine can count."""
        own = Usage(len(self._prompt_ids), self._num_completion_tokens)
        return replace(
            counted or own, num_prompt_tokens=own.num_prompt_tokens, num_completion_tokens=own.num_completion_tokens
        )

    def _prompt_details(self, output: RequestOutput) -> tuple[TokenDetail, ...] | None:
        if output.prompt_logprobs is None:
            return None
        detokenizer = self._new_detokenizer(())
        offset = 0
        details = []
        for token_id, logprobs in zip(self._prompt_ids, output.prompt_logprobs, strict=True):
            details.append(self._detail(logprobs, offset) if logprobs else self._unscored(token_id, offset))
            offset += len(detokenizer.feed(token_id))
        return tuple(details)

    def _detail(self, logprobs: TokenLogprobs, offset: int) -> TokenDetail:
        rivals = tuple(RivalToken(token_id, self._bytes(token_id), logprob) for token_id, logprob in logprobs.top)
        unscored = self._unscored(logprobs.token_id, offset)
        return replace(unscored, logprob=logprobs.logprob, top=rivals, rank=logprobs.rank)

    def _unscored(self, token_id: int, offset: int) -> TokenDetail:
        return TokenDetail(token_id, self._bytes(token_id), logprob=None, text_offset=offset)

    def _bytes(self, token_id: int) -> bytes:
        return self._tokenizer.token_bytes(token_id)

    def _new_detokenizer(self, prompt_ids: Sequence[int]) -> Detokenizer:
        return Detokenizer(
            self._tokenizer,
            prompt_ids,
            skip_special_tokens=self._request.skip_special_tokens,
            shown_tokens=self._request.shown_tokens,
        )
