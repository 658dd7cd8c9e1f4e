"""Everything about an answer that is decided before any work: names, limits, and the sequences to generate.

Refuses what can be refused: token ids outside the vocabulary, contexts that overflow, requests that cost too much.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transom.errors import RequestError
from transom.llm import Allowance, GenerationRequest, repeat
from transom.llm.chat_format import AnswerParser
from transom.registry import ServedModel
from transom.request import CacheOptions, GrammarSpec, Pooling, Request, SamplingParams, TokenIds
from transom.server.cache_salt import Narrowing, salt_of
from transom.server.caller import Caller
from transom.server.protocol import SamplingBody

MAX_COST = 4_000_000
"""Bound of sequences x max_tokens x (1 + logprobs) of one request, echoed prompts included."""

_SHARE_OF_QUEUE = 8
"""One answer has at most this part of the queue's tokens in the engine; it feeds the rest in as it gets on."""

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class Limit:
    """How many tokens a sequence may generate, and which of the limits that is."""

    max_tokens: int
    length_cause: str
    """`max_tokens`, `context`, or `budget`: what the KV budgets can hold."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One answer. Sequences are numbered prompt by prompt: `prompt * num_candidates + candidate`."""

    id: str
    created: int
    model: str
    prompts: tuple[TokenIds, ...]
    limits: tuple[Limit, ...]
    num_candidates: int
    requests: tuple[GenerationRequest, ...]
    allowance: Allowance

    @property
    def max_tokens(self) -> int:
        """The most that it can use: each prompt once, and what every sequence may generate."""
        generated = sum(limit.max_tokens for limit in self.limits)
        return sum(map(len, self.prompts)) + self.num_candidates * generated

    def prompt_of(self, sequence: int) -> int:
        """The number of the prompt that a sequence continues."""
        return sequence // self.num_candidates


def limit_tokens(
    served: ServedModel,
    num_prompt_tokens: int,
    given: int | None,
    *,
    param: str,
    most: int,
    default: int | None = None,
    cap: int | None = None,
) -> Limit:
    """Promise 1 for one prompt: an explicit number must fit, a default takes what is left. `cap` clips both.

    What is left is the rest of the context window or, where that is less, of `most`: what the KV budgets, or the
    caller's share of them, can hold. A prompt that leaves nothing of the latter is for admission to refuse, which knows
    all the numbers.
    """
    if num_prompt_tokens == 0:
        raise RequestError(f"'{param}' comes to no tokens at all.", param=param)
    room = served.llm.check_context(num_prompt_tokens, given, param)
    if given is not None:
        return Limit(room if cap is None else min(room, cap), "max_tokens")
    held = max(1, most - num_prompt_tokens)
    bounds = [(default, "max_tokens"), (room, "context"), (held, "budget"), (cap, "max_tokens")]
    return min(
        (Limit(bound, cause) for bound, cause in bounds if bound is not None), key=lambda limit: limit.max_tokens
    )


def make_plan(
    served: ServedModel,
    body: SamplingBody,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[Limit],
    *,
    caller: Caller,
    cache: CacheOptions,
    grammar: GrammarSpec | None,
    shown_tokens: frozenset[str] = frozenset(),
    new_call_reader: Callable[[], AnswerParser] | None = None,
    id_prefix: str,
    num_candidates: int,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
    echo: bool = False,
    end_token_ids: tuple[int, ...] = (),
) -> Plan:
    """The plan of a checked body; `end_token_ids` end its texts beside what the body says. Raises `RequestError`."""
    prompt_ids = tuple(map(TokenIds.of, prompts))
    _check_cost(prompt_ids, limits, num_candidates, logprobs, prompt_logprobs)
    answer_id = f"{id_prefix}-{uuid.uuid4().hex}"
    sampling = replace(_sampling(served, body, logprobs, prompt_logprobs), grammar=grammar)
    if end_token_ids:
        sampling = replace(sampling, stop_token_ids=(*sampling.stop_token_ids, *end_token_ids))
    salt = salt_of(caller, body)
    requests: list[GenerationRequest] = []
    for index, (prompt, limit) in enumerate(zip(prompt_ids, limits, strict=True)):
        _check_min_tokens(body, limit)
        limited = replace(sampling, max_tokens=limit.max_tokens)
        request = Request(
            f"{answer_id}-{index}",
            prompt,
            limited,
            priority=body.priority,
            cache=cache,
            cache_salt=salt,
            reuse_cache=body.cache_prompt,
            max_draft_tokens=body.max_draft_tokens,
        )
        generation = replace(
            _generation(request, body, echo=echo), shown_tokens=shown_tokens, new_call_reader=new_call_reader
        )
        requests += repeat(generation, num_candidates)
    return Plan(
        answer_id,
        int(time.time()),
        served.id,
        prompt_ids,
        tuple(limits),
        num_candidates,
        tuple(requests),
        _allowance(served),
    )


