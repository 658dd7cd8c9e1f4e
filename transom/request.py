"""Plain data of a request and its results, in token ids. Knows no text, no HTTP, no tensors.

Made by `transom.llm`, carried over the channel, consumed by the engine; results travel the other way.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import overload


class TokenIds(Sequence[int]):
    """Token ids that never change, in 4 bytes each: prompts are long, and they wait and travel in large numbers.

    Equal to tuples of the same numbers. Made from numbers of -2**31 .. 2**31 - 1, OverflowError for others.
    """

    __slots__ = ("_ids",)

    def __init__(self, token_ids: Iterable[int] = ()) -> None:
        self._ids = memoryview(array("i", token_ids).tobytes()).cast("i")

    @classmethod
    def of(cls, token_ids: Iterable[int]) -> TokenIds:
        """`token_ids` themselves when they are packed already, else a packed copy."""
        return token_ids if isinstance(token_ids, cls) else cls(token_ids)

    @classmethod
    def unpack(cls, packed: bytes) -> TokenIds:
        """The inverse of `packed`, without a copy; ValueError unless it holds whole numbers."""
        token_ids = cls()
        try:
            token_ids._ids = memoryview(packed).cast("i")
        except TypeError:
            raise ValueError(f"{len(packed)} bytes are no packed token ids") from None
        return token_ids

    @property
    def packed(self) -> memoryview[int]:
        """The ids as int32 of this machine's byte order: for `numpy.frombuffer`, read-only and without a copy."""
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> TokenIds: ...
    def __getitem__(self, index: int | slice) -> int | TokenIds:
        return TokenIds(self._ids[index]) if isinstance(index, slice) else self._ids[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TokenIds):
            return self._ids == other._ids
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"TokenIds({list(self)})"


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    """An end-of-sequence or stop token was sampled (it is the last token of the output), or the grammar is complete."""
    LENGTH = "length"
    """`max_tokens` tokens were generated."""
    ABORT = "abort"
    """The caller went away or asked for the end."""
    ERROR = "error"
    """The engine failed; `RequestOutput.error` says how."""


class Pooling(StrEnum):
    """How the hidden states of a text become one vector."""

    MEAN = "mean"
    """Their mean."""
    LAST = "last"
    """That of the last token."""


_FIXED_COST = 256
_BIAS_COST = 32


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """The form that the generated text must have, known to compile (`transom.grammar.compiler`)."""

    source: str
    """In the language of the `llguidance` library."""
    num_bytes: int = 0
    """What it takes when it is compiled."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. Neutral defaults; every value was validated at the edge.

    Bounds: `temperature` >= 0 (0 = exact argmax), `top_p` in 0..1, `top_k` >= 0 (0 = off), `min_p` in 0..1,
    penalties as OpenAI and (`repetition_penalty` > 0) as the literature has them, `logprobs` and `prompt_logprobs`
    None = off, k = the chosen token plus its k best rivals. `seed` None = fresh randomness.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    allowed_token_ids: Sequence[int] | None = None
    """Kept as `TokenIds`, whatever sequence was given."""
    stop_token_ids: tuple[int, ...] = ()
    """Stop tokens of the request, beside the model's own end-of-sequence tokens."""
    ignore_eos: bool = False
    min_tokens: int = 0
    """No stop or end-of-sequence token is sampled before so many tokens."""
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: GrammarSpec | None = None
    """The text ends, whatever `min_tokens` and `ignore_eos` say, when it admits nothing more."""

    def __post_init__(self) -> None:
        if self.allowed_token_ids is not None:
            object.__setattr__(self, "allowed_token_ids", TokenIds.of(self.allowed_token_ids))


class CacheStrategy(StrEnum):
    """What full-attention layers may forget of one sequence. Sliding layers forget by the model's own window."""

    FULL = "full"
    """Nothing."""
    SLIDING_WINDOW = "sliding_window"
    """All but the last `window_size` tokens."""
    FIFO = "fifo"
    """The oldest block, whenever the sequence's KV capacity is reached."""
    KEEP_FIRST = "keep_first"
    """All but the first `keep_first` and the last `window_size - keep_first` tokens."""
    ADAPTIVE = "adaptive"
    """Nothing where there is a cold tier: attention mass decides what stays hot. Without one it decides what goes."""


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """A strategy and its sizes in tokens, validated at the edge: 1 <= `window_size` <= the context window, and
    0 <= `keep_first` < `window_size`."""

    strategy: CacheStrategy = CacheStrategy.FULL
    window_size: int | None = None
    """Required by `sliding_window` and `keep_first`. `fifo`: lowers the sequence's KV capacity; None = the budgets
    alone decide. The other strategies do not look at it."""
    keep_first: int = 0
    """Used by `keep_first` alone."""


