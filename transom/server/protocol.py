"""The bodies of the POST routes: every field, its type and its bounds. Limits are those of one table, below.

Knows what a body may say; what it means for text and tokens is the routes' business.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, StringConstraints, field_validator, model_validator

from transom.errors import RequestError
from transom.request import TokenIds
from transom.server.cache_field import CacheField
from transom.server.chat_messages import Message, StreamOptions, check_stop
from transom.server.prompts import check_prompts, pack_prompts
from transom.server.strict_body import StrictBody, StrictPart
from transom.server.structure_fields import StructureFields
from transom.server.tool_fields import ToolChoice, Tools, choose_tools

MAX_N = 16
MAX_LOGPROBS = 20
MAX_TOKENS = 100_000
MAX_LOGIT_BIAS = 1024
MAX_MESSAGES = 2048
MAX_TOKEN_LIST = 65_536
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

Number = TypeVar("Number", int, float)

Label = Annotated[str, StringConstraints(max_length=128)]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, le=INT32_MAX)]
TokenIdList = Annotated[list[TokenId], Field(max_length=MAX_TOKEN_LIST)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=100)]
DraftTokens = Annotated[int, Field(ge=0, le=INT32_MAX)]
Probability = Annotated[float, Field(ge=0, le=1)]
MaxTokens = Annotated[int, Field(ge=-1, le=MAX_TOKENS)]
TemplateKwargs = Annotated[dict[str, bool | int | float | str], Field(max_length=16)]
CacheSalt = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^@/\\\x00]+$")]

_NEVER = ("prompt_embeds", "lora", "mm_processor_kwargs", "chat_template", "truncate_prompt_tokens")

COMMON_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(_NEVER, ()),
    "guided_decoding_backend": ("auto", "guidance", "llguidance"),
    "bad_words": ([],),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "spaces_between_special_tokens": (True,),
    "truncation_side": ("left",),
    "typical_p": (1, 1.0),
    "n_keep": (0, -1),
    "n_discard": (0,),
    "id_slot": (-1,),
    "n_probs": (0,),
    "t_max_predict_ms": (0, -1),
    "logits_processors": ([],),
    # llama.cpp's samplers that are not served: their switches when off, and what says nothing then
    "xtc_probability": (0, 0.0),
    "xtc_threshold": (0.1,),
    "dry_multiplier": (0, 0.0),
    "dry_base": (1.75,),
    "dry_allowed_length": (2,),
    "dry_penalty_last_n": (-1, 64),
    "dry_sequence_breakers": (["\n", ":", '"', "*"],),
    "mirostat": (0,),
    "mirostat_tau": (5, 5.0),
    "mirostat_eta": (0.1,),
    "dynatemp_range": (0, 0.0),
    "dynatemp_exponent": (1, 1.0),
    "min_keep": (0,),
}


class Speculation(StrictPart):
    """llama.cpp's `speculative`, of which the first member counts. None of them changes a token."""

    n_max: DraftTokens | None = None
    n_min: DraftTokens | None = None
    p_min: Probability | None = None


