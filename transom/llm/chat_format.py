"""How one model's chat answers are read and prescribed: its reasoning, its function calls. Knows no HTTP, no engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from transom.grammar.structure import Structure
from transom.llm.chat_events import CallEnd, ChatEvent, ContentPiece, ReasoningPiece
from transom.llm.reasoning import ReasoningMarks, ReasoningSplitter, find_reasoning
from transom.llm.tool_parsers import FORMATS, CallParser, Function, ToolFormat, find_format, knows_tools
from transom.llm.tool_parsers.call_grammar import literal

TokenId = Callable[[str], int | None]
"""The id of a special token of the vocabulary; None where the text is no such token."""

_GAP = "gap: /[ \\t\\r\\n]{0,4}/"


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """Of one model."""

    tool_format: ToolFormat
    reasoning: ReasoningMarks | None
    knows_tools: bool
    """The chat template tells the model of its tools; else the conversation itself must."""
    special_token_id: TokenId

    @classmethod
    def of(cls, template: str, special_token_id: TokenId, tool_parser: str | None = None) -> ChatFormat:
        """By the marks in a chat template; `tool_parser` names another format than these would choose."""
        chosen = find_format(template) if tool_parser is None else FORMATS[tool_parser]
        return cls(chosen, find_reasoning(template), knows_tools(template), special_token_id)

    def is_reasoning_open(self, prompt_end: str) -> bool:
        """Whether a prompt that ends like this ends within the reasoning."""
        return self.reasoning is not None and prompt_end.rstrip().endswith(self.reasoning.opening)

    @property
    def shown_tokens(self) -> frozenset[str]:
        """Special tokens that must be in the text for it to be read."""
        marks = () if self.reasoning is None else (self.reasoning.opening, self.reasoning.closing)
        return frozenset((*self.tool_format.special_tokens, *marks))

    def parser(
        self, functions: Sequence[Function], *, separates_reasoning: bool, is_reasoning_open: bool, parallel: bool
    ) -> AnswerParser:
        """For one answer; without functions nothing is taken for a call."""
        names = frozenset(function.name for function in functions)
        splitter = None
        if separates_reasoning and self.reasoning is not None:
            splitter = ReasoningSplitter(self.reasoning, is_open=is_reasoning_open)
        return AnswerParser(splitter, self.tool_format.parser(names) if names else None, parallel=parallel)

    def calls(
        self, functions: Sequence[Function], *, reasons: bool, is_reasoning_open: bool, parallel: bool
    ) -> Structure:
        """The form of an answer that calls one or more of these functions, and nothing else; where it `reasons`, it may
        do that before. Raises ValueError beyond the bounds."""
        rules = self.tool_format.grammar(functions, self._mark, parallel=parallel)
        preamble = self._preamble(is_reasoning_open) if reasons else ""
        return Structure.grammar("\n".join([f"start: {'preamble ' if preamble else ''}calls", rules, preamble]))

    def after_reasoning(self, structure: Structure, *, is_reasoning_open: bool) -> Structure:
        """The form of an answer that may reason before it comes to `structure`."""
        return structure.after(self._preamble(is_reasoning_open))

    def _preamble(self, is_reasoning_open: bool) -> str:
        """Rules for what may come before the answer: reasoning, which has to be closed where the prompt opened it."""
        if self.reasoning is None:
            return ""
        closing = self._mark(self.reasoning.closing)
        lazy = "[lazy]" if closing.startswith('"') else ""  # up to the first closing mark; a token ends the text anyway
        opened = "reasoned gap" if is_reasoning_open else f"({self._mark(self.reasoning.opening)} reasoned gap)?"
        return "\n".join([f"preamble: {opened}", f"reasoned{lazy}: ANYTHING {closing}", _GAP, "ANYTHING: /(?s:.*)/"])

    def _mark(self, text: str) -> str:
        token_id = self.special_token_id(text)
        return literal(text) if token_id is None else f"<[{token_id}]>"


class AnswerParser:
    """Reads one answer as it comes. The events do not depend on where the text is cut."""

    def __init__(self, reasoning: ReasoningSplitter | None, calls: CallParser | None, *, parallel: bool) -> None:
        self._reasoning = reasoning
        self._calls = calls
        self._parallel = parallel
        self._num_calls = 0

    @property
    def has_called(self) -> bool:
        """A call is complete."""
        return self._num_calls > 0

    @property
    def reasoning_end(self) -> int | None:
        """Characters of the text that belong to its reasoning; None while it goes on."""
        return 0 if self._reasoning is None else self._reasoning.end

    def feed(self, text: str) -> list[ChatEvent]:
        """What is certain after more text."""
        pieces = [ContentPiece(text)] if self._reasoning is None else self._reasoning.feed(text)
        return self._counted(event for piece in pieces for event in self._read(piece))

    def finish(self) -> list[ChatEvent]:
        """What is left at the end of the text."""
        pieces = [] if self._reasoning is None else self._reasoning.finish()
        events = [event for piece in pieces for event in self._read(piece)]
        events += [] if self._calls is None else self._calls.finish()
        return self._counted(events)

    def _read(self, piece: ContentPiece | ReasoningPiece) -> list[ChatEvent]:
        return [piece] if self._calls is None or isinstance(piece, ReasoningPiece) else self._calls.feed(piece.text)

    def _counted(self, events: Iterable[ChatEvent]) -> list[ChatEvent]:
        """Without leave to call in parallel there is one call, and nothing behind it."""
        kept: list[ChatEvent] = []
        for event in events:
            if self._num_calls and not self._parallel:
                break
            kept.append(event)
            self._num_calls += isinstance(event, CallEnd)
        return kept
