"""How fast are matrix products: decode beside the memory's bandwidth, prefill beside the BLAS of NumPy and torch?

    python -m benchmarks.kernels_matmul [--threads 2] [--isa avx2] [--out 8192] [--in 2048] [--rows 1 2 8 512]
                                        [--dtypes f16 q4_k q6_k q8_0] [--calls]

Decode (few rows) runs over several matrices in turn, so that weights come from memory and not from a cache; the limits
are `measure_read_bandwidth`, which reads fresh huge-page memory with the same threads, and the arithmetic of 512 rows
in the same run: a call with few rows can take no less than the longer of both. Peers take turns with our product
(A B A B), and of each the best time counts. torch takes part where it is installed. To hold the peers to AVX2 as well,
set ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell.

With --calls: what a call costs when there is next to nothing to compute.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from transom import kernels

FloatDtype = Literal["f32", "f16", "bf16"]
Dtype = (
    FloatDtype
    | Literal["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"]
)
FLOAT_DTYPES: tuple[FloatDtype, ...] = get_args(FloatDtype)
DTYPES: tuple[Dtype, ...] = (*FLOAT_DTYPES, *get_args(get_args(Dtype)[1]))
Contender = tuple[str, Callable[[], object]]
DECODE_BYTES = 1 << 30  # of weights, well beyond most caches
FEW_ROWS = 32
PREFILL_ROWS = 512
CALLS = 1000


def blocks(out_features: int, in_features: int, dtype: Dtype) -> NDArray[np.uint8]:
    """Quantised rows of random codes. Bytes below 64, so that every half float among them is finite."""
    num_bytes = kernels.row_bytes(dtype, in_features)
    return np.random.default_rng(0).integers(0, 64, (out_features, num_bytes), np.uint8)


def stored(weight: NDArray[np.float32], dtype: FloatDtype) -> NDArray[Any]:
    if dtype == "bf16":
        return (weight.view(np.uint32) >> 16).astype(np.uint16)
    return weight.astype(np.float16 if dtype == "f16" else np.float32)


def packed(out_features: int, in_features: int, dtype: Dtype, weight: NDArray[Any]) -> kernels.PackedMatrix:
    matrix = kernels.PackedMatrix(out_features, in_features, dtype)
    matrix.fill(0, weight)
    return matrix


def torch_contender(
    x: NDArray[np.float32], weight: NDArray[np.float32], dtype: FloatDtype, threads: int
) -> list[Contender]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    torch.set_num_threads(threads)
    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    rows, matrix = torch.from_numpy(x).to(kind), torch.from_numpy(weight).to(kind)
    return [("torch", lambda: torch.nn.functional.linear(rows, matrix))]


def numpy_contender(x: NDArray[np.float32], weight: NDArray[np.float32], dtype: FloatDtype) -> list[Contender]:
    return [("numpy", lambda: x @ weight.T)] if dtype == "f32" else []


def best_seconds(contenders: list[Contender], seconds: float = 1.5) -> dict[str, float]:
    """The best time of each, taking turns for about so long, three rounds at least."""
    best = {name: float("inf") for name, _ in contenders}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        for name, run in contenders:
            begin = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - begin)
        rounds += 1
    return best


def operations_per_second(options: argparse.Namespace, dtype: Dtype, num_rows: int) -> dict[str, float]:
    """Of a product whose time is arithmetic, ours and the peers'."""
    random = np.random.default_rng(0)
    out_features, in_features = options.out_features, options.in_features
    x = random.standard_normal((num_rows, in_features), np.float32)
    contenders: list[Contender] = []
    if dtype in FLOAT_DTYPES:
        weight = random.standard_normal((out_features, in_features), np.float32)
        matrix = packed(out_features, in_features, dtype, stored(weight, dtype))
        contenders += numpy_contender(x, weight, dtype) + torch_contender(x, weight, dtype, options.threads)
    else:
        matrix = packed(out_features, in_features, dtype, blocks(out_features, in_features, dtype))
    best = best_seconds([("ours", lambda: kernels.matmul(x, matrix)), *contenders])
    return {name: 2 * num_rows * out_features * in_features / seconds for name, seconds in best.items()}


