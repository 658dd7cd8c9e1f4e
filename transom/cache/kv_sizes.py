"""`KVSizes`: how much place sequences may take of a model's KV budgets. For whoever plans without having the cache."""

from __future__ import annotations

from dataclasses import dataclass

from transom.cache.budget import Budget, ram_budget
from transom.cache.layer_group import layer_groups
from transom.cache.strategy import strategy_of
from transom.config.engine_config import EngineConfig
from transom.config.kv_size import cold_slot_bytes, conv_state_bytes, slot_bytes_of
from transom.config.model_config import ModelConfig
from transom.request import CacheOptions, KVBytes


@dataclass(frozen=True, slots=True)
class KVSizes:
    """Of one model. Never less than what the cache makes of it: its files and records on SSD count as place here."""

    budget: Budget
    chunk: int
    """The most tokens that one step computes of a sequence, in either tier."""

    @classmethod
    def of(cls, model_config: ModelConfig, engine_config: EngineConfig) -> KVSizes:
        """From what the worker is given. Raises ConfigError when not even one block fits."""
        groups = layer_groups(model_config)
        slot_bytes = slot_bytes_of(model_config, engine_config.kv_dtype)
        state_bytes = engine_config.max_num_seqs * conv_state_bytes(model_config)
        num_cold_slots = engine_config.max_ssd_bytes // cold_slot_bytes(slot_bytes)
        budget = ram_budget(groups, slot_bytes, engine_config, state_bytes, num_cold_slots)
        return cls(budget, engine_config.max_chunk_tokens)

    @property
    def room(self) -> KVBytes:
        """All the place that blocks may lie in."""
        budget = self.budget
        return KVBytes(budget.num_hot_slots * budget.slot_bytes, budget.num_cold_slots * self._cold_slot_bytes)

    @property
    def smallest(self) -> KVBytes:
        """What every sequence takes: one block of each kind of layers."""
        return self.of_sequence(1, CacheOptions())

    def of_sequence(self, num_tokens: int, options: CacheOptions) -> KVBytes:
        """The most that a sequence of so many tokens has at once in RAM, and on SSD; what is on its way from one to the
        other lies in both for that moment, and counts here in the latter alone."""
        budget = self.budget
        strategy = strategy_of(
            options,
            capacity_blocks=budget.capacity_blocks,
            chunk=budget.chunk,
            has_cold_tier=budget.has_cold_tier,
        )
        peaks = {group: group.peak_blocks(num_tokens, self.chunk, strategy) for group in budget.groups}
        most_hot = 2**31 if budget.max_hot_blocks is None else budget.max_hot_blocks
        num_hot_slots = sum(group.num_layers * min(peak, most_hot) for group, peak in peaks.items())
        num_slots = sum(group.num_layers * peak for group, peak in peaks.items())
        num_hot_slots, num_cold_slots = min(num_hot_slots, budget.num_hot_slots), min(num_slots, budget.num_cold_slots)
        return KVBytes(num_hot_slots * budget.slot_bytes, num_cold_slots * self._cold_slot_bytes)

    def max_tokens(self, most: KVBytes, options: CacheOptions, limit: int) -> int:
        """The longest sequence, up to `limit` tokens, that takes no more than `most`; 0: none."""
        fitting, too_long = 0, limit + 1
        while too_long - fitting > 1:
            middle = (fitting + too_long) // 2
            if self.of_sequence(middle, options).is_within(most):
                fitting = middle
            else:
                too_long = middle
        return fitting

    @property
    def _cold_slot_bytes(self) -> int:
        return cold_slot_bytes(self.budget.slot_bytes)
