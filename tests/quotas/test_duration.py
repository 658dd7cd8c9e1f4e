"""Durations as clients of OpenAI read them."""

from __future__ import annotations

import pytest

from transom.quotas import duration_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0ms"),
        (0.0115, "12ms"),
        (0.9995, "1s"),
        (1.0, "1s"),
        (59.2, "1m0s"),
        (360.0, "6m0s"),
        (3605.0, "1h0m5s"),
        (86400.0, "24h0m0s"),
    ],
)
def test_a_duration_is_rounded_up_and_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
