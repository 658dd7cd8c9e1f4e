"""Native threads between files and an arena: right bytes, an answer for every item, no thread or byte left behind."""

from __future__ import annotations

import errno
import gc
import os
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from transom import kernels
from transom.kernels import CHECKSUM_MISMATCH, SHORT_TRANSFER, IOFault, IOQueue, IOResult

PAGE = 4096
NEVER = 10**9
FaultKind = Literal["EIO", "ENOSPC", "EDQUOT", "EFBIG", "EINTR", "short", "corrupt"]


@dataclass
class Store:
    """Slots of one size in one file, and an arena of as many."""

    path: Path
    slot_bytes: int
    num_slots: int
    direct: bool = True
    checksums: NDArray[np.uint64] = field(init=False)
    arena: NDArray[np.uint8] = field(init=False)
    fd: int = field(init=False)

    def __post_init__(self) -> None:
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | (os.O_DIRECT if self.direct else 0), 0o600)
        os.ftruncate(self.fd, self.num_slots * self.stride)
        self.checksums = np.zeros((self.num_slots, 2), np.uint64)
        self.arena = kernels.allocate_arena(self.num_slots * self.slot_bytes)
        self.fill()

    @property
    def stride(self) -> int:
        return -(-self.slot_bytes // PAGE) * PAGE

    @property
    def slots(self) -> NDArray[np.uint8]:
        return self.arena.reshape(self.num_slots, self.slot_bytes)

    def fill(self, seed: int = 0) -> None:
        self.arena[:] = np.random.default_rng(seed).integers(0, 256, self.arena.nbytes, dtype=np.uint8)

    def places(self, places: NDArray[np.int64] | None) -> NDArray[np.int64]:
        return np.arange(self.num_slots) if places is None else places

    def submit_writes(self, queue: IOQueue, places: NDArray[np.int64] | None = None) -> int:
        """Slot i of the arena goes to places[i] of the file."""
        offsets = self.places(places) * self.stride
        slots = np.arange(len(offsets), dtype=np.int32)
        return queue.submit_writes(self.fd, offsets, self.arena, slots, self.slot_bytes, self.checksums[: len(offsets)])

    def submit_reads(self, queue: IOQueue, places: NDArray[np.int64] | None = None) -> int:
        offsets = self.places(places) * self.stride
        slots = np.arange(len(offsets), dtype=np.int32)
        return queue.submit_reads(self.fd, offsets, self.arena, slots, self.slot_bytes, self.checksums[: len(offsets)])

    def write(self, queue: IOQueue, places: NDArray[np.int64] | None = None) -> IOResult:
        return queue.wait(self.submit_writes(queue, places), 30)

    def read(self, queue: IOQueue, places: NDArray[np.int64] | None = None) -> IOResult:
        return queue.wait(self.submit_reads(queue, places), 30)


@contextmanager
def store_of(
    directory: Path,
    slot_bytes: int,
    num_slots: int,
    fault: IOFault | None = None,
    *,
    direct: bool = True,
    threads: int = 2,
) -> Iterator[tuple[Store, IOQueue]]:
    store = Store(directory / "slots", slot_bytes, num_slots, direct)
    try:
        with closing(IOQueue(threads, fault)) as queue:
            yield store, queue
    finally:
        os.close(store.fd)
        store.path.unlink()


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("slot_bytes", [100, PAGE, 5000, 2 * PAGE, 65536, 3 << 20])
def test_what_is_written_comes_back(tmp_path: Path, slot_bytes: int, direct: bool) -> None:
    with store_of(tmp_path, slot_bytes, 9, direct=direct) as (store, queue):
        places = np.random.default_rng(1).permutation(9)
        written = store.arena.copy()
        result = store.write(queue, places)
        assert result.ok and result.num_bytes == written.nbytes and result.seconds > 0
        assert [tuple(each) for each in store.checksums.tolist()] == [kernels.checksum(each) for each in store.slots]
        store.arena[:] = 0
        result = store.read(queue, places)
        assert result.ok and result.errors.tolist() == [0] * 9 and result.num_bytes == written.nbytes
        assert np.array_equal(store.arena, written)


def test_an_arena_at_an_odd_address_works_too(tmp_path: Path) -> None:
    with store_of(tmp_path, PAGE, 5) as (store, queue):
        store.arena = kernels.allocate_arena(6 * PAGE)[8 : 8 + 5 * PAGE]
        store.fill()
        written = store.arena.copy()
        assert store.write(queue).ok
        store.arena[:] = 0
        assert store.read(queue).ok
        assert np.array_equal(store.arena, written)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_only_the_named_slots_change(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    num_slots = 24
    with store_of(tmp_path_factory.mktemp("slots"), PAGE, num_slots) as (store, queue):
        old_file = store.arena.copy().reshape(num_slots, PAGE)
        assert store.write(queue).ok
        places = np.array(data.draw(st.lists(st.integers(0, num_slots - 1), unique=True, max_size=num_slots)), np.int64)
        store.fill(1)
        new = store.slots.copy()
        assert store.write(queue, places).ok
        expected = old_file
        expected[places] = new[: len(places)]
        assert store.path.read_bytes() == expected.tobytes()
        store.fill(2)
        expected_arena = store.slots.copy()
        expected_arena[: len(places)] = new[: len(places)]
        assert store.read(queue, places).ok
        assert np.array_equal(store.slots, expected_arena)


def test_neighbours_in_the_file_share_a_system_call(tmp_path: Path) -> None:
    fault = IOFault(NEVER, "EIO")
    with store_of(tmp_path, 32768, 64, fault) as (store, queue):
        places = np.random.default_rng(0).permutation(64)
        assert store.write(queue, places).ok
        assert fault.num_calls == 2
        assert store.read(queue, places).ok
        assert fault.num_calls == 4


def test_slots_with_gaps_between_them_have_calls_of_their_own(tmp_path: Path) -> None:
    fault = IOFault(NEVER, "EIO")
    with store_of(tmp_path, 32768, 64, fault) as (store, queue):
        assert store.write(queue, np.arange(0, 64, 2)).ok
        assert fault.num_calls == 32


def test_nothing_to_do_is_done_at_once(tmp_path: Path) -> None:
    with store_of(tmp_path, PAGE, 1) as (store, queue):
        result = store.read(queue, np.zeros(0, np.int64))
        assert result.ok and result.num_bytes == 0 and result.seconds == 0 and len(result.errors) == 0


def test_a_wrong_checksum_condemns_its_item_alone(tmp_path: Path) -> None:
    with store_of(tmp_path, PAGE, 8) as (store, queue):
        store.write(queue)
        store.checksums[3, 1] ^= np.uint64(1)
        result = store.read(queue)
        assert not result.ok and result.num_bytes == 7 * PAGE
        assert result.errors.tolist() == [0, 0, 0, CHECKSUM_MISMATCH, 0, 0, 0, 0]


@pytest.mark.parametrize("direct", [True, False])
def test_4096_flipped_bits_in_the_file_are_all_detected(tmp_path: Path, direct: bool) -> None:
    num_slots, slot_bytes = 64, 2 * PAGE
    with store_of(tmp_path, slot_bytes, num_slots, direct=direct) as (store, queue):
        store.write(queue)
        random = np.random.default_rng(4096)
        whole = np.frombuffer(store.path.read_bytes(), np.uint8).reshape(num_slots, slot_bytes)
        for _ in range(4096 // num_slots):
            damaged = whole.copy()
            bits = random.integers(0, 8 * slot_bytes, num_slots)
            damaged[np.arange(num_slots), bits // 8] ^= (1 << bits % 8).astype(np.uint8)
            store.path.write_bytes(damaged.tobytes())
            assert (store.read(queue).errors == CHECKSUM_MISMATCH).all()
        store.path.write_bytes(whole.tobytes())
        assert store.read(queue).ok


def test_every_truncation_of_a_slot_is_detected(tmp_path: Path) -> None:
    with store_of(tmp_path, PAGE, 1, direct=False) as (store, queue):
        store.arena |= 1
        store.write(queue)
        for size in range(PAGE - 1, -1, -1):
            os.ftruncate(store.fd, size)
            assert store.read(queue).errors[0] == SHORT_TRANSFER
            os.ftruncate(store.fd, PAGE)
            assert store.read(queue).errors[0] == CHECKSUM_MISMATCH


@pytest.mark.parametrize("direct", [True, False])
def test_a_file_that_ends_too_early_condemns_only_what_is_missing(tmp_path: Path, direct: bool) -> None:
    with store_of(tmp_path, 2 * PAGE, 4, direct=direct) as (store, queue):
        store.write(queue)
        os.ftruncate(store.fd, 5 * PAGE)
        assert store.read(queue).errors.tolist() == [0, 0, SHORT_TRANSFER, SHORT_TRANSFER]


def test_two_slots_that_changed_places_are_detected(tmp_path: Path) -> None:
    with store_of(tmp_path, PAGE, 3) as (store, queue):
        store.write(queue)
        swapped = np.frombuffer(store.path.read_bytes(), np.uint8).reshape(3, PAGE)[[1, 0, 2]]
        store.path.write_bytes(swapped.tobytes())
        assert store.read(queue).errors.tolist() == [CHECKSUM_MISMATCH, CHECKSUM_MISMATCH, 0]


# ---- faults


def faults_until_silent(kind: FaultKind, persistent: bool = False) -> Iterator[tuple[int, IOFault]]:
    """Faults at call 1, 2, ... until one has nothing left to strike."""
    for nth in range(1, 100):
        fault = IOFault(nth, kind, persistent)
        yield nth, fault
        if fault.num_calls < nth:
            return
    raise AssertionError("the work never ends")


TWO_RUNS = np.array([0, 1, 4, 5, 6])


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("kind", ["EIO", "ENOSPC", "EDQUOT", "EFBIG"])
@pytest.mark.parametrize("persistent", [False, True])
def test_every_call_that_fails_costs_one_item(tmp_path: Path, kind: FaultKind, persistent: bool, direct: bool) -> None:
    number = getattr(errno, kind)
    for nth, fault in faults_until_silent(kind, persistent):
        with store_of(tmp_path, 2 * PAGE, 7, fault, direct=direct, threads=1) as (store, queue):
            written = store.slots.copy()
            write_errors = store.write(queue, TWO_RUNS).errors
            assert np.array_equal(store.slots, written)
            store.arena[:] = 0
            read_errors = store.read(queue, TWO_RUNS).errors
            num_struck = max(0, fault.num_calls - nth + 1) if persistent else int(fault.num_calls >= nth)
            assert np.count_nonzero(write_errors == number) + np.count_nonzero(read_errors == number) == num_struck
            for slot, (write_error, read_error) in enumerate(zip(write_errors, read_errors, strict=True)):
                assert write_error in (0, number)
                assert read_error in ((0, number) if write_error == 0 else (CHECKSUM_MISMATCH, number))
                assert read_error != 0 or np.array_equal(store.slots[slot], written[slot])


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(("kind", "persistent"), [("EINTR", False), ("short", False), ("short", True)])
def test_interrupted_and_short_calls_are_continued(
    tmp_path: Path, kind: FaultKind, persistent: bool, direct: bool
) -> None:
    for _, fault in faults_until_silent(kind, persistent):
        with store_of(tmp_path, 2 * PAGE, 7, fault, direct=direct, threads=1) as (store, queue):
            written = store.slots.copy()
            assert store.write(queue, TWO_RUNS).ok
            store.arena[:] = 0
            assert store.read(queue, TWO_RUNS).ok
            assert np.array_equal(store.slots[:5], written[:5])


def test_a_call_that_is_always_interrupted_is_given_up(tmp_path: Path) -> None:
    with store_of(tmp_path, PAGE, 3, IOFault(1, "EINTR", persistent=True)) as (store, queue):
        assert store.write(queue).errors.tolist() == [errno.EINTR] * 3


@pytest.mark.parametrize("slot_bytes", [2 * PAGE, 5000])
def test_a_bit_flipped_on_the_way_is_detected_and_ram_stays_right(tmp_path: Path, slot_bytes: int) -> None:
    for nth, fault in faults_until_silent("corrupt"):
        with store_of(tmp_path, slot_bytes, 7, fault, threads=1) as (store, queue):
            written = store.slots.copy()
            assert store.write(queue, TWO_RUNS).ok
            assert np.array_equal(store.slots, written)
            store.arena[:] = 0
            errors = store.read(queue, TWO_RUNS).errors
            assert np.count_nonzero(errors == CHECKSUM_MISMATCH) == int(fault.num_calls >= nth)
            good = np.flatnonzero(errors == 0)
            assert np.array_equal(store.slots[good], written[good])


def test_a_file_beyond_the_limit_of_the_process_is_an_error_of_the_item(tmp_path: Path) -> None:
    with store_of(tmp_path, PAGE, 4) as (store, queue):
        os.ftruncate(store.fd, 0)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * PAGE, hard))
        try:
            assert store.write(queue).errors.tolist() == [0, 0, errno.EFBIG, errno.EFBIG]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_be_written_is_an_error_of_the_item(tmp_path: Path) -> None:
    with store_of(tmp_path, PAGE, 2) as (store, queue):
        os.close(store.fd)
        store.fd = os.open(store.path, os.O_RDONLY)
        assert store.write(queue).errors.tolist() == [errno.EBADF] * 2


# ---- tickets, threads, limits


def test_a_ticket_gives_its_result_once(tmp_path: Path) -> None:
    with store_of(tmp_path, PAGE, 1) as (store, queue):
        ticket = store.submit_writes(queue)
        queue.wait(ticket)
        with pytest.raises(ValueError, match="ticket"):
            queue.wait(ticket)
        with pytest.raises(ValueError, match="ticket"):
            queue.poll(ticket)


def test_polling_gives_the_result_when_there_is_one(tmp_path: Path) -> None:
    with store_of(tmp_path, PAGE, 100) as (store, queue):
        ticket = store.submit_writes(queue)
        deadline = time.monotonic() + 30
        while (result := queue.poll(ticket)) is None:
            assert time.monotonic() < deadline
        assert result.ok


def test_reads_overtake_writes_and_a_wait_has_an_end(tmp_path: Path) -> None:
    with store_of(tmp_path, 1 << 20, 64, threads=1) as (store, queue):
        store.write(queue, np.arange(1))
        write = store.submit_writes(queue)
        with pytest.raises(TimeoutError):
            queue.wait(write, 0)
        other = kernels.allocate_arena(1 << 20)
        offset, slot = np.zeros(1, np.int64), np.zeros(1, np.int32)
        read = queue.submit_reads(store.fd, offset, other, slot, 1 << 20, store.checksums[:1])
        queue.wait(read, 30)
        assert queue.poll(write) is None
        assert queue.wait(write, 30).ok


@pytest.mark.parametrize("timeout", [-1.0, float("nan")])
def test_a_wait_for_less_than_nothing_is_refused(tmp_path: Path, timeout: float) -> None:
    with store_of(tmp_path, PAGE, 1) as (store, queue), pytest.raises(ValueError, match="timeout"):
        queue.wait(store.submit_writes(queue), timeout)


def test_many_pending_items_are_taken_in_the_end(tmp_path: Path) -> None:
    many = 40_000
    with store_of(tmp_path, PAGE, 1) as (store, queue):
        os.ftruncate(store.fd, many * PAGE)  # all holes, read into the same slot
        store.arena[:] = 0
        offsets, slots = np.arange(many) * PAGE, np.zeros(many, np.int32)
        zeros = np.array([kernels.checksum(store.arena)] * many, np.uint64)
        reads = [queue.submit_reads(store.fd, offsets, store.arena, slots, PAGE, zeros) for _ in range(3)]
        assert all(queue.wait(read, 60).ok for read in reads)


def test_a_ticket_keeps_its_arrays_alive(tmp_path: Path) -> None:
    with store_of(tmp_path, 65536, 64) as (store, queue):
        expected = store.arena.copy()
        ticket = store.submit_writes(queue)
        del store.arena
        gc.collect()
        clobber = kernels.allocate_arena(64 * 65536)
        clobber[:] = 7
        assert queue.wait(ticket, 30).ok
        assert store.path.read_bytes() == expected.tobytes()


def test_several_threads_share_a_queue(tmp_path: Path) -> None:
    def write_and_read(index: int) -> bool:
        store = Store(tmp_path / str(index), 8192, 50)
        store.fill(index)
        written = store.arena.copy()
        for _ in range(10):
            write, store.arena[:] = store.write(queue), 0
            if not (write.ok and store.read(queue).ok and np.array_equal(store.arena, written)):
                return False
        os.close(store.fd)
        return True

    with closing(IOQueue(3)) as queue, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(write_and_read, range(4)))


def test_two_threads_that_wait_for_one_ticket_get_one_result(tmp_path: Path) -> None:
    with store_of(tmp_path, 1 << 20, 16) as (store, queue), ThreadPoolExecutor(2) as pool:
        ticket = store.submit_writes(queue)
        waits = [pool.submit(queue.wait, ticket, 30) for _ in range(2)]
        failures = [wait.exception() for wait in waits]
        assert sorted(type(each).__name__ for each in failures) == ["NoneType", "ValueError"]


def test_closing_cancels_what_has_not_begun(tmp_path: Path) -> None:
    with store_of(tmp_path, 1 << 20, 64, threads=1) as (store, queue):
        ticket = store.submit_writes(queue)
        queue.close()
        queue.close()
        errors = queue.wait(ticket, 0).errors
        assert set(errors.tolist()) <= {0, errno.ECANCELED} and errors[-1] == errno.ECANCELED
        with pytest.raises(RuntimeError, match="closed"):
            store.submit_writes(queue)


def test_threads_end_with_their_queue(tmp_path: Path) -> None:
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    for _ in range(20):
        queue = IOQueue(4)
        store = Store(tmp_path / "slots", 65536, 16)
        store.submit_writes(queue)
        del queue
        os.close(store.fd)
    deadline = time.monotonic() + 5  # a joined thread stays listed for a moment
    while len(list(tasks.iterdir())) > before:
        assert time.monotonic() < deadline


def test_waiting_leaves_other_python_threads_running(tmp_path: Path) -> None:
    with store_of(tmp_path, 1 << 20, 64, threads=1) as (store, queue):
        ticket = store.submit_writes(queue)
        ticks = 0
        is_over = threading.Event()

        def wait() -> None:
            queue.wait(ticket, 30)
            is_over.set()

        thread = threading.Thread(target=wait)
        thread.start()
        while not is_over.is_set():
            ticks += 1
        thread.join()
        assert ticks > 100


def test_the_page_cache_keeps_nothing(tmp_path: Path) -> None:
    if shutil.which("fincore") is None:
        pytest.skip("fincore (util-linux) is not installed")
    for direct in (True, False):
        with store_of(tmp_path, 65536, 32, direct=direct) as (store, queue):
            assert store.write(queue).ok and store.read(queue).ok
            command = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(store.path)]
            resident = subprocess.run(command, capture_output=True, check=True, text=True).stdout
            assert int(resident or "0") == 0


