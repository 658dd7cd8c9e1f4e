"""Llama models of real shapes as GGUF files with random weights, for benchmarks and comparisons of logits.

    python -m benchmarks.synthetic_gguf 1b Q4_K_M [--qk-gain 4] [--models benchmarks/models]

Shapes, tokenizer and chat template are those of `benchmarks.synthetic_model`. Blocks of quantised types are drawn
directly, codes and scales each from a uniform distribution, so that weights have mean 0 and a standard deviation of
about 0.02: no quantiser runs, a file takes about as long as writing it, and memory stays small whatever the shape.
Speed and memory traffic are those of trained models. Attention is nearly uniform, unless query and key matrices are
drawn larger (`--qk-gain 4`): where logits are compared, they should be.

Needs the `gguf` package, which writes the header. Block layouts: ggml-common.h of llama.cpp.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as GgmlType
from gguf import LlamaFileType

from benchmarks.synthetic_model import (
    BOS,
    CHAT_TEMPLATE,
    EOS,
    MODELS,
    SHAPES,
    STANDARD_DEVIATION,
    Shape,
    tokenizer,
)

Blocks = npt.NDArray[np.uint8]  # [number of blocks, bytes of one]
Draw = Callable[[np.random.Generator, int, float], Blocks]

CHUNK_BLOCKS = 2**15  # at once in memory
ALIGNMENT = 32
RMS_NORM_EPS = 1e-5
FILE_TYPES = {
    "F16": LlamaFileType.MOSTLY_F16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q4_K_M": LlamaFileType.MOSTLY_Q4_K_M,
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the file; `seed` numbers it, `layer` is None outside the layers."""

    name: str
    shape: tuple[int, ...]
    seed: int
    layer: int | None = None

    @property
    def is_norm(self) -> bool:
        return len(self.shape) == 1

    @property
    def shapes_attention(self) -> bool:
        """Whether scores are made from it."""
        return self.name.endswith(("attn_q.weight", "attn_k.weight"))


def tensors_of(shape: Shape) -> list[Tensor]:
    """All tensors of a model, in the order of the file."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    query, key = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    in_layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,),
        "attn_q": (query, hidden),
        "attn_k": (key, hidden),
        "attn_v": (key, hidden),
        "attn_output": (hidden, query),
        "ffn_norm": (hidden,),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    named: list[tuple[str, tuple[int, ...], int | None]] = [("token_embd", (shape.vocab_size, hidden), None)]
    for layer in range(shape.num_hidden_layers):
        named += [(f"blk.{layer}.{name}", dims, layer) for name, dims in in_layer.items()]
    named.append(("output_norm", (hidden,), None))
    if not shape.tie_word_embeddings:
        named.append(("output", (shape.vocab_size, hidden), None))
    return [Tensor(f"{name}.weight", dims, seed, layer) for seed, (name, dims, layer) in enumerate(named)]


def type_of(tensor: Tensor, shape: Shape, file_type: str) -> GgmlType:
    """The type that llama.cpp gives to a tensor in a file of this type."""
    if tensor.is_norm:
        return GgmlType.F32
    if file_type == "Q4_K_M":
        return _type_in_q4_k_m(tensor, shape)
    return GgmlType[file_type]


def _type_in_q4_k_m(tensor: Tensor, shape: Shape) -> GgmlType:
    """Q4_K, and Q6_K where errors cost most: the output head, and of attn_v and ffn_down the outer layers (an eighth at
    each end) and every third one between. Rows that are no multiple of 256 get Q5_0 and Q8_0 instead."""
    is_precise = tensor.name == ("token_embd.weight" if shape.tie_word_embeddings else "output.weight")
    if tensor.layer is not None and tensor.name.endswith(("attn_v.weight", "ffn_down.weight")):
        count, eighth = shape.num_hidden_layers, shape.num_hidden_layers // 8
        is_outer = not eighth <= tensor.layer < 7 * count // 8
        is_precise = is_outer or (tensor.layer - eighth) % 3 == 2
    if tensor.shape[-1] % gguf.QK_K:
        return GgmlType.Q8_0 if is_precise else GgmlType.Q5_0
    return GgmlType.Q6_K if is_precise else GgmlType.Q4_K


def draw_f32(_: np.random.Generator, count: int, __: float) -> Blocks:
    """Ones: only norms have this type."""
    return np.ones((count, 1), np.float32).view(np.uint8)


def draw_f16(random: np.random.Generator, count: int, deviation: float) -> Blocks:
    """Normally distributed values."""
    values = random.standard_normal((count, 1), dtype=np.float32) * np.float32(deviation)
    return values.astype(np.float16).view(np.uint8)


def draw_q8_0(random: np.random.Generator, count: int, deviation: float) -> Blocks:
    """value = scale * code, code of 8 bits."""
    codes = random.integers(-127, 127, (count, 32), np.int8, endpoint=True)
    return np.hstack([_scales(random, count, deviation / 73.3), codes.view(np.uint8)])


def draw_q5_0(random: np.random.Generator, count: int, deviation: float) -> Blocks:
    """value = scale * (code - 16), code of 5 bits: 32 upper bits, then 32 lower halves."""
    return np.hstack([_scales(random, count, deviation / 9.2, signed=True), _bytes(random, count, 20)])


def draw_q4_k(random: np.random.Generator, count: int, deviation: float) -> Blocks:
    """value = scale * step * code - offset scale * offset; 8 steps and offsets of 6 bits, 256 codes of 4 bits.

    The upper bit of every step and offset is set, so that all parts of a block weigh about the same.
    """
    scales = _scales(random, count, deviation / (4.6 * 48))
    offset_scales = (scales.view(np.float16) * np.float16(7.5)).view(np.uint8)  # codes have the mean 7.5
    packed = _bytes(random, count, 12)
    packed[:, :8] |= 0b1010_0000  # steps and offsets 0..3 begin at bit 0, the upper bits of 4..7 at bit 6
    return np.hstack([scales, offset_scales, packed, _bytes(random, count, 128)])


def draw_q6_k(random: np.random.Generator, count: int, deviation: float) -> Blocks:
    """value = scale * step * (code - 32); 256 codes of 6 bits, 16 steps of 8 bits."""
    steps = random.integers(32, 96, (count, 16), np.int8) * random.choice(np.array([-1, 1], np.int8), (count, 16))
    scales = _scales(random, count, deviation / (18.5 * 64))
    return np.hstack([_bytes(random, count, 192), steps.view(np.uint8), scales])


DRAWS: dict[GgmlType, Draw] = {
    GgmlType.F32: draw_f32,
    GgmlType.F16: draw_f16,
    GgmlType.Q8_0: draw_q8_0,
    GgmlType.Q5_0: draw_q5_0,
    GgmlType.Q4_K: draw_q4_k,
    GgmlType.Q6_K: draw_q6_k,
}


def _bytes(random: np.random.Generator, count: int, size: int) -> Blocks:
    return np.frombuffer(bytearray(random.bytes(count * size)), np.uint8).reshape(count, size)


def _scales(random: np.random.Generator, count: int, scale: float, *, signed: bool = False) -> Blocks:
    """One f16 per block, a quarter more or less than `scale`; of either sign where codes are not symmetric."""
    factors = random.uniform(0.75, 1.25, (count, 1))
    if signed:
        factors *= random.choice([-1.0, 1.0], (count, 1))
    return (factors * scale).astype(np.float16).view(np.uint8)


def data_of(tensor: Tensor, kind: GgmlType, deviation: float) -> Iterator[Blocks]:
    """The tensor's bytes, chunk by chunk."""
    random = np.random.default_rng(tensor.seed)
    values_per_block, _ = gguf.GGML_QUANT_SIZES[kind]
    num_blocks = int(np.prod(tensor.shape)) // values_per_block
    for start in range(0, num_blocks, CHUNK_BLOCKS):
        yield DRAWS[kind](random, min(CHUNK_BLOCKS, num_blocks - start), deviation)


