"""The SSD tier: blocks in files, one file for each kind of layers. Owns the transfers and the byte budget of SSD.

A block has one place, the same in every layer's part of its file. Writing is asynchronous: a block stays in RAM until
its write is confirmed. Reading is asked for layer by layer, and verified against checksums that are kept in RAM. Used
by one thread; the transfers themselves run on native threads.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom.cache.block import Block, BlockState
from transom.cache.cold_store import ColdStore, Run
from transom.cache.spill_gate import SpillGate
from transom.cache.stats import COLD_TIER, TierState, TierStats
from transom.cache.transfer_counters import TransferCounters
from transom.config.model_config import LayerKind
from transom.kernels import CHECKSUM_MISMATCH, IOQueue, IOResult

logger = logging.getLogger(__name__)

DEADLINE_SECONDS = 30.0
"""A transfer that a running request waits for is given up after so long."""

HUNG_DISK_SECONDS = 1.0
"""The same while a transfer that was given up is still not over: a disk that hangs makes everybody wait only once."""

TIMED_OUT = -100
"""Error of an item whose transfer was given up; beside errno (> 0) and the negative codes of `IOResult`."""

_PAGE = 4096
_EXTENTS_PER_PAGE = 64
"""A page of a file's map describes at least so many slots, however scattered they are."""


