"""The body of POST /v1/responses, and the chat that it means. Knows no model and no answer.

The server keeps no responses: what would need an earlier one is refused with that reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from transom.errors import RequestError
from transom.server.chat_messages import Name
from transom.server.protocol import MAX_LOGPROBS, MAX_MESSAGES, ChatBody, MaxTokens, ModelName
from transom.server.strict_body import StrictBody, StrictPart

_LOGPROBS = "message.output_text.logprobs"
_ENCRYPTED = "reasoning.encrypted_content"
"""Accepted: reasoning is in the answer as it is, and nothing of it has to be kept by anybody else."""
_TEXT_PARTS = ("input_text", "output_text", "text")
_STATELESS = {
    "previous_response_id": "give the whole conversation as 'input'",
    "conversation": "give the whole conversation as 'input'",
    "background": "wait for the answer, or stream it",
}
_AS_CHAT = (
    "model",
    "temperature",
    "top_p",
    "truncation",
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "user",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
    "cache",
    "cache_salt",
    "cache_prompt",
    "priority",
    "chat_template_kwargs",
    "sse_ping_interval",
    "request_id",
    "session_id",
)
"""Fields that mean the same in a chat, which checks them."""
_OWN_NAMES = {
    "messages": "input",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
}


class MessageItem(StrictPart):
    """A message; `content` becomes one text."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Any
    id: str | None = None
    status: str | None = None
    phase: str | None = None

    @field_validator("content")
    @classmethod
    def _join(cls, content: Any) -> str:
        return _text_of(content)


class CallItem(StrictPart):
    """An earlier call of a function by the model."""

    type: Literal["function_call"]
    call_id: Name
    name: Name
    arguments: str
    id: str | None = None
    status: str | None = None


class CallOutputItem(StrictPart):
    """What an earlier call gave."""

    type: Literal["function_call_output"]
    call_id: Name
    output: Any
    id: str | None = None
    status: str | None = None

    @field_validator("output")
    @classmethod
    def _join(cls, output: Any) -> str:
        return _text_of(output)


class ReasoningItem(StrictPart):
    """What the model thought before the message or call that follows. Whether it is told again is the template's
    choice: most do so within one turn."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Any] | None = None
    content: Any = None
    encrypted_content: str | None = None
    status: str | None = None

    @property
    def text(self) -> str:
        """Of its parts."""
        parts = self.content if isinstance(self.content, list) else []
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))


def _kind(item: Any) -> str:
    """Tags are capital letters, so that no path to a field names them."""
    if not isinstance(item, dict):
        raise RequestError("Each item of 'input' must be an object.", param="input")
    kind = item.get("type", "message")
    if kind not in ("message", "function_call", "function_call_output", "reasoning"):
        shown = kind[:64] if isinstance(kind, str) else type(kind).__name__
        raise RequestError(f"Input items of type '{shown}' are not supported.", param="input")
    return str(kind).upper()


Item = Annotated[
    Annotated[MessageItem, Tag("MESSAGE")]
    | Annotated[CallItem, Tag("FUNCTION_CALL")]
    | Annotated[CallOutputItem, Tag("FUNCTION_CALL_OUTPUT")]
    | Annotated[ReasoningItem, Tag("REASONING")],
    Discriminator(_kind),
]


class TextFormat(StrictPart):
    """`text.format`: as a chat's `response_format`, with the schema one level higher."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    content: Any = Field(default=None, alias="schema")
    strict: bool | None = None

    def as_chat(self) -> dict[str, Any]:
        """Its members in a chat's places."""
        given = {"name": self.name, "description": self.description, "schema": self.content, "strict": self.strict}
        members = {name: value for name, value in given.items() if value is not None}
        return {"type": self.type, **({"json_schema": members} if members or self.type == "json_schema" else {})}

    def shown(self) -> dict[str, Any]:
        """As it was given."""
        return self.model_dump(by_alias=True, exclude_none=True)


