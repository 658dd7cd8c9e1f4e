"""A GGUF file of random quantised weights, of any types."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.kernels.quantized_rows import BLOCKS, rows_of
from tests.weights.gguf_files import write_gguf


def write_random_gguf(path: Path, types: Sequence[str]) -> Path:
    """A Llama of 2 layers, hidden size 256 and random weights, whose matrices take the quantised `types` in turn."""
    rng = np.random.default_rng(0)
    tensors: dict[str, NDArray[Any]] = {}
    kinds: dict[str, gguf.GGMLQuantizationType] = {}
    in_turn = itertools.cycle(types)
    for name, shape in _SHAPES.items():
        values = rng.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:
            tensors[name] = 1 + 0.05 * values
            continue
        kind = kinds[name] = gguf.GGMLQuantizationType[next(in_turn)]
        tensors[name] = 0.1 * values if kind.name == "F32" else random_rows(kind.name.lower(), shape, seed=len(kinds))
    return write_gguf(path, _KEYS, tensors, quantized=kinds)


def random_rows(dtype: str, shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """Blocks of random codes, with scales that make weights of about a tenth."""
    block_size, _, _ = BLOCKS[dtype]
    halves = np.array([0.01, -0.008, 0.006] if block_size == 32 else [2e-4, -1.5e-4, 1e-4], np.float16)
    num_rows, in_features = shape
    return rows_of(seed, dtype, num_rows, in_features, halves)


_KEYS: dict[str, Any] = {
    "llama.block_count": 2,
    "llama.context_length": 8192,
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 512,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}
_SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (300, 256),
    "output_norm.weight": (256,),
    "output.weight": (300, 256),
    **{
        f"blk.{layer}.{name}.weight": shape
        for layer in range(2)
        for name, shape in {
            "attn_norm": (256,),
            "attn_q": (256, 256),
            "attn_k": (128, 256),
            "attn_v": (128, 256),
            "attn_output": (256, 256),
            "ffn_norm": (256,),
            "ffn_gate": (512, 256),
            "ffn_up": (512, 256),
            "ffn_down": (256, 512),
        }.items()
    },
}
