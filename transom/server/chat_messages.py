"""Messages of a chat body and other small objects inside bodies, with their rules."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from transom.errors import RequestError
from transom.server.strict_body import StrictPart

MAX_STOPS = 4
MAX_STOP_BYTES = 256

_PART_MEMBERS = {"type", "text", "prompt_cache_breakpoint", "cache_control"}
"""The last two are hints of what will be asked again; here everything is kept that has room."""

Role = Literal["developer", "system", "user", "assistant", "tool", "function"]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class StreamOptions(StrictPart):
    """`stream_options`. Obfuscation (padding against traffic analysis) is accepted and adds nothing."""

    include_usage: bool = False
    include_obfuscation: bool = True
    continuous_usage_stats: bool = False


class CalledFunction(StrictPart):
    """The function of an earlier tool call; `arguments` is JSON in a string."""

    name: Name
    arguments: str


class ToolCall(StrictPart):
    """An earlier tool call of the assistant, told back to the model; `index` is left from a stream's fragments."""

    id: Name
    index: int | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(StrictPart):
    """One message. `content` is a text or a list of text parts; `text` joins them."""

    role: Role
    content: Any = None
    name: Name | None = None
    tool_call_id: Name | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    """vLLM's name of the same."""
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def text(self) -> str | None:
        """The content as one text, parts joined by newlines; None when there is none."""
        if not isinstance(self.content, list):
            return self.content  # type: ignore[no-any-return]
        return "\n".join(part["text"] for part in self.content)

    def to_template(self) -> dict[str, Any]:
        """What a chat template sees: the given members only."""
        message: dict[str, Any] = {"role": self.role, "content": self.text}
        reasoning = self.reasoning if self.reasoning_content is None else self.reasoning_content
        optional = {"name": self.name, "tool_call_id": self.tool_call_id, "reasoning_content": reasoning}
        message |= {name: value for name, value in optional.items() if value is not None}
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump(exclude={"index"}) for call in self.tool_calls]
        return message

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.content is None:
            if self.role != "assistant" or not self.tool_calls:
                raise ValueError("'content' is required, except for an assistant message with tool calls")
        else:
            _check_content(self.content)
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a message of role 'tool' needs 'tool_call_id'")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant message may have 'tool_calls'")
        return self


def check_stop(stop: Any) -> None:
    """`stop` is absent, a text or up to four of them, each of 1 to 256 bytes."""
    if stop is None:
        return
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RequestError("'stop' must be a text or a list of texts.", param="stop")
    if len(texts) > MAX_STOPS:
        raise RequestError(f"'stop' has {len(texts)} entries; {MAX_STOPS} are allowed.", param="stop")
    if not all(1 <= len(text.encode()) <= MAX_STOP_BYTES for text in texts):
        raise RequestError(f"Each entry of 'stop' must have 1 to {MAX_STOP_BYTES} bytes.", param="stop")


def _check_content(content: Any) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list) or not content:
        raise ValueError("'content' must be a text or a list of parts")
    for part in content:
        _check_part(part)


def _check_part(part: Any) -> None:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise ValueError("a content part must be an object with a 'type'")
    if part["type"] != "text":
        raise ValueError(f"content parts of type '{part['type'][:32]}' are not supported: this model reads text only")
    given = {name for name, value in part.items() if value is not None}
    if not isinstance(part.get("text"), str) or not given <= _PART_MEMBERS:
        raise ValueError("a content part of type 'text' has a 'text' and nothing else")