class TextOptions(StrictPart):
    """`text`."""

    format: TextFormat = TextFormat()
    verbosity: Literal["medium"] | None = None


class ReasoningOptions(StrictPart):
    """`reasoning`."""

    effort: str | None = None
    summary: Literal["auto"] | None = None
    """The best there is: none. Reasoning is told as it is."""
    generate_summary: None = None


class ResponseStreamOptions(StrictPart):
    """`stream_options`; obfuscation is accepted and adds nothing."""

    include_obfuscation: bool = True


class ResponseBody(StrictBody):
    """What may be said."""

    UNSUPPORTED: ClassVar = {
        "prompt": (),
        "moderation": (),
        "context_management": ([],),
    }

    input: Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: MaxTokens | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    """Of tools that a server runs itself; here it runs none."""
    text: TextOptions = Field(default_factory=TextOptions)
    reasoning: ReasoningOptions | None = None
    include: list[Any] = Field(default_factory=list)
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: str | dict[str, Any] = "auto"
    store: bool = False
    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    previous_response_id: Any = None
    conversation: Any = None
    background: Any = None
    client_metadata: dict[str, Any] | None = None
    """What a client tells of itself; kept nowhere."""

    model: ModelName | None = None
    temperature: Any = None
    top_p: Any = None
    truncation: Any = None
    metadata: Any = None
    parallel_tool_calls: bool = True
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    user: Any = None
    top_k: Any = None
    min_p: Any = None
    repetition_penalty: Any = None
    seed: Any = None
    stop: Any = None
    cache: Any = None
    cache_salt: Any = None
    cache_prompt: Any = None
    priority: Any = None
    chat_template_kwargs: Any = None
    sse_ping_interval: Any = None
    request_id: Any = None
    session_id: Any = None

    @field_validator("input", mode="before")
    @classmethod
    def _text_is_a_message(cls, value: Any) -> Any:
        return [{"role": "user", "content": value}] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, instead in _STATELESS.items():
            if getattr(self, name) not in (None, False):
                raise RequestError(
                    f"'{name}' is not supported: this server keeps no responses; {instead}.",
                    param=name,
                    code="unsupported_parameter",
                )
        if unknown := [each for each in self.include if each not in (_LOGPROBS, _ENCRYPTED)]:
            raise RequestError(f"'include' cannot name {str(unknown[0])[:64]!r} here.", param="include")
        if self.stream_options is not None and not self.stream:
            raise RequestError("'stream_options' is only allowed with 'stream': true.", param="stream_options")
        return self

    @property
    def logprobs(self) -> bool:
        """Log probabilities are part of the answer."""
        return _LOGPROBS in self.include or self.top_logprobs is not None

    def sources(self) -> list[tuple[int, ...]]:
        """For each message of `as_chat` the indices of the input's items that it is made of."""
        return [tuple(indices) for _, indices in self._messages()]

    def as_chat(self) -> ChatBody:
        """The chat that is meant. Raises `RequestError` in this body's own words."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in _AS_CHAT}
        fields["messages"] = [message for message, _ in self._messages()]
        fields["max_completion_tokens"] = self.max_output_tokens
        fields["logprobs"], fields["top_logprobs"] = self.logprobs, self.top_logprobs
        if self.text.format.type != "text" or self.text.format.content is not None:
            fields["response_format"] = self.text.format.as_chat()
        if self.reasoning is not None:
            fields["reasoning_effort"] = self.reasoning.effort
        if self.tools:
            fields |= {"tools": list(map(_chat_tool, self.tools)), "tool_choice": _chat_choice(self.tool_choice)}
        elif self.tool_choice not in ("auto", "none"):
            raise RequestError("'tool_choice' needs 'tools'.", param="tool_choice")
        try:
            return ChatBody.parse(fields)
        except RequestError as error:
            raise in_own_words(error) from None

    def _messages(self) -> list[tuple[dict[str, Any], list[int]]]:
        """Calls that follow each other, or a message of the assistant, are one message with it, and so is reasoning
        with what it led to."""
        messages: list[tuple[dict[str, Any], list[int]]] = []
        thoughts: list[tuple[str, int]] = []
        if self.instructions:
            messages.append(({"role": "system", "content": self.instructions}, []))
        for index, item in enumerate(self.input):
            match item:
                case ReasoningItem():
                    thoughts.append((item.text, index))
                    continue
                case MessageItem():
                    messages.append(({"role": item.role, "content": item.content}, [index]))
                case CallOutputItem():
                    output = {"role": "tool", "tool_call_id": item.call_id, "content": item.output}
                    messages.append((output, [index]))
                case CallItem():
                    _append_call(messages, item, index)
            _add_thoughts(messages[-1], thoughts)
            thoughts = []
        if not messages:
            raise RequestError("'input' holds nothing that could be answered.", param="input")
        return messages


def in_own_words(error: RequestError) -> RequestError:
    """An error about a chat, about the fields that its parts came from."""
    name = re.split(r"[.\[]", error.param or "")[0]
    message = str(error).replace("lower max_tokens", "lower max_output_tokens")
    if own := _OWN_NAMES.get(name):
        message = message.replace(f"'{error.param}'", f"'{own}'").replace(f"'{name}'", f"'{own}'")
        error.param = own
    error.args = (message,)
    return error


def _append_call(messages: list[tuple[dict[str, Any], list[int]]], item: CallItem, index: int) -> None:
    call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
    if messages and messages[-1][0]["role"] == "assistant":
        message, indices = messages[-1]
        message.setdefault("tool_calls", []).append(call)
        indices.append(index)
    else:
        messages.append(({"role": "assistant", "content": None, "tool_calls": [call]}, [index]))


def _add_thoughts(message: tuple[dict[str, Any], list[int]], thoughts: Sequence[tuple[str, int]]) -> None:
    """Only the assistant has any; what is left without an answer is left out."""
    fields, indices = message
    if fields["role"] != "assistant" or not thoughts:
        return
    indices[:0] = [index for _, index in thoughts]
    text = "\n".join(filter(None, [fields.get("reasoning_content"), *(text for text, _ in thoughts)]))
    if text:
        fields["reasoning_content"] = text


def _text_of(content: Any) -> str:
    """A text, or the texts of all parts, joined by newlines."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise ValueError("must be a text or a list of parts")
    return "\n".join(map(_text_of_part, content))


