"""How long an answer took, and what it counted. The clock is injected."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from transom.request import Usage


@dataclass(frozen=True, slots=True)
class AnswerFigures:
    """Of one answer that came to an end, or was stopped."""

    first_seconds: float | None
    """Until its first text; None when there was none."""
    rest_seconds: float
    """From there to its end."""
    usage: Usage | None
    """None of one that was stopped: only the engine can count."""

    @property
    def tokens_per_second(self) -> float | None:
        """Of all tokens but the first, which came with the prompt; None where that says nothing."""
        if self.usage is None or self.usage.num_completion_tokens < 2 or self.rest_seconds <= 0:
            return None
        return (self.usage.num_completion_tokens - 1) / self.rest_seconds

    @property
    def num_context_tokens(self) -> int | None:
        """What it took of the context window, prompt and answer."""
        return None if self.usage is None else self.usage.num_prompt_tokens + self.usage.num_completion_tokens

    def line(self, context_window: int) -> str:
        """The figures in a line."""
        if self.usage is None:
            return "stopped"
        parts = [_count(self.usage.num_completion_tokens, "token")]
        if (speed := self.tokens_per_second) is not None:
            parts.append(f"{speed:.1f} tokens/s")
        parts.append("no text" if self.first_seconds is None else f"first after {self.first_seconds:.2f} s")
        parts.append(f"context {self.num_context_tokens} of {context_window} tokens")
        if self.usage.num_evicted_tokens:
            parts.append(f"{self.usage.num_evicted_tokens} forgotten")
        return ", ".join(parts)

    def rows(self) -> dict[str, str]:
        """All of them, by name."""
        if self.usage is None:
            return {"last answer": "was stopped; only what comes to its end is counted"}
        speed = self.tokens_per_second
        computed = self.usage.num_prompt_tokens - self.usage.num_cached_tokens
        rows = {
            "prompt": f"{_count(self.usage.num_prompt_tokens, 'token')}, "
            f"{self.usage.num_cached_tokens} of them cached, {computed} computed",
            "answer": _count(self.usage.num_completion_tokens, "token"),
            "first text": "none" if self.first_seconds is None else f"after {self.first_seconds:.3f} s",
            "speed": "-" if speed is None else f"{speed:.2f} tokens/s",
        }
        if self.usage.is_lossy:
            rows["forgotten"] = _count(self.usage.num_evicted_tokens, "token")
        return rows


class AnswerClock:
    """Started when it is made."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._first: float | None = None

    def text_came(self) -> None:
        """The first call counts."""
        if self._first is None:
            self._first = self._clock()

    def figures(self, usage: Usage | None) -> AnswerFigures:
        """As of now."""
        if self._first is None:
            return AnswerFigures(None, 0.0, usage)
        return AnswerFigures(self._first - self._begun, self._clock() - self._first, usage)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