def write_gguf(path: Path, shape: Shape, file_type: str, qk_gain: float) -> None:
    """Header by the gguf package, then the tensors."""
    tensors = [(tensor, type_of(tensor, shape, file_type)) for tensor in tensors_of(shape)]
    write_header(path, shape, file_type, tensors)
    with path.open("ab") as file:
        pad(file)
        for tensor, kind in tensors:
            gain = qk_gain if tensor.shapes_attention else 1.0
            for chunk in data_of(tensor, kind, STANDARD_DEVIATION * gain):
                file.write(chunk.tobytes())
            pad(file)


def pad(file: Any) -> None:
    """Tensors begin at multiples of the alignment."""
    file.write(b"\0" * (-file.tell() % ALIGNMENT))


def write_header(path: Path, shape: Shape, file_type: str, tensors: list[tuple[Tensor, GgmlType]]) -> None:
    """Everything before the tensors' data."""
    writer = gguf.GGUFWriter(path, "llama")
    add_architecture(writer, shape)
    add_tokenizer(writer, shape.vocab_size)
    writer.add_file_type(FILE_TYPES[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for tensor, kind in tensors:
        values_per_block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        row_bytes = tensor.shape[-1] // values_per_block * block_bytes
        dims = [*tensor.shape[:-1], row_bytes]  # for this dtype the writer takes the last dimension in bytes
        writer.add_tensor_info(tensor.name, dims, np.dtype(np.uint8), int(np.prod(dims)), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def add_architecture(writer: gguf.GGUFWriter, shape: Shape) -> None:
    """The hyperparameters."""
    writer.add_name("synthetic")
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(RMS_NORM_EPS)
    writer.add_vocab_size(shape.vocab_size)


def add_tokenizer(writer: gguf.GGUFWriter, vocab_size: int) -> None:
    """The same byte-level BPE as in `benchmarks.synthetic_model`."""
    text = tokenizer(vocab_size)
    vocabulary = text.get_vocab()
    special_ids = [vocabulary[BOS], vocabulary[EOS]]
    kinds = [gguf.TokenType.NORMAL] * vocab_size
    for special_id in special_ids:
        kinds[special_id] = gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in json.loads(text.to_str())["model"]["merges"]])
    writer.add_bos_token_id(special_ids[0])
    writer.add_eos_token_id(special_ids[1])
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)


def synthetic_gguf(shape_name: str, file_type: str, qk_gain: float = 1.0, models_directory: Path = MODELS) -> Path:
    """The model's file, written if it is not there yet; a file that has its name is complete."""
    gain = "" if qk_gain == 1.0 else f"-qk{qk_gain:g}"
    path = models_directory / f"{shape_name}{gain}-{file_type}.gguf"
    if not path.exists():
        print(f"writing {path}", flush=True)
        models_directory.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        write_gguf(unfinished, SHAPES[shape_name], file_type, qk_gain)
        unfinished.rename(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a GGUF file of a real shape with random weights.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("file_type", choices=FILE_TYPES)
    parser.add_argument("--qk-gain", type=float, default=1.0)
    parser.add_argument("--models", type=Path, default=MODELS)
    options = parser.parse_args()
    print(synthetic_gguf(options.shape, options.file_type, options.qk_gain, options.models))


if __name__ == "__main__":
    main()