def _text_of_part(part: Any) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise ValueError("a content part must be an object with a 'type'")
    if part["type"] not in _TEXT_PARTS:
        raise ValueError(f"content parts of type '{part['type'][:32]}' are not supported: this model reads text only")
    if not isinstance(part.get("text"), str) or not part.keys() <= {"type", "text", "annotations", "logprobs"}:
        raise ValueError(f"a content part of type '{part['type']}' has a 'text' and nothing else")
    return str(part["text"])


def _chat_tool(tool: dict[str, Any]) -> dict[str, Any]:
    kind = tool.get("type")
    if kind != "function":
        raise RequestError(f"Tools of type '{str(kind)[:64]}' are not supported; there is: function.", param="tools")
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _chat_choice(choice: str | dict[str, Any]) -> Any:
    """A function is named within its entry there, allowed ones one level deeper."""
    if not isinstance(choice, dict):
        return choice
    members = {name: value for name, value in choice.items() if name != "type"}
    match choice.get("type"):
        case "function":
            return {"type": "function", "function": members}
        case "allowed_tools" if isinstance(tools := choice.get("tools"), list):
            named = [_chat_choice(tool) if isinstance(tool, dict) else tool for tool in tools]
            return {"type": "allowed_tools", "allowed_tools": {**members, "tools": named}}
        case _:
            return choice
