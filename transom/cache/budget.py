"""How much KV fits: arithmetic between tokens, blocks, slots and bytes. Owns no memory; agrees with it to the byte."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transom.cache.block import BLOCK_SIZE
from transom.cache.layer_group import LayerGroup
from transom.cache.staging_ring import num_staging_slots
from transom.cache.strategy import FULL, Strategy
from transom.config.engine_config import EngineConfig
from transom.errors import BudgetExceededError, ConfigError

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Budget:
    """The KV budgets of one model, RAM and SSD."""

    groups: Sequence[LayerGroup]
    slot_bytes: int
    """One layer's share of a block: 64 tokens, all KV heads, keys and values."""
    budget_bytes: int
    """In RAM."""
    chunk: int
    """The most tokens of one sequence that one step computes while all is in RAM."""
    num_staging_slots: int = 0
    """Slots of the arena through which cold blocks pass."""
    num_cold_slots: int = 0
    """Slots that fit on SSD."""
    max_ssd_bytes: int = 0
    state_bytes: int = 0
    """RAM for what the short convolutions of all sequences remember."""
    max_hot_blocks: int | None = None
    """Blocks that one sequence may have in RAM in layers of one kind; None = no such cap."""

    def __post_init__(self) -> None:
        least = f"one block of {BLOCK_SIZE} tokens"
        if self.num_staging_slots:
            least += f" and a staging ring of {self.num_staging_slots} slots"
        if self.state_bytes:
            least += f" and the states of the convolutions, {_mib(self.state_bytes)} MiB,"
        smallest = (self._num_block_slots + self.num_staging_slots) * self.slot_bytes + self.state_bytes
        if smallest > self.budget_bytes:
            raise ConfigError(
                f"kv_cache_ram_mb is {_mib(self.budget_bytes)} MiB, but {least} takes {_mib(smallest)} MiB "
                f"({smallest} bytes): the key needs at least {-(-smallest // _MIB)}"
            )

    @property
    def num_slots(self) -> int:
        """Slots of the arena: as many whole ones as the budget holds."""
        return (self.budget_bytes - self.state_bytes) // self.slot_bytes

    @property
    def num_hot_slots(self) -> int:
        """Slots of the arena that blocks may lie in."""
        return self.num_slots - self.num_staging_slots

    @property
    def has_cold_tier(self) -> bool:
        return self.num_cold_slots > 0

    @property
    def capacity_blocks(self) -> int:
        """Blocks in full-attention layers that both tiers hold of one sequence, when its sliding layers have theirs."""
        num_layers = sum(group.num_layers for group in self.groups if group.is_full)
        if num_layers == 0:
            return 1
        peaks = {group: self._peak_of(group, 2**31, FULL) for group in self.groups}
        sliding = sum(peak * group.num_layers for group, peak in peaks.items() if not group.is_full)
        return max(1, (self._num_slots_for(peaks) - sliding) // num_layers)

    def peak_slots(self, num_tokens: int, strategy: Strategy = FULL) -> int:
        """The most slots that one sequence of `num_tokens` holds at once, in both tiers together."""
        return sum(group.num_layers * self._peak_of(group, num_tokens, strategy) for group in self.groups)

    def peak_bytes(self, num_tokens: int, strategy: Strategy = FULL) -> int:
        return self.peak_slots(num_tokens, strategy) * self.slot_bytes

    def fits(self, num_tokens: int, strategy: Strategy = FULL) -> bool:
        """Whether a sequence of `num_tokens` has room when it is alone."""
        peaks = {group: self._peak_of(group, num_tokens, strategy) for group in self.groups}
        return self.peak_slots(num_tokens, strategy) <= self._num_slots_for(peaks)

    def max_tokens(self, limit: int) -> int:
        """The longest sequence of which nothing is forgotten, up to `limit` tokens, that fits when it is alone."""
        return bisect_left(range(1, limit + 1), True, key=lambda num_tokens: not self.fits(num_tokens))

    def max_sequences(self, num_tokens: int, strategy: Strategy = FULL) -> int:
        """How many sequences of `num_tokens` tokens, known from the start, are let in at once and never preempted."""
        if not self.fits(num_tokens, strategy):
            return 0
        by_room = (self.num_hot_slots + self.num_cold_slots) // (
            self.peak_slots(num_tokens, strategy) + self.headroom_slots(1)
        )
        return max(1, min(by_room, self.num_hot_slots // self.headroom_slots(1)))

    def headroom_slots(self, num_sequences: int) -> int:
        """What is kept free beside the needs of several sequences: one more block for each."""
        return num_sequences * self._num_block_slots

    def check_fits(self, num_tokens: int, strategy: Strategy = FULL) -> None:
        """Raises BudgetExceededError when a sequence of `num_tokens` cannot fit, however idle the server is."""
        if self.fits(num_tokens, strategy):
            return
        needed = self.peak_bytes(num_tokens, strategy)
        raise BudgetExceededError(
            f"The request needs room for {num_tokens} tokens, {needed} bytes ({_mib(needed)} MiB) of keys and values, "
            f"and {self._described()} at most {self.max_tokens(num_tokens)} tokens of one request; shorten the input "
            "or lower max_tokens."
        )

    @property
    def _num_block_slots(self) -> int:
        """Slots of one block of every group."""
        return sum(group.num_layers for group in self.groups)

    def _peak_of(self, group: LayerGroup, num_tokens: int, strategy: Strategy) -> int:
        """With a cold tier, chunks become as short as the room demands."""
        return group.peak_blocks(
            num_tokens, min(self.chunk, BLOCK_SIZE) if self.has_cold_tier else self.chunk, strategy
        )

    def _num_slots_for(self, peaks: Mapping[LayerGroup, int]) -> int:
        """Slots in both tiers that are sure to hold one sequence with so many blocks in each group.

        A group with more blocks than its cap must have the others in the cold tier, where copies of all that is in RAM
        of the other groups may lie, too.
        """
        num_slots = self.num_hot_slots + self._num_whole_cold_slots
        if self.max_hot_blocks is not None:
            capped = [group.num_layers * self.max_hot_blocks for group in peaks if peaks[group] > self.max_hot_blocks]
            num_slots = min([num_slots, *(self._num_whole_cold_slots + most for most in capped)])
        return num_slots

    @property
    def _num_whole_cold_slots(self) -> int:
        """Slots on SSD without those that may be left over, too few for one more block.

        A block lies in one tier as a whole. Of blocks of one size it is known what is left over, of blocks of two sizes
        it depends on their turns: at most one slot less than the larger size.
        """
        sizes = {group.num_layers for group in self.groups}
        left_over = self.num_cold_slots % max(sizes) if len(sizes) == 1 else max(sizes) - 1
        return max(0, self.num_cold_slots - left_over)

    def _described(self) -> str:
        """What there is, up to the verb."""
        ram, ssd = (f"{_mib(num_bytes)} MiB" for num_bytes in (self.budget_bytes, self.max_ssd_bytes))
        if self.max_hot_blocks is not None:
            ram += f" (hot_tokens: {self.max_hot_blocks * BLOCK_SIZE} tokens)"
        if self.has_cold_tier:
            return f"the budgets kv_cache_ram_mb and max_ssd_mb are {ram} and {ssd}, which hold"
        return f"the budget kv_cache_ram_mb is {ram}, which holds"


def ram_budget(
    groups: Sequence[LayerGroup],
    slot_bytes: int,
    engine_config: EngineConfig,
    state_bytes: int,
    num_cold_slots: int = 0,
) -> Budget:
    """The budget of a cache whose cold tier has so many slots. Raises ConfigError when not even one block fits."""
    cap = None if engine_config.hot_tokens is None else max(1, engine_config.hot_tokens // BLOCK_SIZE)
    num_slots = max(0, engine_config.kv_cache_ram_bytes - state_bytes) // slot_bytes
    return Budget(
        groups=groups,
        slot_bytes=slot_bytes,
        budget_bytes=engine_config.kv_cache_ram_bytes,
        chunk=min(engine_config.max_num_batched_tokens, 2**31 if cap is None else max(1, cap // 2) * BLOCK_SIZE),
        num_staging_slots=num_staging_slots(num_slots, slot_bytes) if engine_config.has_cold_tier else 0,
        num_cold_slots=num_cold_slots,
        max_ssd_bytes=engine_config.max_ssd_bytes,
        state_bytes=state_bytes,
        max_hot_blocks=cap,
    )


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / _MIB:.2f}".rstrip("0").rstrip(".")
