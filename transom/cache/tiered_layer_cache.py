"""`TieredLayerCache`: as `PagedLayerCache`, for passes in which somebody's blocks are cold or attention is measured.

Sequences that are wholly in RAM are attended to together, as always. Each of the others goes by itself, in rounds: what
is cold comes through the staging ring, and the same arithmetic in the same order gives the same bits as from RAM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom.cache.block import Block
from transom.cache.block_table import BlockTable
from transom.cache.conv_states import ConvPass, NoConvPass
from transom.cache.hot_tier import AttentionRule, HotTier
from transom.cache.layer_cache import AttentionParameters, BatchPart, LayerRows, PagedLayerCache, visible_of
from transom.cache.layer_group import LayerGroup
from transom.cache.lost_block import LostBlockError
from transom.cache.read_plan import ReadUnit, Round, rounds_of
from transom.cache.sequence_cache import SequenceCache
from transom.cache.staging_ring import StagingRing

Floats = NDArray[np.float32]


@dataclass(slots=True)
class _MeasuredMass:
    """What the layers of a pass paid attention to in one sequence; the mean over them goes to its table."""

    table: BlockTable
    total: Floats | None = None
    num_added: int = 0

    def add(self, mass: Floats) -> None:
        """Takes in one layer's mass [blocks]."""
        self.total = mass if self.total is None else self.total + mass
        self.num_added += 1
        if self.num_added == self.table.group.num_layers:
            self.table.add_mass(self.total / np.float32(self.num_added))


@dataclass(frozen=True, slots=True)
class _StagedPart:
    """One sequence of the batch in the layers of one kind, attended to in rounds."""

    handle: SequenceCache
    group_index: int
    rows: slice
    start: int
    block_slots: NDArray[np.int32]  # [num_layers, B]
    rounds: tuple[Round, ...]
    visible: NDArray[np.int64] | None
    measured: _MeasuredMass | None

    @property
    def table(self) -> BlockTable:
        return self.handle.tables[self.group_index]

    @property
    def group(self) -> LayerGroup:
        return self.table.group

    @property
    def allows_missing(self) -> bool:
        """Blocks may be gone that a position could see: attention decided, not positions."""
        return self.measured is not None and self.handle.strategy.capacity_blocks is not None

    def units(self, row: int) -> list[ReadUnit]:
        """What is read for one layer."""
        return [ReadUnit(self.group.kind, row, each) for each in self.rounds if each.num_slots]


@dataclass(frozen=True, slots=True)
class _TogetherPart:
    """The sequences of the batch that are attended to together in the layers of one kind."""

    rows: NDArray[np.intp]
    layer_cache: PagedLayerCache


@dataclass(frozen=True, slots=True)
class _GroupPlan:
    """How the batch is cut for the layers of one kind."""

    together: _TogetherPart | None
    staged: list[_StagedPart]


