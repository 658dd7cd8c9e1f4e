"""How far are logits of quantised files from those of the same weights in f32? Transom and llama.cpp, the same text.

    python -m benchmarks.logit_quality [--models tiny:Q4_K_M 135m:Q8_0 | FILE.gguf ...] [--text FILE] [--tokens 256]
        [--environment DIR]

The reference is Transom on the dequantised file (`benchmarks.dequantised_gguf`) with f32 KV; llama.cpp on that file is
shown as well, so that the reference itself is checked. Synthetic models have `--qk-gain` 4: attention of random weights
is nearly uniform otherwise. KL is the mean over positions of KL(reference || engine) in nats; *top* is the share of
positions with the same most likely token.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.dequantised_gguf import dequantised
from benchmarks.llama_cpp_environment import default_environment, peer_python
from benchmarks.side_process import ROOT, SideProcess
from benchmarks.synthetic_gguf import synthetic_gguf

QK_GAIN = 4.0


@dataclass(frozen=True, slots=True)
class Distance:
    """Of two sets of logits over the same text."""

    mean_kl: float  # nats
    max_difference: float  # of log probabilities' logits, each row centred
    same_top: float  # share of positions

    @classmethod
    def between(cls, reference: NDArray[np.float32], other: NDArray[np.float32]) -> Distance:
        """[T, V] each."""
        expected, actual = log_softmax(reference), log_softmax(other)
        kl = np.sum(np.exp(expected) * (expected - actual), axis=1)
        centred = [each.astype(np.float64) - each.mean(axis=1, keepdims=True) for each in (reference, other)]
        same = reference.argmax(axis=1) == other.argmax(axis=1)
        return cls(float(kl.mean()), float(np.abs(centred[0] - centred[1]).max()), float(same.mean()))


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Row by row."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


class Engines:
    """Both engines, one file and one process at a time."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self._python = peer_python(options.environment or default_environment("native"), "native")
        self._threads = str(options.threads)
        self._directory = directory

    def transom(self, path: Path, tokens: list[int], kv_dtype: str = "f16") -> NDArray[np.float32]:
        side = SideProcess(
            Path(sys.executable),
            "transom_side",
            *(str(path), "--threads", self._threads, "--kv-tokens", str(len(tokens) + 64), "--kv-dtype", kv_dtype),
        )
        return self._logits(side, tokens)

    def llama_cpp(self, path: Path, tokens: list[int]) -> NDArray[np.float32]:
        return self._logits(SideProcess(self._python, "llama_cpp_side", str(path), "--threads", self._threads), tokens)

    def _logits(self, side: SideProcess, tokens: list[int]) -> NDArray[np.float32]:
        path = self._directory / "logits.npy"
        side.save_logits(tokens, path)
        side.stop()
        logits: NDArray[np.float32] = np.load(path)
        return logits


def token_ids(text: Path, vocab_size: int, count: int) -> list[int]:
    """The text's bytes as tokens: any tokenizer's ids would do, and synthetic vocabularies begin with the bytes."""
    data = text.read_bytes()[:count]
    return [byte % vocab_size for byte in data]


def compare(path: Path, engines: Engines, options: argparse.Namespace) -> None:
    tokens = token_ids(options.text, 256, options.tokens)
    plain = dequantised(path)
    reference = engines.transom(plain, tokens, kv_dtype="f32")
    print(f"\n{path.name}, {len(tokens)} tokens; deviation of the reference's logits {reference.std():.3f}")
    print(f"{'':34}{'mean KL':>12}{'max difference':>16}{'same top':>10}")
    sides = {
        "transom": engines.transom(path, tokens),
        "llama.cpp": engines.llama_cpp(path, tokens),
        "llama.cpp on the f32 file": engines.llama_cpp(plain, tokens),
    }
    for name, logits in sides.items():
        distance = Distance.between(reference, logits)
        numbers = f"{distance.mean_kl:12.2e}{distance.max_difference:16.4f}{distance.same_top:10.1%}"
        print(f"{name:34}{numbers}", flush=True)


def model_file(name: str) -> Path:
    """`SHAPE:TYPE` is a synthetic model with larger query and key matrices; anything else a file."""
    shape, _, file_type = name.partition(":")
    return synthetic_gguf(shape, file_type, QK_GAIN) if file_type else Path(name).resolve()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes = ("tiny", "135m", "1b")
    names = [f"{shape}:{file_type}" for shape in shapes for file_type in ("Q4_K_M", "Q8_0", "F16")]
    parser.add_argument("--models", nargs="+", default=names)
    parser.add_argument("--text", type=Path, default=ROOT / "README.md")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--environment", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    print(f"python -m benchmarks.logit_quality {' '.join(sys.argv[1:])}")
    with tempfile.TemporaryDirectory() as directory:
        engines = Engines(options, Path(directory))
        for name in options.models:
            compare(model_file(name), engines, options)


if __name__ == "__main__":
    main()