# ---- what is refused


@pytest.mark.parametrize("num_threads", [0, -1, 65])
def test_an_unreasonable_number_of_threads_is_refused(num_threads: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.64"):
        IOQueue(num_threads)


@pytest.mark.parametrize(
    ("offsets", "slots", "slot_bytes", "message"),
    [
        ([1], [0], PAGE, "4096"),
        ([-PAGE], [0], PAGE, "4096"),
        ([2**63 - PAGE], [0], PAGE, "4096"),
        ([0], [4], PAGE, "arena"),
        ([0], [-1], PAGE, "arena"),
        ([0], [2], 5000, "arena"),
        ([0], [0], 5 * PAGE, "arena"),
        ([0], [0], 0, "slot_bytes"),
        ([0], [0], -1, "slot_bytes"),
        ([0, PAGE], [0], PAGE, "arena_slots"),
        ([0], [0, 1], PAGE, "arena_slots"),
        ([0, PAGE], [0, 1], PAGE, "checksums"),
    ],
)
def test_places_outside_file_or_arena_are_refused(
    tmp_path: Path, offsets: list[int], slots: list[int], slot_bytes: int, message: str
) -> None:
    with store_of(tmp_path, PAGE, 4) as (store, queue):
        places = np.array(offsets, np.int64), store.arena[: 3 * PAGE], np.array(slots, np.int32)
        for submit in (queue.submit_reads, queue.submit_writes):
            with pytest.raises(ValueError, match=message):
                submit(store.fd, *places, slot_bytes, np.zeros((1, 2), np.uint64))


def test_arrays_of_other_types_are_refused(tmp_path: Path) -> None:
    with store_of(tmp_path, PAGE, 4) as (store, queue):
        offsets, slots, sums = np.zeros(1, np.int64), np.zeros(1, np.int32), np.zeros((1, 2), np.uint64)
        for wrong in (
            (offsets.astype(np.int32), store.arena, slots, PAGE, sums),
            (offsets, store.arena.view(np.float32), slots, PAGE, sums),
            (offsets, store.arena, slots.astype(np.int64), PAGE, sums),
            (offsets, store.arena, slots, PAGE, sums.astype(np.int64)),
        ):
            with pytest.raises(TypeError):
                queue.submit_reads(store.fd, *wrong)


def test_an_arena_that_cannot_be_written_is_not_read_into(tmp_path: Path) -> None:
    with store_of(tmp_path, PAGE, 4) as (store, queue):
        store.write(queue)
        store.arena.flags.writeable = False
        assert store.write(queue).ok
        with pytest.raises(TypeError, match="writable"):
            store.read(queue)


def test_a_descriptor_that_is_not_open_is_refused(tmp_path: Path) -> None:
    with store_of(tmp_path, PAGE, 1) as (store, queue):
        fd, store.fd = store.fd, 10**6
        with pytest.raises(OSError, match="Bad file descriptor"):
            store.submit_writes(queue)
        store.fd = fd


@pytest.mark.parametrize(("nth", "kind"), [(0, "EIO"), (-1, "EIO"), (1, "ENOENT")])
def test_a_fault_that_means_nothing_is_refused(nth: int, kind: FaultKind) -> None:
    with pytest.raises(ValueError, match=r"1|known"):
        IOFault(nth, kind)


# ---- holes


def test_a_hole_gives_its_bytes_back_and_reads_as_zeros(tmp_path: Path) -> None:
    with store_of(tmp_path, 65536, 8) as (store, queue):
        store.write(queue)
        before = os.fstat(store.fd).st_blocks * 512
        kernels.punch_hole(store.fd, 65536, 3 * 65536)
        assert os.fstat(store.fd).st_blocks * 512 <= before - 3 * 65536
        assert os.fstat(store.fd).st_size == 8 * 65536
        assert store.read(queue).errors.tolist() == [0] + [CHECKSUM_MISMATCH] * 3 + [0] * 4
        assert not store.slots[1:4].any()


def test_a_hole_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with store_of(tmp_path, PAGE, 1) as (store, _):
        with pytest.raises(OSError, match="Input/output error"):
            kernels.punch_hole(store.fd, 0, PAGE, IOFault(1, "EIO"))
        with pytest.raises(InterruptedError):
            kernels.punch_hole(store.fd, 0, PAGE, IOFault(1, "EINTR", persistent=True))
        kernels.punch_hole(store.fd, 0, PAGE, IOFault(1, "EINTR"))
        with pytest.raises(OSError, match="Invalid argument"):
            kernels.punch_hole(store.fd, -1, PAGE)