@dataclass(frozen=True, slots=True, order=True)
class KVBytes:
    """Place for keys and values."""

    ram: int = 0
    ssd: int = 0

    def __add__(self, other: KVBytes) -> KVBytes:
        return KVBytes(self.ram + other.ram, self.ssd + other.ssd)

    def __sub__(self, other: KVBytes) -> KVBytes:
        return KVBytes(self.ram - other.ram, self.ssd - other.ssd)

    def is_within(self, most: KVBytes) -> bool:
        """Neither is more."""
        return self.ram <= most.ram and self.ssd <= most.ssd


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to be generated, or made a vector of. `n` of the HTTP interface becomes several of these."""

    request_id: str
    prompt_token_ids: Sequence[int]
    """Kept as `TokenIds`, whatever sequence was given."""
    sampling: SamplingParams
    priority: int = 0
    """Lower is sooner."""
    max_draft_tokens: int | None = None
    """Bound on the tokens that are guessed at once, below the configured one; 0 = none are. Changes no token."""
    cache: CacheOptions | None = None
    """None = as the model is configured."""
    cache_salt: str = ""
    """Only requests of one salt share KV. What comes before its first NUL names the tenant."""
    reuse_cache: bool = True
    """KV that is there from earlier requests may be used instead of computing it again."""
    pooling: Pooling | None = None
    """A vector is asked for and no tokens: `sampling.max_tokens` is 0, and `reuse_cache` is false for the mean, which
    needs the hidden states of all tokens."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_token_ids", TokenIds.of(self.prompt_token_ids))

    @property
    def max_sequence_tokens(self) -> int:
        """How long the sequence may become."""
        return len(self.prompt_token_ids) + self.sampling.max_tokens

    @property
    def size_in_tokens(self) -> int:
        """What keeping this request costs, as the number of packed tokens (4 bytes) that would take as much memory."""
        sampling = self.sampling
        listed = len(self.prompt_token_ids) + len(sampling.allowed_token_ids or ())
        if sampling.grammar is not None:
            listed += len(sampling.grammar.source) // 4
        return listed + _BIAS_COST * len(sampling.logit_bias) + _FIXED_COST


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log probabilities at one position, before temperature and truncation, after nothing: of the raw model."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(token id, log probability) of the most likely tokens, best first."""
    rank: int | None = None
    """Of the token among all of the vocabulary, 1 is the most likely; only for tokens of the prompt."""


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The choice at one position: what sampling hands to the scheduler, two rooms that do not know each other."""

    token_id: int
    logprobs: TokenLogprobs | None = None
    """Present when the request asked for `logprobs`."""
    completes_grammar: bool = False
    """The request's grammar admits nothing after this token."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Counted tokens of one sequence."""

    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int = 0
    """Prompt tokens whose KV came from the cache instead of computation."""
    num_cache_write_tokens: int = 0
    """Prompt tokens whose KV this sequence computed and was the first to leave to later ones."""
    num_evicted_tokens: int = 0
    """Tokens that full-attention layers no longer attended to at the end, because the cache strategy forgot them."""
    is_lossy: bool = False
    """The cache strategy may forget tokens, whether it did or not."""


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What one engine step (or several, merged) brought for one request."""

    request_id: str
    token_ids: tuple[int, ...] = ()
    """New tokens, in order; the last one may be the stop token."""
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """One per new token when asked for."""
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    """One per prompt token (the first is None), in the first output that carries tokens, when asked for."""
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    """The token that ended the sequence and is no part of its text, when `finish_reason` is STOP. None: the text is
    complete by the request's grammar."""
    usage: Usage | None = None
    """Present with `finish_reason`; and with the first tokens, when what was cached of the prompt is known, for whoever
    ends the text before the engine does."""
    error: str | None = None
    num_computed_tokens: int = 0
    """Progress of prefill: tokens of the sequence whose KV exists."""
    queue_seconds: float | None = None
    """How long the sequence waited in the engine for its first step; in its first output alone."""
    vector: tuple[float, ...] | None = None
    """float32 [hidden_size], with `finish_reason` LENGTH, when `pooling` was asked for."""