def metadata_bytes(num_slots: int) -> int:
    """What a file system may need beside the bytes of so many slots."""
    return _PAGE * (2 + num_slots // _EXTENTS_PER_PAGE)


@dataclass(slots=True)
class ColdRead:
    """Slots of one layer that are on their way into RAM."""

    ticket: int
    kind: LayerKind
    cold_indices: NDArray[np.int64]
    arena_slots: NDArray[np.int32]
    result: IOResult | None = None
    """Once somebody asked for it; the queue gives it only once."""


@dataclass(frozen=True, slots=True)
class _Write:
    """Blocks of one kind that are on their way to their file."""

    ticket: int
    blocks: tuple[Block, ...]
    cold_indices: NDArray[np.int64]
    checksums: NDArray[np.uint64]  # [num_layers, blocks, 2], filled in when it is over
    num_new_bytes: int


class ColdTier:
    """Room for blocks outside RAM, within `max_bytes` of physical bytes of everything in its directory."""

    def __init__(
        self,
        stores: Mapping[LayerKind, ColdStore],
        *,
        arena: NDArray[np.uint8],
        slot_bytes: int,
        queue: IOQueue,
        num_slots: int,
        max_bytes: int,
        physical_bytes: Callable[[], int],
        num_promised_bytes: Callable[[], int] = lambda: 0,
        close_files: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`num_slots` fit into the budget beside what the file system needs; `physical_bytes` measures, or OSError.

        `num_promised_bytes` are what somebody else may still write into the directory.
        """
        self.num_slots = num_slots
        self._stores = stores
        self._arena = arena
        self._slot_bytes = slot_bytes
        self._queue = queue
        self._max_bytes = max_bytes
        self._physical_bytes = physical_bytes
        self._num_promised_bytes = num_promised_bytes
        self._close_files = close_files
        self._gate = SpillGate(clock)
        self._counters = TransferCounters(clock)
        self._writes: deque[_Write] = deque()
        self._late_reads: list[ColdRead] = []  # given up, and still not over
        self._late_write: int | None = None  # its ticket
        self._generation = 0

    @property
    def generation(self) -> int:
        """Changes when a place may get other content, so that what was read from it before is no longer valid."""
        return self._generation

    @property
    def num_free_slots(self) -> int:
        """Slots that may still be written, as far as the budget goes."""
        taken = sum((store.num_used + store.num_retired) * store.num_layers for store in self._stores.values())
        return max(0, self.num_slots - taken)

    @property
    def state(self) -> TierState:
        return self._gate.state

    @property
    def takes_blocks(self) -> bool:
        """Whether a write may be tried: the disk is neither broken nor full, or was full and has some room again."""
        return self._gate.is_open

    @property
    def num_placed_slots(self) -> int:
        """Slots' worth of blocks that have a place here, those included whose write is not over."""
        return sum(store.num_used * store.num_layers for store in self._stores.values())

    @property
    def num_writing_slots(self) -> int:
        """Slots on their way here."""
        return sum(write.checksums[..., 0].size for write in self._writes)

    def read_totals(self) -> tuple[int, float]:
        """Bytes that were read so far, and the time that the disk worked on them in seconds."""
        return self._counters.num_bytes_read, self._counters.read_seconds

    def stall_seconds(self) -> float:
        """Time so far in which nothing was done but wait for a transfer."""
        return self._counters.stall_seconds

    def write(self, blocks: Sequence[Block], run: Run) -> int:
        """Starts to write sealed, dirty blocks of one kind and one sequence, in order; how many of them it took.

        It takes as many of the first as have room; none while the disk is full or broken.
        """
        if not blocks or not self._gate.is_open:
            return 0
        self.trim()
        taken = tuple(blocks[: self._num_writable(blocks)])
        if taken:
            self._submit(taken, run)
        return len(taken)

    def poll(self) -> list[Block]:
        """Takes in the writes that are over; their blocks, which are clean now, or dirty again."""
        for read in tuple(self._late_reads):
            self.is_over(read)
        ended: list[Block] = []
        while self._writes and (result := self._queue.poll(self._writes[0].ticket)) is not None:
            ended += self._end(self._writes.popleft(), result)
        return ended

    def wait(self) -> list[Block]:
        """As `poll`, but waits for the oldest write, at most DEADLINE_SECONDS; empty if that is not over then."""
        if not self._writes:
            return []
        result = self._wait_for(self._writes[0].ticket)
        if result is None:
            self._late_write = self._writes[0].ticket
            self._gate.note_late()
            return []
        return [*self._end(self._writes.popleft(), result), *self.poll()]

    def forget(self, block: Block) -> bool:
        """Nobody needs this block any more. False: a write still reads its slots in RAM; `poll` hands it over later."""
        if block.state is BlockState.WRITING:
            return False
        if block.state is not BlockState.DIRTY:
            self._unplace(block)
            self._gate.note_room()
        return True

    def trim(self) -> None:
        """Gives the room of forgotten blocks back to the disk. What that keeps stays charged."""
        for store in self._stores.values():
            store.trim()

    def read(
        self, kind: LayerKind, row: int, cold_indices: NDArray[np.int64], arena_slots: NDArray[np.int32]
    ) -> ColdRead:
        """Starts to read one layer's share of blocks into slots, which belong to the transfer until it is over."""
        store = self._stores[kind]
        checksums = store.checksums(row, cold_indices)
        offsets = store.file.offsets(row, cold_indices)
        ticket = self._queue.submit_reads(store.file.fd, offsets, self._arena, arena_slots, self._slot_bytes, checksums)
        return ColdRead(ticket, kind, cold_indices, arena_slots)

    def finish_read(self, read: ColdRead, wanted: NDArray[np.bool_] | None = None) -> NDArray[np.int32]:
        """Waits until the bytes are there, at most DEADLINE_SECONDS. Errors by item, 0 where the bytes are right.

        Places with errors are given to nobody else. `wanted` False: nobody owns the block of that item any more, so its
        place may have been emptied or given away meanwhile; whatever was read there is no error.
        """
        if self.wait_for_read(read):
            assert read.result is not None
            errors = read.result.errors
        else:
            errors = np.full(len(read.cold_indices), TIMED_OUT, np.int32)
        if wanted is not None:
            errors = np.where(wanted, errors, np.int32(0))
        if errors.any():
            self._judge(read, errors)
        return errors

    def checksums(self, kind: LayerKind, cold_indices: NDArray[np.int64]) -> NDArray[np.uint64]:
        """[layers, blocks, 2], a copy: of what was written at these places."""
        return self._stores[kind].checksums(slice(None), cold_indices)

    def is_over(self, read: ColdRead) -> bool:
        """Whether a transfer has left its slots."""
        if read.result is None:
            self._end_read(read, self._queue.poll(read.ticket))
        return read.result is not None

    def wait_for_read(self, read: ColdRead) -> bool:
        """Waits until a transfer has left its slots, at most DEADLINE_SECONDS; whether it has."""
        if not self.is_over(read):
            self._end_read(read, self._wait_for(read.ticket))
        if read.result is None and all(read is not late for late in self._late_reads):
            self._late_reads.append(read)
        if read.result is None:
            self._gate.note_late()
        return read.result is not None

    def close(self) -> None:
        """Waits for the transfers that are under way, ends the threads, gives up the files. Idempotent."""
        self._close_files()

    def tiers(self, num_bytes_reuse: int = 0) -> tuple[TierStats, ...]:
        """A snapshot of the one tier that this is, of which so many bytes are reuse data; the directory is measured."""
        stats = TierStats(
            name=COLD_TIER,
            num_bytes_used=sum(store.num_used * store.block_bytes for store in self._stores.values()) - num_bytes_reuse,
            num_bytes_reuse=num_bytes_reuse,
            num_bytes_total=self._max_bytes,
            num_physical_bytes=self._measured_bytes(),
            state=self._gate.state,
            is_direct=all(store.file.is_direct for store in self._stores.values()),
            transfers=self._counters.snapshot(num_pauses=self._gate.num_closed),
        )
        return (stats,)

    def check_integrity(self, blocks: Sequence[Block]) -> None:
        """`blocks` are all that somebody owns. Raises AssertionError when places or bytes do not add up."""
        writing = [block for write in self._writes for block in write.blocks]
        leaving = [block for block in writing if block.ref_count == 0]
        for kind, store in self._stores.items():
            of_kind = [block for block in (*blocks, *leaving) if block.kind is kind]
            store.check_integrity([block for block in of_kind if block.state is not BlockState.DIRTY])
        assert {b for b in blocks if b.state is BlockState.WRITING} == set(writing) - set(leaving), "a write is lost"
        assert self._measured_bytes() <= self._max_bytes, "the directory holds more than its budget"

    def _num_writable(self, blocks: Sequence[Block]) -> int:
        """How many of the blocks have room: by the budget, by the places of the file, by what is on the disk.

        Bytes in the directory that nobody here wrote, or that the disk did not take back, count as a full disk. While
        something is being written, part of it may be counted twice: then what is left out has to wait for that.
        """
        store = self._stores[blocks[0].kind]
        num_blocks = min(len(blocks), store.num_free, self.num_free_slots // store.num_layers)
        num_affordable = self._num_free_bytes(num_blocks * store.num_layers) // store.block_bytes
        if num_affordable < num_blocks and not self._writes:
            self._note_failed_write(errno.ENOSPC)
        return min(num_blocks, num_affordable)

    def _num_free_bytes(self, num_slots: int) -> int:
        """What the directory may still grow by, if so many slots are written."""
        promised = self._num_promised_bytes()  # first: what is written between the two measurements counts twice
        under_way = sum(write.num_new_bytes for write in self._writes)
        num_slots += self.num_writing_slots
        num_bytes = self._measured_bytes() + promised + under_way + metadata_bytes(num_slots)
        return max(0, self._max_bytes - num_bytes)

    def _measured_bytes(self) -> int:
        """Physical bytes of the directory; all of the budget where they cannot be told."""
        try:
            return self._physical_bytes()
        except OSError as error:
            logger.warning("the directory of the cold tier cannot be measured: %s", error)
            return self._max_bytes

    def _submit(self, blocks: tuple[Block, ...], run: Run) -> None:
        store = self._stores[blocks[0].kind]
        num_new_bytes = store.place(blocks, run)
        cold_indices = np.array([block.cold_index for block in blocks], np.int64)
        arena_slots = np.stack([block.slots for block in blocks], axis=1)  # [num_layers, blocks]
        checksums = np.zeros((*arena_slots.shape, 2), np.uint64)
        ticket = self._queue.submit_writes(
            store.file.fd,
            store.offsets(cold_indices).ravel(),
            self._arena,
            arena_slots.ravel(),
            self._slot_bytes,
            checksums.reshape(-1, 2),
        )
        for block in blocks:
            block.state = BlockState.WRITING
        self._writes.append(_Write(ticket, blocks, cold_indices, checksums, num_new_bytes))

    def _end(self, write: _Write, result: IOResult) -> tuple[Block, ...]:
        self._counters.count_write(result)
        self._note_over(write=write)
        self._stores[write.blocks[0].kind].keep_checksums(write.cold_indices, write.checksums)
        errors = result.errors.reshape(write.checksums.shape[:2])
        for block, of_block in zip(write.blocks, errors.T, strict=True):
            self._end_block(block, is_written=not of_block.any())
        if not result.ok:
            self._note_failed_write(int(errors[errors != 0][0]))
        return write.blocks

    def _end_block(self, block: Block, *, is_written: bool) -> None:
        """A block without owners leaves at once; one that could not be written is in RAM alone again."""
        block.state = BlockState.CLEAN
        self._counters.num_blocks_written += is_written
        if block.ref_count == 0 or not is_written:
            self._unplace(block)
            block.state = BlockState.DIRTY

    def _unplace(self, block: Block) -> None:
        self._stores[block.kind].unplace(block)
        self._generation += 1

    @property
    def _is_late(self) -> bool:
        """The disk let a deadline pass, and what was to be over then still is not."""
        return bool(self._late_reads) or self._late_write is not None

    def _wait_for(self, ticket: int) -> IOResult | None:
        """None: it takes too long."""
        seconds = HUNG_DISK_SECONDS if self._is_late else DEADLINE_SECONDS
        try:
            with self._counters.stall():
                return self._queue.wait(ticket, seconds)
        except TimeoutError:
            logger.warning("a transfer from or to the cold tier takes longer than %g s", seconds)
            return None

    def _note_over(self, *, write: _Write | None = None) -> None:
        """A disk that hung goes on when nothing late is left."""
        was_late = self._is_late
        self._late_reads = [read for read in self._late_reads if read.result is None]
        if write is not None and write.ticket == self._late_write:
            self._late_write = None
        if was_late and not self._is_late:
            self._gate.note_in_time()

    def _end_read(self, read: ColdRead, result: IOResult | None) -> None:
        read.result = result
        if result is not None:
            self._counters.count_read(result)
            self._note_over()

    def _judge(self, read: ColdRead, errors: NDArray[np.int32]) -> None:
        """Takes note of bytes that did not come, or came wrong.

        Bytes that an earlier run left may be others than it recorded, if it was killed in between. The disk is as good
        as before then.
        """
        is_wrong = errors == CHECKSUM_MISMATCH
        self._counters.num_checksum_failures += int(is_wrong.sum())
        self._counters.num_read_errors += int((errors != 0).sum() - is_wrong.sum())
        store = self._stores[read.kind]
        is_doubtful = (errors != 0) & ~(is_wrong & store.is_from_earlier(read.cold_indices))
        if not is_doubtful.any():
            logger.info("blocks of an earlier run are not what was recorded; they are computed again")
            return
        store.retire(read.cold_indices[is_doubtful].tolist())
        first = int(errors[is_doubtful][0])
        if first != TIMED_OUT:  # which the gate knows already
            self._gate.note(first)
        logger.error("blocks could not be read from the cold tier (error %d); they are computed again", first)

    def _note_failed_write(self, error: int) -> None:
        self._counters.num_write_errors += 1
        self._gate.note(error)
        logger.warning("the cold tier could not be written (error %d), it is %s", error, self._gate.state.value)
