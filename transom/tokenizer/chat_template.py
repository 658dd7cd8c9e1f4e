"""Chat templates: a conversation to the text that the model was trained on. Knows no requests and no HTTP.

The rendering is byte for byte that of Hugging Face's `apply_chat_template`. A model without a template is a base model:
it continues text. For such a model the conversation's contents, as paragraphs, are the text to be continued; role words
and an "assistant:" at the end would only lead it away from what it can do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transom.errors import TemplateError
from transom.tokenizer.control_tokens import ControlTokens, absent_characters
from transom.tokenizer.template_renderer import TemplateRenderer
from transom.tokenizer.tokenizer import Tokenizer
from transom.tokenizer.tokenizer_files import ChatTemplateSources

Message = Mapping[str, Any]

MAX_NESTING = 100
"""Levels of objects and lists in messages, tools and variables; templates walk through them by recursion."""

_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A rendered conversation, not yet tokens."""

    marked_text: str
    mark: str
    """A character that stands inside each control token that the messages, not the template, spell."""
    adds_special_tokens: bool
    """The text lacks the model's own beginning: no template wrote it."""

    @property
    def text(self) -> str:
        """What the model is to read."""
        return self.marked_text.replace(self.mark, "")

    def encode(self, tokenizer: Tokenizer) -> list[int]:
        """Token ids; control tokens only where the template wrote them. Blocks; run it in a thread."""
        ids = tokenizer.encode_marked(self.marked_text, self.mark)
        return tokenizer.surround(ids) if self.adds_special_tokens else ids


class Renderer(Protocol):
    """What makes a text of a template's variables."""

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text; TemplateError when there is none."""
        ...

    def close(self) -> None:
        """Gives back what the renderer holds."""
        ...


class ParagraphRenderer:
    """Stands in where a model has no template: the messages' contents with a blank line between them."""

    def render(self, variables: Mapping[str, Any]) -> str:
        """The contents of `messages`, whoever said them."""
        contents = (message.get("content") for message in variables["messages"])
        return "\n\n".join(content for content in contents if content)

    def close(self) -> None:
        """Nothing is held."""


