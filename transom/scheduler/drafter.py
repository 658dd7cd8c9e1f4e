"""`Drafter`: what one sequence guesses of its own future, and how good its guesses are. Knows no other sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom.scheduler.prompt_lookup import PromptLookup

_LONG_MATCH = 6
"""Matches of so many tokens are right more often than shorter ones, and are judged by themselves."""
_SHORT_RATE, _LONG_RATE = 0.4, 0.8
"""What is expected of a guess before any was checked ..."""
_EXPECTATION_WEIGHT = 2.0
"""... and as how many checked ones that counts, until it is as old as they."""
_DECAY = 0.8
"""What a draft still counts when the next one was checked: text turns from copied to new within a line."""
_TURNS = ((64, 8), (16, 4))
"""After so many steps in which no guess was right only every eighth, or fourth, looks for one: beside small models
looking takes time. A wrong try is no reason to look more often."""
_MAX_WEIGHT = 4.0
"""A draft counts as at most so many checked guesses, or one long copy would hide that it has ended."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Guessed next tokens of a sequence."""

    token_ids: tuple[int, ...]
    rate: float
    """How likely the next guess is right when those before it were, 0..1."""


@dataclass(slots=True)
class _Rate:
    num_right: float
    num_checked: float = _EXPECTATION_WEIGHT

    @classmethod
    def expected(cls, rate: float) -> _Rate:
        return cls(_EXPECTATION_WEIGHT * rate)

    @property
    def value(self) -> float:
        return self.num_right / self.num_checked

    def note(self, num_right: int, num_checked: int) -> None:
        weight = min(1.0, _MAX_WEIGHT / num_checked)
        self.num_right = _DECAY * self.num_right + weight * num_right
        self.num_checked = _DECAY * self.num_checked + weight * num_checked


class Drafter:
    """Drafts of one sequence, none of whose tokens is in `end_token_ids`."""

    __slots__ = ("_end_token_ids", "_is_long_match", "_lookup", "_num_futile_steps", "_rates", "num_idle_steps")

    def __init__(self, end_token_ids: frozenset[int]) -> None:
        self._lookup = PromptLookup()
        self._end_token_ids = end_token_ids
        self._rates = {False: _Rate.expected(_SHORT_RATE), True: _Rate.expected(_LONG_RATE)}
        self._is_long_match = False  # the last one
        self.num_idle_steps = 0
        """Steps since guesses of it were computed last."""
        self._num_futile_steps = 0
        """Steps since a guess of it was right last."""

    def looks(self) -> bool:
        """Whether the next step, which this counts, is one to look for guesses in."""
        self.num_idle_steps += 1
        self._num_futile_steps += 1
        for num_steps, turn in _TURNS:
            if self._num_futile_steps > num_steps:
                return self._num_futile_steps % turn == 0
        return True

    def draft(self, token_ids: NDArray[np.int32], num_wanted: int) -> Draft | None:
        """Up to `num_wanted` tokens that may follow `token_ids` [num_tokens], the sequence so far; None without any."""
        match = self._lookup.find(token_ids, num_wanted)
        if match is None:
            return None
        guessed = _until_end(match.continuation, self._end_token_ids)
        self._is_long_match = match.length >= _LONG_MATCH
        return Draft(guessed, self._rates[self._is_long_match].value) if guessed else None

    def note(self, num_drafted: int, num_accepted: int) -> None:
        """Of the last draft so many tokens were computed, at least one; the first `num_accepted` were right, and the
        one behind them, if there is one, was not."""
        self.num_idle_steps = 0
        if num_accepted:
            self._num_futile_steps = 0
        self._rates[self._is_long_match].note(num_accepted, min(num_accepted + 1, num_drafted))


def _until_end(token_ids: tuple[int, ...], end_token_ids: frozenset[int]) -> tuple[int, ...]:
    """The tokens before the first that ends a sequence: it need not be guessed, for nothing comes behind it."""
    for index, token_id in enumerate(token_ids):
        if token_id in end_token_ids:
            return token_ids[:index]
    return token_ids