class SamplingBody(StructureFields):
    """Fields that completions and chat share."""

    model: ModelName | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=INT32_MAX)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: RepetitionPenalty | None = None
    repeat_penalty: RepetitionPenalty | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_LOGIT_BIAS)] = (
        Field(default_factory=dict)
    )
    seed: Annotated[int, Field(ge=-INT64_MAX - 1, le=INT64_MAX)] | None = None
    stop: Any = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] = 1
    max_tokens: MaxTokens | None = None
    n_predict: MaxTokens | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 0
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    stop_token_ids: Annotated[list[TokenId], Field(max_length=128)] = Field(default_factory=list)
    allowed_token_ids: Annotated[TokenIdList, Field(min_length=1)] | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    """vLLM's; an operator has to allow it."""
    return_progress: bool = False
    timings_per_token: bool = False
    sse_ping_interval: Annotated[int, Field(ge=-1, le=3600)] | None = None
    priority: Annotated[int, Field(ge=0, le=INT32_MAX)] = 0
    """Higher is later: a caller may step back, not push forward."""
    user: Label | None = None
    safety_identifier: Label | None = None
    request_id: Label | None = None
    session_id: Label | None = None
    cache_prompt: bool = True
    prompt_cache_key: Label | None = None
    cache_salt: CacheSalt | None = None
    cache: CacheField | None = None
    speculative: Speculation | None = None
    speculative_n_max: DraftTokens | None = Field(None, alias="speculative.n_max")
    speculative_n_min: DraftTokens | None = Field(None, alias="speculative.n_min")
    speculative_p_min: Probability | None = Field(None, alias="speculative.p_min")
    repeat_last_n: Annotated[int, Field(ge=-1, le=INT32_MAX)] | None = None
    """llama.cpp's window of the penalties, which here look at everything."""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        """A chunk with the usage was asked for."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        """Every chunk is to carry the usage so far."""
        return self.include_usage and self.stream_options is not None and self.stream_options.continuous_usage_stats

    @property
    def given_repetition_penalty(self) -> float | None:
        """`repetition_penalty` under either of its names."""
        return _one_of({"repetition_penalty": self.repetition_penalty, "repeat_penalty": self.repeat_penalty})

    @property
    def max_draft_tokens(self) -> int | None:
        """llama.cpp's `speculative.n_max`, under its one name or in an object. 0: nothing is guessed."""
        nested = None if self.speculative is None else self.speculative.n_max
        return _one_of({"speculative.n_max": self.speculative_n_max, "speculative": nested})

    @property
    def given_max_tokens(self) -> int | None:
        """The asked for number of tokens, None when unset (or -1, which means the same)."""
        return _token_limit({"max_tokens": self.max_tokens, "n_predict": self.n_predict})

    @model_validator(mode="after")
    def _check_common(self) -> Self:
        check_stop(self.stop)
        prescribed = self.prescribed()
        if prescribed is not None and self.allowed_token_ids is not None:
            raise RequestError(f"'allowed_token_ids' excludes '{prescribed[0]}'.", param="allowed_token_ids")
        self._check_penalties()
        if self.stream_options is not None and not self.stream:
            raise RequestError("'stream_options' is only allowed with 'stream': true.", param="stream_options")
        limit = self.given_max_tokens
        if limit is not None and self.min_tokens > limit:
            raise RequestError(
                f"'min_tokens' ({self.min_tokens}) is larger than the maximum ({limit}).", param="min_tokens"
            )
        return self

    def _check_penalties(self) -> None:
        """A window of the penalties says nothing where there are none."""
        penalties = (self.given_repetition_penalty, self.presence_penalty, self.frequency_penalty)
        if self.repeat_last_n not in (None, -1) and penalties != (1, 0, 0):
            raise RequestError(
                "The parameter 'repeat_last_n' is not supported by this server (accepted: -1; any with "
                "'repetition_penalty' 1 and without other penalties).",
                param="repeat_last_n",
                code="unsupported_parameter",
            )


class CompletionBody(SamplingBody):
    """POST /v1/completions."""

    UNSUPPORTED: ClassVar = {**COMMON_UNSUPPORTED, "tools": ([],), "truncation": ("disabled",)}

    prompt: Any = None
    """Token ids are packed as soon as they are checked: as a list of numbers a large prompt takes ten times as much."""
    suffix: str | None = None
    """What follows behind the text that is asked for; an empty one is none."""
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    add_special_tokens: bool = True

    @property
    def prompts(self) -> tuple[str | TokenIds, ...]:
        """`prompt` as a tuple of texts or token ids. Absent: one empty text, which becomes the BOS token."""
        return ("",) if self.prompt is None else self.prompt

    @property
    def num_candidates(self) -> int:
        """Sequences generated per prompt."""
        return self.best_of or self.n

    @field_validator("prompt")
    @classmethod
    def _pack_prompt(cls, prompt: Any) -> tuple[str | TokenIds, ...]:
        check_prompts(prompt, "prompt")
        return pack_prompts(prompt)

    @model_validator(mode="after")
    def _check_completion(self) -> Self:
        if self.num_candidates < self.n:
            raise RequestError(f"'best_of' ({self.best_of}) is smaller than 'n' ({self.n}).", param="best_of")
        if self.echo and self.suffix:
            raise RequestError("'echo' and 'suffix' exclude each other.", param="echo")
        if self.num_candidates > self.n and self.stream:
            raise RequestError("'best_of' larger than 'n' cannot be streamed.", param="best_of")
        return self


