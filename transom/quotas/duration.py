"""How durations are written."""

from __future__ import annotations

import math


def duration_text(seconds: float) -> str:
    """As OpenAI writes it: `12ms`, `1s`, `6m0s`, `1h0m5s`; rounded up."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(math.ceil(milliseconds / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