class ChatTemplate:
    """A model's template, or the base model's. Thread-safe; `close` ends the helper process."""

    def __init__(self, source: str | None, tokenizer: Tokenizer, *, tool_source: str | None = None) -> None:
        """`tool_source` is used instead of `source` when tools are given. Raises TokenizerError."""
        self.is_default = source is None
        """The model has no template of its own."""
        self._source = source or ""
        self.source = f"{self._source}{tool_source or ''}"
        """Of all templates, for who wants to know what they were written for; empty without one."""
        self._named_tokens = dict(tokenizer.named_tokens)
        self._special = ControlTokens(tokenizer.special_tokens)
        self._control = ControlTokens(
            token
            for token in tokenizer.added_tokens
            if token in tokenizer.special_tokens or (token in self._source and not token.isspace())
        )
        self._renderer: Renderer = ParagraphRenderer() if source is None else TemplateRenderer(source)
        self._tool_renderer = self._renderer if tool_source is None else TemplateRenderer(tool_source)

    @classmethod
    def from_directory(cls, directory: Path, tokenizer: Tokenizer) -> ChatTemplate:
        """The template among a model's files. Raises TokenizerError as the constructor. Starts a helper process."""
        sources = ChatTemplateSources.from_directory(directory)
        return cls(sources.default, tokenizer, tool_source=sources.tool_use)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object], tokenizer: Tokenizer) -> ChatTemplate:
        """The template in a GGUF file's metadata. Raises TokenizerError as the constructor. Starts a helper process."""
        sources = ChatTemplateSources.from_gguf(metadata)
        return cls(sources.default, tokenizer, tool_source=sources.tool_use)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> RenderedChat:
        """Renders `messages`. Blocks up to about a second. TemplateError when the template refuses or fails.

        With `continue_final_message` the text ends where the last message's content ends. Control tokens that the
        messages spell are broken up by a mark (see `control_tokens`): the special ones, and those the template writes
        (`<think>`); the latter not in the assistant's own messages, since templates look for them there.
        """
        if continue_final_message and add_generation_prompt:
            raise TemplateError("'continue_final_message' and 'add_generation_prompt' exclude each other.")
        chat = [self._to_template(message) for message in messages]
        _require_shallow([chat, tools, variables])
        spelled = json.dumps([chat, tools, variables], ensure_ascii=False)
        _require_characters(spelled)
        mark, end = absent_characters(2, spelled, self._source)
        chat = [self._controls_of(message).break_up_all(message, mark) for message in chat]
        if continue_final_message:
            chat = _with_end(chat, end)
        text = (self._tool_renderer if tools else self._renderer).render(
            self._named_tokens
            | self._control.break_up_all(variables, mark)
            | {
                "messages": chat,
                "tools": self._control.break_up_all(tools, mark) if tools else None,
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
            }
        )
        if continue_final_message:
            text = _cut_at_end(text, end, chat[-1]["content"].removesuffix(f"{end} "))
        return RenderedChat(text, mark, adds_special_tokens=self.is_default)

    def close(self) -> None:
        """Ends the helper process."""
        self._renderer.close()
        self._tool_renderer.close()

    def _controls_of(self, message: Message) -> ControlTokens:
        return self._special if message.get("role") == "assistant" else self._control

    def _to_template(self, message: Message) -> dict[str, Any]:
        """A message as templates expect it: nothing null, arguments as objects, roles and reasoning by known names."""
        result = {key: value for key, value in message.items() if value is not None}
        if result.get("role") == "developer" and "developer" not in self._source:
            result["role"] = "system"
        if "tool_calls" in result:
            result["tool_calls"] = [_with_parsed_arguments(call) for call in result["tool_calls"]]
        reasoning = next((result[key] for key in _REASONING_KEYS if key in result), None)
        if reasoning is not None:
            result = {"thinking": reasoning, **result, "reasoning_content": reasoning}
        return result


def _with_parsed_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI writes a call's arguments as JSON in a string; templates were made for the object itself."""
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return dict(call)
    try:
        arguments = json.loads(function["arguments"])
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise TemplateError(f"The arguments of the tool call '{function.get('name')}' are not a JSON object.")
    return {**call, "function": {**function, "arguments": arguments}}


def _require_shallow(value: Any) -> None:
    """Level by level, for a deep value would break whoever walks through it by recursion."""
    level = [value]
    for _ in range(MAX_NESTING):
        level = [part for each in level if isinstance(each, list | tuple | dict) for part in _parts(each)]
        if not level:
            return
    raise _too_deep()


def _parts(value: list[Any] | tuple[Any, ...] | dict[str, Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _too_deep() -> TemplateError:
    return TemplateError(f"Messages and tools must not be nested more than {MAX_NESTING} levels deep.")


def _require_characters(text: str) -> None:
    """JSON in a string can spell what is no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TemplateError("The messages hold a lone surrogate, which is no Unicode character.") from None


def _with_end(chat: list[dict[str, Any]], end: str) -> list[dict[str, Any]]:
    """The conversation with a sign after the last message's content; the space shows whether the template trims."""
    if not chat or not isinstance(chat[-1].get("content"), str):
        raise TemplateError("'continue_final_message' needs a last message with text as its content.")
    return [*chat[:-1], {**chat[-1], "content": f"{chat[-1]['content']}{end} "}]


def _cut_at_end(text: str, end: str, content: str) -> str:
    if end not in text or content.strip() not in text:
        raise TemplateError("The chat template changes the last message, so it cannot be continued.")
    place = text.rindex(end)
    return text[:place] if text.startswith(f"{end} ", place) else text[:place].rstrip()