class ChatBody(SamplingBody):
    """POST /v1/chat/completions."""

    UNSUPPORTED: ClassVar = {
        **COMMON_UNSUPPORTED,
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "web_search_options": (),
        "moderation": (),
        "store": (False,),
        "verbosity": ("medium",),
        "documents": ([],),
        "echo": (False,),
        "best_of": (1,),
    }

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    truncation: Literal["disabled", "auto"] = "disabled"
    """`auto`: whole oldest messages are left out until the rest fits."""
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template_kwargs: TemplateKwargs = Field(default_factory=dict)
    tools: Tools = Field(default_factory=list)
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    include_reasoning: bool = True
    reasoning_format: Literal["auto", "deepseek", "none"] = "auto"
    """llama.cpp's. `none`: reasoning stays in the content, with its marks."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    """A hint; what is kept, and where, is the operator's choice."""
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    """Whatever was asked for, the answer names the one that there is."""

    @cached_property
    def chosen_tools(self) -> ToolChoice:
        """What may be called."""
        return choose_tools(self.tools, self.tool_choice)

    @property
    def given_max_tokens(self) -> int | None:
        """As above, with the newer name first."""
        names = {"max_completion_tokens": self.max_completion_tokens, "max_tokens": self.max_tokens}
        return _token_limit({**names, "n_predict": self.n_predict})

    @model_validator(mode="after")
    def _check_chat(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
        check_generation_prompt(self.add_generation_prompt, self.continue_final_message)
        self._check_tools()
        return self

    def _check_tools(self) -> None:
        choice, prescribed = self.chosen_tools, self.prescribed()
        if choice.functions and prescribed is not None:
            raise RequestError(
                f"'{prescribed[0]}' and 'tools' that may be called exclude each other.", param=prescribed[0]
            )
        if choice.is_required and self.allowed_token_ids is not None:
            raise RequestError("'allowed_token_ids' excludes a required call.", param="allowed_token_ids")


class ChatPromptBody(StrictBody):
    """POST /apply-template, and the chat form of /tokenize."""

    UNSUPPORTED: ClassVar = {"chat_template": ()}

    model: str | None = None
    tools: Tools = Field(default_factory=list)
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    return_token_strs: bool = False
    with_pieces: bool = False
    chat_template_kwargs: TemplateKwargs = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_generation_prompt(self.add_generation_prompt, self.continue_final_message)
        return self


class TextBody(StrictBody):
    """POST /tokenize of a text: `content` is llama.cpp's word, `prompt` vLLM's."""

    model: str | None = None
    content: str | None = None
    prompt: str | None = None
    add_special: bool = False
    parse_special: bool = False
    add_special_tokens: bool = True
    return_token_strs: bool = False
    with_pieces: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.content is None) == (self.prompt is None):
            raise RequestError(
                "Exactly one of 'content' and 'prompt' is needed.", param="prompt", code="missing_parameter"
            )
        return self


class DetokenizeBody(StrictBody):
    """POST /detokenize."""

    model: str | None = None
    tokens: Annotated[list[TokenId], Field(max_length=2**20)]


def check_generation_prompt(add_generation_prompt: bool, continue_final_message: bool) -> None:
    """The two exclude each other; continuing needs an explicit `add_generation_prompt: false`."""
    if add_generation_prompt and continue_final_message:
        raise RequestError(
            "'continue_final_message' and 'add_generation_prompt' exclude each other.", param="continue_final_message"
        )


def _token_limit(given: dict[str, int | None]) -> int | None:
    """The limit behind several names. -1 means unset; 0 is refused."""
    values = {name: value for name, value in given.items() if value != -1}
    for name, value in values.items():
        if value == 0:
            raise RequestError(f"Invalid value for '{name}': must be between 1 and {MAX_TOKENS} (got 0).", param=name)
    return _one_of(values)


def _one_of(given: dict[str, Number | None]) -> Number | None:
    """The one number behind several names; different numbers are refused."""
    values = {name: value for name, value in given.items() if value is not None}
    if len(set(values.values())) > 1:
        raise RequestError(f"{' and '.join(values)} are given with different values.", param=next(iter(values)))
    return next(iter(values.values()), None)
