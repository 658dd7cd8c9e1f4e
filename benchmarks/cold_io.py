"""How fast do cold slots come back from the disk, and go there? Beside fio with O_DIRECT, the disk's own limit.

    python -m benchmarks.cold_io [--directory .] [--mib 512] [--threads 4] [--slots 32 64 128 256] [--rounds 5]

Ours: slots in file order through `IOQueue`, into an arena in the order of a worn pool (shuffled), checksums verified,
tickets of 4 MiB with eight under way: what the staging ring does. fio: synchronous direct reads, the best of several
block sizes and numbers of jobs. Both take turns in one run, and of each the best counts. Needs fio for its half.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernels_matmul import processor
from transom import kernels
from transom.cache.cold_file import ColdFile, ColdLayout
from transom.cache.file_system import RealFileSystem

TICKET_BYTES = 4 << 20
NUM_TICKETS = 8
FIO_BLOCKS = ("256k", "1m")
FIO_JOBS = (1, 2, 4)


@dataclass
class Contender:
    """A cold file as large as fio's, and a ring of slots to move it through."""

    slot_bytes: int
    num_bytes: int
    directory: Path
    queue: kernels.IOQueue

    def __post_init__(self) -> None:
        layout = ColdLayout(f"{self.slot_bytes}", 1, self.num_bytes // self.slot_bytes, self.slot_bytes)
        file_system = RealFileSystem()
        open_file = file_system.open_cold_file(self.directory / layout.file_name, layout.num_bytes)
        self.file = ColdFile(layout, open_file, file_system)
        self.per_ticket = TICKET_BYTES // self.slot_bytes
        num_slots = self.per_ticket * NUM_TICKETS
        self.arena = kernels.allocate_arena(num_slots * self.slot_bytes)
        self.arena[:] = np.random.default_rng(0).integers(0, 256, self.arena.nbytes, dtype=np.uint8)
        self.slots = np.random.default_rng(0).permutation(num_slots).astype(np.int32)
        self.checksums = np.zeros((layout.capacity, 2), np.uint64)

    def write(self) -> float:
        return self._pass(self.queue.submit_writes)

    def read(self) -> float:
        return self._pass(self.queue.submit_reads)

    def _pass(self, submit: Callable[..., int]) -> float:
        """Bytes per second of one pass over the file."""
        begin = time.perf_counter()
        tickets: deque[int] = deque()
        for number, first in enumerate(range(0, self.file.capacity, self.per_ticket)):
            if len(tickets) == NUM_TICKETS:
                self._wait(tickets)
            tickets.append(self._submit(submit, first, number % NUM_TICKETS * self.per_ticket))
        while tickets:
            self._wait(tickets)
        return self.num_bytes / (time.perf_counter() - begin)

    def _submit(self, submit: Callable[..., int], first: int, first_slot: int) -> int:
        indices: NDArray[np.int64] = np.arange(first, min(first + self.per_ticket, self.file.capacity))
        slots = self.slots[first_slot : first_slot + len(indices)]
        checksums = self.checksums[first : first + len(indices)]
        return submit(self.file.fd, self.file.offsets(0, indices), self.arena, slots, self.slot_bytes, checksums)

    def _wait(self, tickets: deque[int]) -> None:
        if not self.queue.wait(tickets.popleft()).ok:
            raise OSError("the disk failed")


def fio(path: Path, num_bytes: int, mode: str, block: str, jobs: int) -> float:
    """Bytes per second of one pass over the file, shared out to so many jobs."""
    share = num_bytes // jobs
    options = {
        "name": mode, "filename": path, "rw": mode, "bs": block, "direct": 1, "ioengine": "psync", "thread": 1,
        "numjobs": jobs, "size": share, "offset_increment": share, "group_reporting": 1, "output-format": "json",
    }  # fmt: skip
    command = ["fio", *(f"--{key}={value}" for key, value in options.items())]
    output = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return float(output["jobs"][0][mode]["bw_bytes"])


def fio_contenders(directory: Path, num_bytes: int) -> dict[str, Callable[[str], float]]:
    if shutil.which("fio") is None:
        return {}
    path = directory / "fio"

    def contender(block: str, jobs: int) -> Callable[[str], float]:
        return lambda mode: fio(path, num_bytes, mode, block, jobs)

    return {f"fio {block} x {jobs}": contender(block, jobs) for block, jobs in itertools.product(FIO_BLOCKS, FIO_JOBS)}


def best_rates(options: argparse.Namespace, directory: Path, mode: str) -> dict[str, float]:
    """Of every contender the best of several passes, taking turns."""
    num_bytes = options.mib << 20
    with closing(kernels.IOQueue(options.threads)) as queue:
        ours = {kib: Contender(kib << 10, num_bytes, directory, queue) for kib in options.slots}
        for contender in ours.values():
            contender.write()
        runs = {f"slots of {kib} KiB": getattr(contender, mode) for kib, contender in ours.items()}
        peers = fio_contenders(directory, num_bytes)
        for peer in peers.values():
            peer("write")
        best = dict.fromkeys((*runs, *peers), 0.0)
        for _ in range(options.rounds):
            for name, run in runs.items():
                best[name] = max(best[name], run())
            for name, peer in peers.items():
                best[name] = max(best[name], peer(mode))
        for contender in ours.values():
            contender.file.close()
    return best


def lines(options: argparse.Namespace, directory: Path) -> Iterator[str]:
    yield f"{processor()}, {os.cpu_count()} CPUs, Linux {platform.release()}: {' '.join(sys.argv)}"
    yield f"checksum: {checksum_rate() / 1e9:.1f} GB/s on one thread, slot in the cache"
    for mode in ("read", "write"):
        rates = best_rates(options, directory, mode)
        limit = max((rate for name, rate in rates.items() if name.startswith("fio")), default=0.0)
        for name, rate in rates.items():
            share = f" = {rate / limit:4.0%} of fio's best" if limit else ""
            yield f"{mode:>5} {name:<18} {rate / 1e9:6.2f} GB/s{share}"


def checksum_rate() -> float:
    slot = kernels.allocate_arena(256 << 10)
    slot[:] = 1
    best = float("inf")
    for _ in range(50):
        begin = time.perf_counter()
        kernels.checksum(slot)
        best = min(best, time.perf_counter() - begin)
    return slot.nbytes / best


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--directory", type=Path, default=Path())
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--slots", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        for line in lines(options, Path(directory)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