def make_vector_plan(
    served: ServedModel, prompts: Sequence[TokenIds], *, caller: Caller, narrowing: Narrowing, priority: int
) -> Plan:
    """The plan of an answer that is one vector for each prompt."""
    answer_id, pooling = f"embd-{uuid.uuid4().hex}", served.pooling.pooling
    requests = [
        Request(
            f"{answer_id}-{index}",
            prompt,
            SamplingParams(max_tokens=0),
            priority=priority,
            cache_salt=salt_of(caller, narrowing),
            reuse_cache=pooling is not Pooling.MEAN,
            pooling=pooling,
        )
        for index, prompt in enumerate(prompts)
    ]
    return Plan(
        answer_id,
        int(time.time()),
        served.id,
        tuple(prompts),
        (Limit(0, "max_tokens"),) * len(prompts),
        1,
        tuple(map(GenerationRequest, requests)),
        _allowance(served),
    )


def _allowance(served: ServedModel) -> Allowance:
    limits = served.engine_config
    return Allowance(limits.max_num_seqs, limits.waiting_token_limit // _SHARE_OF_QUEUE)


def _generation(request: Request, body: SamplingBody, *, echo: bool) -> GenerationRequest:
    return GenerationRequest(
        request,
        stop=body.stop_strings,
        include_stop_str_in_output=body.include_stop_str_in_output,
        skip_special_tokens=body.skip_special_tokens,
        echo=echo,
    )


def _check_min_tokens(body: SamplingBody, limit: Limit) -> None:
    if body.min_tokens > limit.max_tokens:
        raise RequestError(
            f"'min_tokens' ({body.min_tokens}) is larger than the maximum ({limit.max_tokens}).", param="min_tokens"
        )


def _sampling(
    served: ServedModel, body: SamplingBody, logprobs: int | None, prompt_logprobs: int | None
) -> SamplingParams:
    """The request's own values, else the model's, else the interface's. The limit differs from prompt to prompt."""
    model = served.generation_defaults
    served.llm.check_token_ids(body.stop_token_ids, "stop_token_ids")
    served.llm.check_token_ids(body.allowed_token_ids or (), "allowed_token_ids")
    return SamplingParams(
        max_tokens=1,
        temperature=_first(body.temperature, model.temperature, 1.0),
        top_p=_first(body.top_p, model.top_p, 1.0),
        top_k=max(0, int(_first(body.top_k, model.top_k, 0))),
        min_p=_first(body.min_p, model.min_p, 0.0),
        seed=body.seed,
        repetition_penalty=_first(body.given_repetition_penalty, model.repetition_penalty, 1.0),
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=_logit_bias(served, body),
        allowed_token_ids=body.allowed_token_ids,
        stop_token_ids=tuple(body.stop_token_ids),
        ignore_eos=body.ignore_eos,
        min_tokens=body.min_tokens,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def _first(given: float | None, model: float | None, default: float) -> float:
    return next(value for value in (given, model, default) if value is not None)


def _logit_bias(served: ServedModel, body: SamplingBody) -> dict[int, float]:
    for key in body.logit_bias:
        if not _TOKEN_ID.fullmatch(key):
            raise RequestError(f"'logit_bias' has the key '{key[:20]}', which is not a token id.", param="logit_bias")
    bias = {int(key): value for key, value in body.logit_bias.items()}
    served.llm.check_token_ids(tuple(bias), "logit_bias")
    return bias


def _check_cost(
    prompts: Sequence[Sequence[int]],
    limits: Sequence[Limit],
    num_candidates: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> None:
    generated = sum(limit.max_tokens for limit in limits) * (1 + (logprobs or 0))
    scored = 0 if prompt_logprobs is None else sum(map(len, prompts)) * (1 + prompt_logprobs)
    cost = num_candidates * (generated + scored)
    if cost > MAX_COST:
        raise RequestError(
            f"The request asks for {cost} units of work (prompts x n x tokens x (1 + logprobs)); {MAX_COST} are "
            "allowed. Lower n, best_of, max_tokens, logprobs or the number of prompts."
        )