def decode_line(options: argparse.Namespace, dtype: Dtype, num_rows: int, operations_limit: float) -> str:
    """Time per matrix when matrices stream from memory; no peer, but the limits of the same minute."""
    out_features, in_features = options.out_features, options.in_features
    num_bytes = kernels.PackedMatrix(out_features, in_features, dtype).nbytes
    if dtype in FLOAT_DTYPES:
        weight = stored(np.ones((out_features, in_features), np.float32), dtype)
    else:
        weight = blocks(out_features, in_features, dtype)
    count = max(2, DECODE_BYTES // num_bytes)
    matrices = [packed(out_features, in_features, dtype, weight) for _ in range(count)]
    x = np.ones((num_rows, in_features), np.float32)
    bandwidth = max(kernels.measure_read_bandwidth(DECODE_BYTES) for _ in range(3))
    seconds = best_seconds([("ours", lambda: [kernels.matmul(x, matrix) for matrix in matrices])])["ours"] / count
    bandwidth = max(bandwidth, *(kernels.measure_read_bandwidth(DECODE_BYTES) for _ in range(3)))
    operations = 2 * num_rows * out_features * in_features
    limit = max(num_bytes / bandwidth, operations / operations_limit)
    return (
        f"{num_bytes / seconds / 1e9:6.1f} GB/s = {num_bytes / seconds / bandwidth:4.0%} of {bandwidth / 1e9:.1f}  "
        f"{operations / seconds / 1e9:6.1f} Gop/s = {operations / seconds / operations_limit:4.0%} of "
        f"{operations_limit / 1e9:.0f}  limit / time {limit / seconds:4.0%}"
    )


def prefill_line(options: argparse.Namespace, dtype: Dtype, num_rows: int) -> str:
    speeds = operations_per_second(options, dtype, num_rows)
    return "  ".join(f"{name} {speed / 1e9:6.1f} Gop/s" for name, speed in speeds.items())


def call_repeatedly(x: NDArray[np.float32], matrix: kernels.PackedMatrix) -> None:
    for _ in range(CALLS):
        kernels.matmul(x, matrix)


def calls_line(dtype: Dtype) -> str:
    """A product that one thread does at once, and one just large enough to be shared out."""
    times = []
    for out_features in (16, 1024):
        matrix = kernels.PackedMatrix(out_features, 256, dtype)
        x = np.ones((1, 256), np.float32)
        seconds = best_seconds([("ours", partial(call_repeatedly, x, matrix))], 0.3)["ours"] / CALLS
        times.append(f"[1, 256] @ [{out_features}, 256].T {seconds * 1e6:.2f} us")
    return ", ".join(times)


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:  # noqa: PTH123
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def lines(options: argparse.Namespace) -> Iterator[str]:
    yield f"{processor()}, Python {platform.python_version()}, NumPy {np.__version__}: {' '.join(sys.argv)}"
    shape = f"x[M, {options.in_features}] @ weight[{options.out_features}, {options.in_features}].T"
    yield f"{shape}, {kernels.active_isa()}, {options.threads} threads"
    for dtype in options.dtypes:
        if options.calls:
            yield f"{dtype:>6} {calls_line(dtype)}"
            continue
        limit = operations_per_second(options, dtype, PREFILL_ROWS)["ours"]
        for num_rows in options.rows:
            few = num_rows <= FEW_ROWS
            line = decode_line(options, dtype, num_rows, limit) if few else prefill_line(options, dtype, num_rows)
            yield f"{dtype:>6} M = {num_rows:<4} {line}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", choices=("portable", "avx2", "avx512", "avx512vnni"), default=kernels.best_isa())
    parser.add_argument("--out", dest="out_features", type=int, default=8192)
    parser.add_argument("--in", dest="in_features", type=int, default=2048)
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=["f32", "f16", "bf16", "q4_k", "q6_k", "q8_0"])
    parser.add_argument("--calls", action="store_true")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 512])
    return parser.parse_args()


def main() -> None:
    options = parse()
    kernels.set_num_threads(options.threads)
    kernels.set_active_isa(options.isa)
    for line in lines(options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
