"""How fast are matrix products: decode beside the memory's bandwidth, prefill beside the BLAS of NumPy and torch?

    python -m benchmarks.kernels_matmul [--threads 2] [--isa avx2] [--out 8192] [--in 2048] [--rows 1 2 8 512]

Decode (few rows) runs over several matrices in turn, so that weights come from memory and not from a cache; the limit
is `measure_read_bandwidth`, which reads fresh huge-page memory with the same threads. Peers take turns with our product
(A B A B), and of each the best time counts. torch takes part where it is installed. To hold the peers to AVX2 as well,
set ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from transom import kernels

Dtype = Literal["f32", "f16", "bf16"]
Contender = tuple[str, Callable[[], object]]
DECODE_BYTES = 1 << 30  # of weights, well beyond most caches
FEW_ROWS = 16


def stored(weight: NDArray[np.float32], dtype: Dtype) -> NDArray[Any]:
    if dtype == "bf16":
        return (weight.view(np.uint32) >> 16).astype(np.uint16)
    return weight.astype(np.float16 if dtype == "f16" else np.float32)


def packed(weight: NDArray[Any], dtype: Dtype) -> kernels.PackedMatrix:
    out_features, in_features = weight.shape
    matrix = kernels.PackedMatrix(out_features, in_features, dtype)
    matrix.fill(0, weight)
    return matrix


def torch_contender(x: NDArray[np.float32], weight: NDArray[np.float32], dtype: Dtype, threads: int) -> list[Contender]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    torch.set_num_threads(threads)
    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    rows, matrix = torch.from_numpy(x).to(kind), torch.from_numpy(weight).to(kind)
    return [("torch", lambda: torch.nn.functional.linear(rows, matrix))]


def numpy_contender(x: NDArray[np.float32], weight: NDArray[np.float32], dtype: Dtype) -> list[Contender]:
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


def decode_line(options: argparse.Namespace, dtype: Dtype, num_rows: int) -> str:
    """Time per matrix when matrices stream from memory; no peer, but the bandwidth of the same minute."""
    weight = stored(np.ones((options.out_features, options.in_features), np.float32), dtype)
    matrices = [packed(weight, dtype) for _ in range(max(2, DECODE_BYTES // weight.nbytes))]
    x = np.ones((num_rows, options.in_features), np.float32)
    best = best_seconds([("ours", lambda: [kernels.matmul(x, matrix) for matrix in matrices])])["ours"]
    limit = max(kernels.measure_read_bandwidth(DECODE_BYTES) for _ in range(5))
    rate = sum(matrix.nbytes for matrix in matrices) / best
    return f"{rate / 1e9:6.1f} GB/s = {rate / limit:4.0%} of {limit / 1e9:.1f} GB/s"


def prefill_line(options: argparse.Namespace, dtype: Dtype, num_rows: int) -> str:
    random = np.random.default_rng(0)
    weight = random.standard_normal((options.out_features, options.in_features), np.float32)
    x = random.standard_normal((num_rows, options.in_features), np.float32)
    matrix = packed(stored(weight, dtype), dtype)
    contenders: list[Contender] = [("ours", lambda: kernels.matmul(x, matrix))]
    contenders += numpy_contender(x, weight, dtype) + torch_contender(x, weight, dtype, options.threads)
    operations = 2 * num_rows * options.out_features * options.in_features
    best = best_seconds(contenders)
    return "  ".join(f"{name} {operations / seconds / 1e9:6.1f} GFLOP/s" for name, seconds in best.items())


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
    for dtype in get_args(Dtype):
        for num_rows in options.rows:
            line = decode_line if num_rows <= FEW_ROWS else prefill_line
            yield f"{dtype:>5} M = {num_rows:<4} {line(options, dtype, num_rows)}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", choices=("portable", "avx2", "avx512"), default=kernels.best_isa())
    parser.add_argument("--out", dest="out_features", type=int, default=8192)
    parser.add_argument("--in", dest="in_features", type=int, default=2048)
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
