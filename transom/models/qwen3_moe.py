"""Qwen3 with experts (Qwen team, 2025): each token goes through a few of many small feed-forward blocks."""

from __future__ import annotations

from transom.models.expert_builder import ExpertBuilder
from transom.models.qwen3 import Qwen3Builder


class Qwen3MoeBuilder(ExpertBuilder, Qwen3Builder):
    """Qwen3's attention."""
