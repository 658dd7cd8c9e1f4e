"""Drives a real scheduler over a real cache with a model that is a function of the tokens alone.

Its next token depends on every token before it, so a lost, doubled or reordered token changes all that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.cache.small_models import make_cache
from transom.cache import CacheManager
from transom.request import FinishReason, Request, RequestOutput, SampledToken, SamplingParams, TokenLogprobs
from transom.scheduler import ScheduledSequence, Scheduler, SchedulerOutput

EOS = 2
VOCAB_SIZE = 50


def next_token(token_ids: Sequence[int]) -> int:
    """What the model says after these tokens."""
    state = 17
    for token_id in token_ids:
        state = (state * 31 + token_id + 1) % 1_000_003
    return state % VOCAB_SIZE


def repeating_token(token_ids: Sequence[int]) -> int:
    """The same with much repetition: the last two tokens decide, and now and then the number of tokens does."""
    if len(token_ids) % 23 == 0:
        return len(token_ids) % VOCAB_SIZE
    return next_token(token_ids[-2:]) % 9


def prompt_logprob(token_ids: Sequence[int], position: int) -> TokenLogprobs:
    """The log probability of the token at `position`; tells positions and tokens apart."""
    return TokenLogprobs(int(token_ids[position]), -float(position))


def make_request(request_id: str, num_prompt_tokens: int, max_tokens: int, **options: object) -> Request:
    """A request whose prompt depends on its id; options are those of SamplingParams, and `priority`."""
    priority = options.pop("priority", 0)
    assert isinstance(priority, int)
    prompt = tuple((hash_of(request_id) + 7 * index) % VOCAB_SIZE for index in range(num_prompt_tokens))
    sampling = SamplingParams(max_tokens, **options)  # type: ignore[arg-type]
    return Request(request_id, prompt, sampling, priority)


def hash_of(text: str) -> int:
    """The same in every run, unlike `hash`."""
    return sum((index + 1) * byte for index, byte in enumerate(text.encode()))


def expected_tokens(request: Request, model: Callable[[Sequence[int]], int] = next_token) -> tuple[int, ...]:
    """What a request generates when nothing else exists."""
    sampling = request.sampling
    token_ids = list(request.prompt_token_ids)
    for num_generated in range(sampling.max_tokens):
        token = model(token_ids)
        token_ids.append(token)
        is_stop = token in sampling.stop_token_ids or (token == EOS and not sampling.ignore_eos)
        if is_stop and num_generated >= sampling.min_tokens:
            break
    return tuple(token_ids[len(request.prompt_token_ids) :])


def expected_prompt_logprobs(request: Request) -> tuple[TokenLogprobs | None, ...] | None:
    """What a request hears about its prompt, once."""
    if request.sampling.prompt_logprobs is None:
        return None
    prompt = request.prompt_token_ids
    return (None, *(prompt_logprob(prompt, position) for position in range(1, len(prompt))))


@dataclass
class Driver:
    """One engine in miniature. Checks what must hold in every step, and collects what callers hear."""

    cache: CacheManager
    max_num_seqs: int = 4
    max_num_batched_tokens: int = 50
    max_num_waiting: int = 100
    max_waiting_tokens: int = 100_000
    max_draft_tokens: int = 0
    model: Callable[[Sequence[int]], int] = next_token
    heard: dict[str, list[RequestOutput]] = field(default_factory=dict)
    steps: list[SchedulerOutput] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(
            self.cache,
            eos_token_ids=[EOS],
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_num_waiting=self.max_num_waiting,
            max_waiting_tokens=self.max_waiting_tokens,
            max_draft_tokens=self.max_draft_tokens,
            fresh_seed=lambda: 4711,
        )

    def add(self, *requests: Request) -> None:
        for request in requests:
            self.scheduler.add(request)
            self.heard[request.request_id] = []

    def step(self) -> list[RequestOutput]:
        """One step, if there is anything to do."""
        output = self.scheduler.schedule()
        if output is None:
            assert not self.scheduler.has_unfinished_sequences
            return []
        return self.finish_step(output)

    def finish_step(self, output: SchedulerOutput) -> list[RequestOutput]:
        self.check_step(output)
        results = self.scheduler.update(output, self.sampled(output), self.prompt_logprobs(output))
        self.scheduler.note_seconds(output, seconds=1.0)
        self.steps.append(output)
        for result in results:
            self.heard[result.request_id].append(result)
        self.check_integrity()
        return results

    def finish_step_without(self, request_id: str, output: SchedulerOutput) -> None:
        """Ends a step in which one request came to grief."""
        sampled = {name: token for name, token in self.sampled(output).items() if name != request_id}
        for result in self.scheduler.update(output, sampled, self.prompt_logprobs(output)):
            self.heard[result.request_id].append(result)

    def run(self, max_steps: int = 5000) -> None:
        """Steps until every request has ended."""
        for _ in range(max_steps):
            if not self.scheduler.has_unfinished_sequences:
                return
            self.step()
        raise AssertionError("the requests do not come to an end")

    def check_step(self, output: SchedulerOutput) -> None:
        """The step is within its limits, and the cache agrees to compute it."""
        assert 1 <= output.num_tokens <= self.max_num_batched_tokens
        assert output.num_tokens == sum(each.num_scheduled_tokens for each in output.scheduled)
        assert 1 <= len(output.scheduled) <= self.max_num_seqs
        assert sum(each.num_prompt_logprob_rows for each in output.scheduled) <= 64
        parts = [(each.sequence.cache, each.start, each.num_scheduled_tokens) for each in output.scheduled]
        alive = [(handle, start, count) for handle, start, count in parts if handle is not None]
        assert len(alive) == len(parts)
        self.cache.layer_cache(alive)

    def check_integrity(self) -> None:
        self.cache.check_integrity()
        stats = self.scheduler.stats()
        assert self.cache.stats().num_sequences == stats.num_running <= self.max_num_seqs

    def sampled(self, output: SchedulerOutput) -> dict[str, tuple[SampledToken, ...]]:
        return {each.sequence.request_id: self.sample(each) for each in output.scheduled if each.needs_sample}

    def sample(self, scheduled: ScheduledSequence) -> tuple[SampledToken, ...]:
        """The next token, and those behind it as far as they were guessed."""
        token_ids = scheduled.sequence.token_ids.tolist()
        assert scheduled.end == len(token_ids) + len(scheduled.draft)
        sampled: list[SampledToken] = []
        for guessed in (*scheduled.draft, None):
            token_id = self.model(token_ids)
            token_ids.append(token_id)
            sampled.append(SampledToken(token_id, TokenLogprobs(token_id, -1.0)))
            if token_id != guessed:
                break
        return tuple(sampled)

    def prompt_logprobs(self, output: SchedulerOutput) -> dict[str, list[TokenLogprobs]]:
        return {
            each.sequence.request_id: [
                prompt_logprob(each.sequence.token_ids.tolist(), each.start + row + 1)
                for row in range(each.num_prompt_logprob_rows)
            ]
            for each in output.scheduled
        }

    def tokens(self, request_id: str) -> tuple[int, ...]:
        """All that was heard of a request, in order."""
        return tuple(token for output in self.heard[request_id] for token in output.token_ids)

    def finish_reason(self, request_id: str) -> FinishReason | None:
        return self.heard[request_id][-1].finish_reason

    def check_result(self, request: Request) -> None:
        """The request heard exactly its tokens and one end."""
        outputs = self.heard[request.request_id]
        expected = expected_tokens(request, self.model)
        assert self.tokens(request.request_id) == expected
        assert [output.finish_reason is None for output in outputs] == [True] * (len(outputs) - 1) + [False]
        assert [each.prompt_logprobs for each in outputs if each.prompt_logprobs] == [
            each for each in [expected_prompt_logprobs(request)] if each
        ]
        usage = outputs[-1].usage
        assert usage is not None
        assert usage.num_prompt_tokens == len(request.prompt_token_ids)
        assert usage.num_completion_tokens == len(expected)


def make_driver(
    num_blocks: int,
    *,
    max_num_seqs: int = 4,
    max_num_batched_tokens: int = 50,
    max_num_waiting: int = 100,
    max_waiting_tokens: int = 100_000,
) -> Driver:
    """A driver over a cache of two full layers with room for so many blocks."""
    cache = make_cache(2 * num_blocks, chunk=max_num_batched_tokens)
    return Driver(cache, max_num_seqs, max_num_batched_tokens, max_num_waiting, max_waiting_tokens)
