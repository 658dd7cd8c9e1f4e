"""`truncation: "auto"` of a chat: which whole messages are left out so that the rest fits. Knows no model.

The oldest go first. What always stays: system and developer messages, the last message of the user, and the end of the
conversation. Tool calls and their results go together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transom.errors import TemplateError
from transom.server.chat_messages import Message

Encode = Callable[[Sequence[int]], tuple[int, ...]]
"""Token ids of the conversation made of the messages with these indices. Raises TemplateError where it cannot be."""

_STAYS = frozenset({"system", "developer"})
_ANSWERS_A_CALL = frozenset({"tool", "function"})


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """Lengths of a prompt in tokens."""

    most: int
    """Nothing is left out of a prompt that is no longer than this."""
    wanted: int
    """A longer one is brought down to this where that is possible: room for an answer whose length was left open."""


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt, and what was left out of it."""

    token_ids: tuple[int, ...]
    left_out: tuple[int, ...] = ()
    """Indices of messages, ascending."""
    num_left_out_tokens: int = 0

    def fields(self) -> dict[str, Any]:
        """What the answer says of it."""
        return {
            "truncated": bool(self.left_out),
            "left_out_messages": list(self.left_out),
            "left_out_tokens": self.num_left_out_tokens,
        }


def fit_messages(messages: Sequence[Message], encode: Encode, limits: PromptLimits) -> FittedPrompt:
    """The prompt with as few of the oldest messages left out as it takes; the whole prompt if nothing helps.

    A rest that the template refuses, such as one that begins with an answer, loses the messages up to the next of the
    user, too. Encodes the conversation about twice `log2(len(messages))` times, so it may block for seconds. Raises
    TemplateError for a conversation that the template refuses as it was given.
    """
    whole = encode(range(len(messages)))
    if len(whole) <= limits.most:
        return FittedPrompt(whole)
    search = _Search(messages, encode)
    kept = search.shortest_cut(limits.wanted) or search.longest_cut(limits.most)
    if kept is None:
        return FittedPrompt(whole)
    left_out = sorted(set(range(len(messages))).difference(kept.indices))
    return FittedPrompt(kept.token_ids, tuple(left_out), len(whole) - len(kept.token_ids))


def droppable_units(messages: Sequence[Message]) -> list[tuple[int, ...]]:
    """Indices of messages that may be left out, oldest first; those of one tuple only together."""
    last_of_user = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
    protected = {last_of_user, len(messages) - 1}
    return [unit for unit in _units(messages) if protected.isdisjoint(unit) and messages[unit[0]].role not in _STAYS]


def _units(messages: Sequence[Message]) -> list[tuple[int, ...]]:
    """All messages; each result of a tool with its call, or with what stands before it where no call has its id."""
    units: list[list[int]] = []
    calls: dict[str, list[int]] = {}
    for index, message in enumerate(messages):
        if message.role in _ANSWERS_A_CALL and units:
            calls.get(message.tool_call_id or "", units[-1]).append(index)
            continue
        units.append([index])
        calls.update((call.id, units[-1]) for call in message.tool_calls or ())
    return [tuple(unit) for unit in units]


@dataclass(frozen=True, slots=True)
class _Cut:
    """What is left of a conversation."""

    indices: tuple[int, ...]
    token_ids: tuple[int, ...]


class _Search:
    """Finds how many units must go."""

    def __init__(self, messages: Sequence[Message], encode: Encode) -> None:
        self._messages = messages
        self._encode = encode
        self._units = droppable_units(messages)
        speaking = {index for index, message in enumerate(messages) if message.role not in _STAYS}
        self._first_that_stays = min(speaking.difference(*self._units), default=len(messages))

    def shortest_cut(self, num_tokens: int) -> _Cut | None:
        """The cut by the fewest units that leaves at most so many tokens."""
        num_cut = bisect_left(range(1, len(self._units) + 1), True, key=lambda n: self._fits(n, num_tokens)) + 1
        return self._cut(num_cut) if num_cut <= len(self._units) and self._fits(num_cut, num_tokens) else None

    def longest_cut(self, num_tokens: int) -> _Cut | None:
        """The cut by all units, if that leaves at most so many tokens."""
        return self._cut(len(self._units)) if self._units and self._fits(len(self._units), num_tokens) else None

    def _fits(self, num_units: int, num_tokens: int) -> bool:
        cut = self._cut(num_units)
        return cut is not None and len(cut.token_ids) <= num_tokens

    def _cut(self, num_units: int) -> _Cut | None:
        """Without the first so many units, or without more where the template insists; None where it never agrees."""
        for more in dict.fromkeys((num_units, self._next_turn(num_units))):
            kept = self._without(self._units[:more])
            try:
                return _Cut(kept, self._encode(kept))
            except TemplateError:
                continue
        return None

    def _next_turn(self, num_units: int) -> int:
        """The least number of units, from this one on, whose absence leaves a conversation that the user begins."""
        for number in range(num_units, len(self._units)):
            first = min(self._units[number][0], self._first_that_stays)
            if self._messages[first].role == "user":
                return number
        return len(self._units)

    def _without(self, units: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
        gone = {index for unit in units for index in unit}
        return tuple(index for index in range(len(self._messages)) if index not in gone)
