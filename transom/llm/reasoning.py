"""Text that a model writes for itself before it answers, `<think>...</think>`, told from the answer. Pure.

A template may open it in the prompt; then the text begins within it. Whether a model reasons at all is told by its chat
template.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from transom.llm.chat_events import ContentPiece, ReasoningPiece
from transom.llm.tool_parsers.content_spacing import MAX_SPACE
from transom.llm.tool_parsers.marks import MarkFinder


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """What stands around it."""

    opening: str = "<think>"
    closing: str = "</think>"


def find_reasoning(template: str) -> ReasoningMarks | None:
    """The marks that a chat template knows; None if it knows none."""
    marks = ReasoningMarks()
    return marks if marks.closing in template else None


class _Place(Enum):
    START = auto()
    REASONING_START = auto()
    REASONING = auto()
    ANSWER_START = auto()
    ANSWER = auto()


class ReasoningSplitter:
    """Feeds on text in pieces of any size; the white space around the reasoning belongs to nobody."""

    def __init__(self, marks: ReasoningMarks, *, is_open: bool) -> None:
        """`is_open`: the prompt ends within the reasoning."""
        self._marks = marks
        self._finder = MarkFinder((marks.closing,))
        self._place = _Place.REASONING_START if is_open else _Place.START
        self._held = ""
        self._space = ""
        self._num_fed = self._end = 0

    @property
    def end(self) -> int | None:
        """Characters of the text up to the end of the reasoning, its marks included: 0 without any, None while it
        goes on."""
        return None if self._place in (_Place.REASONING_START, _Place.REASONING) else self._end

    def feed(self, text: str) -> list[ContentPiece | ReasoningPiece]:
        """What is certain after more text."""
        pieces: list[ContentPiece | ReasoningPiece] = []
        self._num_fed += len(text)
        rest, self._held = self._held + text, ""
        while rest and not self._held:
            match self._place:
                case _Place.START:
                    rest = self._feed_start(rest)
                case _Place.REASONING_START:
                    rest = self._skip_space(rest, _Place.REASONING)
                case _Place.REASONING:
                    rest = self._feed_reasoning(rest, pieces)
                case _Place.ANSWER_START:
                    rest = self._skip_space(rest, _Place.ANSWER)
                case _Place.ANSWER:
                    pieces.append(ContentPiece(rest))
                    rest = ""
        return pieces

    def finish(self) -> list[ContentPiece | ReasoningPiece]:
        """What is left at the end of the text."""
        held, self._held = self._held, ""
        if self._place is _Place.REASONING:
            return [ReasoningPiece(self._space + held)] if held else []
        return [ContentPiece(held)] if held else []

    def _feed_start(self, text: str) -> str:
        """The opening mark, if that is what comes."""
        start, opening = text.lstrip(), self._marks.opening
        if len(start) < len(opening) and opening.startswith(start) and len(text) <= MAX_SPACE:
            self._held = text
            return ""
        is_opened = start.startswith(opening)
        self._place = _Place.REASONING_START if is_opened else _Place.ANSWER
        return start[len(opening) :] if is_opened else text

    def _skip_space(self, text: str, place: _Place) -> str:
        rest = text.lstrip()
        self._place = place if rest else self._place
        return rest

    def _feed_reasoning(self, text: str, pieces: list[ContentPiece | ReasoningPiece]) -> str:
        before, mark, behind = self._finder.split(text)
        kept = before.rstrip()
        shown = self._space + kept if kept else ""
        space = before[len(kept) :] if kept else self._space + before
        shown, self._space = shown + space[:-MAX_SPACE], space[-MAX_SPACE:]
        if shown:
            pieces.append(ReasoningPiece(shown))
        if mark is None:
            self._held = behind
            return ""
        self._place, self._end = _Place.ANSWER_START, self._num_fed - len(behind)
        return behind
