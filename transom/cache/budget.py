"""How much KV fits: arithmetic between tokens, blocks, slots and bytes. Owns no memory; agrees with it to the byte."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from transom.cache.block import BLOCK_SIZE
from transom.cache.layer_group import LayerGroup
from transom.errors import BudgetExceededError, ConfigError

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Budget:
    """The KV budget of one model."""

    groups: Sequence[LayerGroup]
    slot_bytes: int
    """One layer's share of a block: 64 tokens, all KV heads, keys and values."""
    budget_bytes: int
    chunk: int
    """The most tokens of one sequence that one step computes."""

    def __post_init__(self) -> None:
        smallest = self.peak_slots(1) * self.slot_bytes
        if smallest > self.budget_bytes:
            raise ConfigError(
                f"kv_cache_ram_mb is {_mib(self.budget_bytes)} MiB, but one block of {BLOCK_SIZE} tokens takes "
                f"{_mib(smallest)} MiB ({smallest} bytes): the key needs at least {-(-smallest // _MIB)}"
            )

    @property
    def num_slots(self) -> int:
        """Slots of the arena: as many whole ones as the budget holds."""
        return self.budget_bytes // self.slot_bytes

    def peak_slots(self, num_tokens: int) -> int:
        """The most slots that one sequence of `num_tokens` holds at once."""
        return sum(group.num_layers * group.peak_blocks(num_tokens, self.chunk) for group in self.groups)

    def peak_bytes(self, num_tokens: int) -> int:
        return self.peak_slots(num_tokens) * self.slot_bytes

    def max_tokens(self, limit: int) -> int:
        """The longest sequence, up to `limit` tokens, that fits when it is alone."""
        return bisect_right(range(1, limit + 1), self.num_slots, key=self.peak_slots)

    def check_fits(self, num_tokens: int) -> None:
        """Raises BudgetExceededError when a sequence of `num_tokens` cannot fit, however idle the server is."""
        if self.peak_slots(num_tokens) <= self.num_slots:
            return
        needed = self.peak_bytes(num_tokens)
        raise BudgetExceededError(
            f"The request needs room for {num_tokens} tokens, {needed} bytes ({_mib(needed)} MiB) of keys and values, "
            f"and the budget kv_cache_ram_mb is {_mib(self.budget_bytes)} MiB, which holds at most "
            f"{self.max_tokens(num_tokens)} tokens of one request; shorten the input or lower max_tokens."
        )


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / _MIB:.2f}".rstrip("0").rstrip(".")
