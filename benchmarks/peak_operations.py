"""The arithmetic that this processor's cores can do at most: the limit beside figures of prompts.

Compiles `peak_operations.cpp` with g++ into `build/` and runs it.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".cpp")
BUILD = Path(__file__).resolve().parents[1] / "build"
FLAGS = {"native": ["-march=native"], "avx2": ["-mavx2", "-mfma"]}


@dataclass(frozen=True, slots=True)
class PeakOperations:
    """Operations per second of all threads together."""

    floats: float  # f32 FMA
    bytes: float  # dot products of 8-bit integers, by the best instruction there is


def measure_peak_operations(threads: int, isa: str) -> PeakOperations:
    """Half a second of arithmetic in registers alone. Raises CalledProcessError when g++ does not compile it."""
    program = BUILD / f"peak_operations_{isa}"
    if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
        BUILD.mkdir(exist_ok=True)
        flags = ["-O3", "-std=c++20", "-pthread", *FLAGS[isa]]
        subprocess.run(["g++", *flags, str(SOURCE), "-o", str(program)], check=True)
    output = subprocess.run([str(program), str(threads)], check=True, capture_output=True, text=True).stdout
    return PeakOperations(*map(float, output.split()))
