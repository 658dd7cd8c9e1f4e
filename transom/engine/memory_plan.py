"""`MemoryPlan`: what a worker will take of RAM and SSD, and what that holds, before anything is loaded.

Made by the same functions by which the worker checks and allocates: sizes of weights, budget of KV, workspace. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace

from transom.cache.budget import Budget
from transom.cache.budget_plan import planned_budget
from transom.config.engine_config import MIB, EngineConfig, workspace_bytes
from transom.config.kv_size import cold_slot_bytes
from transom.config.model_config import ModelConfig
from transom.errors import ConfigError

__all__ = ["MemoryPlan", "least_kv_ram_mb", "least_ssd_mb"]

_MOST_MIB = 2**30
"""As the registry file has it."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Of one model with its limits."""

    weights_bytes: int
    workspace_bytes: int
    budget: Budget
    context_window: int
    max_num_seqs: int

    @classmethod
    def of(
        cls, model_config: ModelConfig, engine_config: EngineConfig, weights_bytes: int, *, other_ssd_bytes: int = 0
    ) -> MemoryPlan:
        """Raises ConfigError when the budgets hold not even one block of keys and values."""
        return cls(
            weights_bytes,
            workspace_bytes(model_config, engine_config),
            planned_budget(model_config, engine_config, other_ssd_bytes=other_ssd_bytes),
            engine_config.context_window,
            engine_config.max_num_seqs,
        )

    @property
    def arena_bytes(self) -> int:
        """Keys and values in RAM, and the ring for those on SSD: what is allocated, used or not."""
        return self.budget.num_slots * self.budget.slot_bytes

    @property
    def kv_bytes(self) -> int:
        """The same with the states of convolutions; at most `kv_cache_ram_bytes`."""
        return self.arena_bytes + self.budget.state_bytes

    @property
    def ram_bytes(self) -> int:
        """All of it at its largest."""
        return self.weights_bytes + self.kv_bytes + self.workspace_bytes

    @property
    def max_sequence_tokens(self) -> int:
        """The longest request of which nothing is forgotten; at most the context window."""
        return self.budget.max_tokens(self.context_window)

    def max_sequences(self, num_tokens: int) -> int:
        """How many requests of so many tokens fit at once, at most `max_num_seqs`."""
        return min(self.max_num_seqs, self.budget.max_sequences(num_tokens))

    def max_tokens_of(self, num_sequences: int) -> int:
        """The longest that so many requests may be at once, all of them; 0 when they do not fit at any length."""
        if num_sequences > self.max_num_seqs:
            return 0
        lengths = range(1, self.context_window + 1)
        return bisect_left(lengths, True, key=lambda length: self.budget.max_sequences(length) < num_sequences)

    def tiers_of(self, num_tokens: int) -> tuple[int, int]:
        """Bytes of keys and values in RAM and on SSD of one request of so many tokens, alone."""
        slots = self.budget.peak_slots(num_tokens)
        num_hot = min(slots, self.budget.num_hot_slots)
        return num_hot * self.budget.slot_bytes, (slots - num_hot) * cold_slot_bytes(self.budget.slot_bytes)


def least_kv_ram_mb(
    model_config: ModelConfig, engine_config: EngineConfig, num_tokens: int, num_sequences: int
) -> int | None:
    """The least `kv_cache_ram_mb` that holds so many requests at once, with the SSD as it is; None: no size does."""

    def holds(mib: int) -> bool:
        config = replace(engine_config, kv_cache_ram_bytes=mib * MIB)
        return _holds(model_config, config, num_tokens, num_sequences)

    return _least(holds)


def least_ssd_mb(
    model_config: ModelConfig, engine_config: EngineConfig, num_tokens: int, num_sequences: int
) -> int | None:
    """The least `max_ssd_mb` that does, with the RAM as it is; None: no size does, or there is no directory."""
    if engine_config.ssd_path is None:
        return None

    def holds(mib: int) -> bool:
        config = replace(engine_config, max_ssd_bytes=mib * MIB)
        return _holds(model_config, config, num_tokens, num_sequences)

    return _least(holds)


def _holds(model_config: ModelConfig, engine_config: EngineConfig, num_tokens: int, num_sequences: int) -> bool:
    try:
        budget = planned_budget(model_config, engine_config)
    except ConfigError:
        return False
    return budget.max_sequences(num_tokens) >= num_sequences


def _least(holds: Callable[[int], bool]) -> int | None:
    """More holds what less does."""
    most = 1
    while not holds(most):
        most *= 2
        if most > _MOST_MIB:
            return None
    return bisect_left(range(1, most + 1), True, key=holds) + 1