class TieredLayerCache:
    """Valid for one forward pass, in which every layer attends once, in order; used by one thread.

    Reading from the cold tier begins when this is made, and stays ahead of the computation as far as the ring reaches.
    """

    def __init__(
        self,
        hot_tier: HotTier,
        ring: StagingRing,
        rows: LayerRows,
        parts: Sequence[BatchPart],
        convolutions: ConvPass,
        *,
        drop_lost: Callable[[Sequence[Block]], None],
    ) -> None:
        """`drop_lost` is told of blocks whose bytes did not come back right, before LostBlockError is raised."""
        self._drop_lost = drop_lost
        self._hot_tier = hot_tier
        self._ring = ring
        self._rows = rows
        self._whole = PagedLayerCache(hot_tier, rows, parts, convolutions)
        num_groups = len(parts[0][0].tables)
        self._plans = [_plan(hot_tier, rows, parts, group, ring.max_round_slots) for group in range(num_groups)]
        ring.begin([unit for layer in sorted(rows) for unit in self._units(layer)])

    def attend(self, layer_index: int, query: Floats, key: Floats, value: Floats, spec: AttentionParameters) -> Floats:
        """As `PagedLayerCache.attend`. Raises LostBlockError when cold bytes cannot be had; the pass is void then."""
        self._whole.store(layer_index, key, value)
        group, row = self._rows[layer_index]
        plan = self._plans[group]
        if not plan.staged:
            return self._whole.attend_stored(layer_index, query, spec)
        attended = np.empty(query.shape, np.float32)
        if plan.together is not None:
            rows = plan.together.rows
            attended[rows] = plan.together.layer_cache.attend_stored(layer_index, query[rows], spec)
        for part in plan.staged:
            attended[part.rows] = self._attend_part(part, row, query[part.rows], spec)
        return attended

    def convolve(self, layer_index: int, x: Floats, weight: Floats, bias: Floats | None) -> Floats:
        """As `PagedLayerCache.convolve`: states are always in RAM."""
        return self._whole.convolve(layer_index, x, weight, bias)

    def _units(self, layer_index: int) -> list[ReadUnit]:
        group, row = self._rows[layer_index]
        return [unit for part in self._plans[group].staged for unit in part.units(row)]

    def _attend_part(self, part: _StagedPart, row: int, query: Floats, spec: AttentionParameters) -> Floats:
        rule = AttentionRule(spec.scale, spec.window, spec.soft_cap, part.visible, part.allows_missing)
        state = self._hot_tier.attend_in_rounds(part.start, query, rule, measure_mass=part.measured is not None)
        table = part.block_slots[row : row + 1].copy()
        for each in part.rounds:
            slots = self._stage(part, ReadUnit(part.group.kind, row, each))
            table[0, each.columns] = slots
            try:
                state.attend_splits(self._hot_tier.arena, table, each.first_split, each.num_splits)
            finally:
                self._ring.give_back(slots)
        attended = state.finish()
        if part.measured is not None:
            part.measured.add(state.mass()[0])
        return attended

    def _stage(self, part: _StagedPart, unit: ReadUnit) -> NDArray[np.int32]:
        """The staging slots of the round's cold blocks, whose bytes are right."""
        if unit.round.num_slots == 0:
            return np.empty(0, np.int32)
        slots, errors = self._ring.take(unit)
        if errors.any():
            self._ring.give_back(slots)
            lost = (part.table.block(int(column)) for column in unit.round.columns[errors != 0])
            self._drop_lost([block for block in lost if block is not None])
            raise LostBlockError([part.handle])
        return slots


def _plan(
    hot_tier: HotTier, rows: LayerRows, parts: Sequence[BatchPart], group: int, max_round_slots: int
) -> _GroupPlan:
    ends = np.cumsum([count for _, _, count in parts]).tolist()
    placed = [(part, slice(end - part[2], end)) for part, end in zip(parts, ends, strict=True)]
    alone = [(part, where) for part, where in placed if _goes_alone(part[0], group)]
    together = [(part, where) for part, where in placed if not _goes_alone(part[0], group)]
    staged = [_staged_part(part, group, where, max_round_slots) for part, where in alone]
    if not staged or not together:
        return _GroupPlan(None, staged)
    indices = np.concatenate([np.arange(where.start, where.stop) for _, where in together])
    return _GroupPlan(
        _TogetherPart(indices, PagedLayerCache(hot_tier, rows, [part for part, _ in together], NoConvPass())), staged
    )


def _goes_alone(handle: SequenceCache, group: int) -> bool:
    """Whether some of it is cold in these layers, or their attention is measured."""
    return handle.tables[group].num_cold_blocks > 0 or _is_measured(handle, group)


def _is_measured(handle: SequenceCache, group: int) -> bool:
    return handle.strategy.follows_mass and handle.tables[group].group.is_full


def _staged_part(part: BatchPart, group: int, rows: slice, max_round_slots: int) -> _StagedPart:
    handle, start, count = part
    table = handle.tables[group]
    block_slots = table.slots(start + count)
    rounds = rounds_of(table.cold_indices()[: block_slots.shape[1]], max_round_slots)
    measured = _MeasuredMass(table) if _is_measured(handle, group) else None
    return _StagedPart(handle, group, rows, start, block_slots, rounds, visible_of([handle], group), measured)
