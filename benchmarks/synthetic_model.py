"""Llama models of real shapes with random weights, for benchmarks: speed and memory are those of trained ones.

    python -m benchmarks.synthetic_model 1b bfloat16

Written once into `benchmarks/models/` and kept: a Hugging Face directory with sharded safetensors, tokenizer and chat
template. Memory stays small whatever the shape. The same numpy writes the same bytes. The text such a model generates
means nothing; and as its attention is nearly uniform, it proves speed, not correctness.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import string
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

MODELS = Path(__file__).with_name("models")
SHARD_BYTES = 2**30
CHUNK_VALUES = 2**22  # random numbers in memory at once
STANDARD_DEVIATION = 0.02
SPECIAL_TOKENS = BOS, EOS = "<|bos|>", "<|eos|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The hyperparameters of a Llama model, under the names of config.json."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool
    rope_theta: float
    max_position_embeddings: int


SHAPES = {
    "tiny": Shape(2, 256, 8, 4, 32, 512, 512, True, 10_000.0, 8192),
    "135m": Shape(30, 576, 9, 3, 64, 1536, 49152, True, 100_000.0, 131072),
    "1b": Shape(16, 2048, 32, 8, 64, 8192, 128256, True, 500_000.0, 131072),
    "7b": Shape(32, 4096, 32, 8, 128, 14336, 32000, False, 1_000_000.0, 32768),
}


@dataclass(frozen=True, slots=True)
class ElementType:
    """How a checkpoint stores numbers."""

    name: str  # as config.json says it
    code: str  # as safetensors says it
    num_bytes: int

    def encode(self, values: npt.NDArray[np.float32]) -> bytes:
        """The values as stored; bf16 rounds to nearest, ties to even."""
        if self.code == "F32":
            return values.tobytes()
        bits = values.view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype(np.uint16).tobytes()


ELEMENT_TYPES = {kind.name: kind for kind in (ElementType("float32", "F32", 4), ElementType("bfloat16", "BF16", 2))}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the checkpoint; `seed` numbers it."""

    name: str
    shape: tuple[int, ...]
    seed: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def values(self) -> Iterator[npt.NDArray[np.float32]]:
        """All values, chunk by chunk: ones for a norm, otherwise normally distributed."""
        random = np.random.default_rng(self.seed)
        for start in range(0, self.size, CHUNK_VALUES):
            count = min(CHUNK_VALUES, self.size - start)
            if len(self.shape) == 1:
                yield np.ones(count, np.float32)
            else:
                yield random.standard_normal(count, dtype=np.float32) * np.float32(STANDARD_DEVIATION)


def tensors_of(shape: Shape) -> list[Tensor]:
    """All tensors of a model, in the order of the files."""
    hidden = shape.hidden_size
    named: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (shape.vocab_size, hidden))]
    for layer in range(shape.num_hidden_layers):
        named += [(f"model.layers.{layer}.{name}.weight", dims) for name, dims in layer_shapes(shape).items()]
    named.append(("model.norm.weight", (hidden,)))
    if not shape.tie_word_embeddings:
        named.append(("lm_head.weight", (shape.vocab_size, hidden)))
    return [Tensor(name, dims, seed) for seed, (name, dims) in enumerate(named)]


def layer_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    hidden, inner = shape.hidden_size, shape.intermediate_size
    query, key = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    return {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def shards_of(tensors: list[Tensor], kind: ElementType) -> dict[str, list[Tensor]]:
    """File names of the safetensors files and what each one holds."""
    shards: list[list[Tensor]] = [[]]
    for tensor in tensors:
        filled = sum(other.size for other in shards[-1])
        if shards[-1] and (filled + tensor.size) * kind.num_bytes > SHARD_BYTES:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        return {"model.safetensors": tensors}
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards, 1)}


def write_safetensors(path: Path, tensors: list[Tensor], kind: ElementType) -> None:
    """The format: length of the header (8 bytes), header in JSON, padded to 8 bytes, then the values."""
    header: dict[str, Any] = {}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.size * kind.num_bytes
        header[tensor.name] = {"dtype": kind.code, "shape": tensor.shape, "data_offsets": [begin, end]}
    encoded = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for tensor in tensors:
            for values in tensor.values():
                file.write(kind.encode(values))


def write_weights(directory: Path, shape: Shape, kind: ElementType) -> None:
    """One safetensors file, or several with their index."""
    tensors = tensors_of(shape)
    shards = shards_of(tensors, kind)
    for name, shard in shards.items():
        write_safetensors(directory / name, shard, kind)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(tensor.size for tensor in tensors) * kind.num_bytes},
            "weight_map": {tensor.name: name for name, shard in shards.items() for tensor in shard},
        }
        write_json(directory / "model.safetensors.index.json", index)


def tokenizer(vocab_size: int) -> Tokenizer:
    """Byte-level BPE of any size: bytes, then pieces of two and of four letters, then the special tokens."""
    letters = string.ascii_lowercase
    twos = list(itertools.product(["Ġ", *letters], letters))  # Ġ stands for the space
    fours = itertools.product(["".join(pair) for pair in twos], ["".join(pair) for pair in twos if "Ġ" not in pair])
    byte_tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    num_merges = vocab_size - len(byte_tokens) - len(SPECIAL_TOKENS)
    merges = list(itertools.islice(itertools.chain(twos, fours), num_merges))
    tokens = [*byte_tokens, *(left + right for left, right in merges)]
    result = Tokenizer(models.BPE({token: token_id for token_id, token in enumerate(tokens)}, merges))
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = decoders.ByteLevel()
    result.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    result.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, result.token_to_id(BOS))]
    )
    return result


def write_settings(directory: Path, shape: Shape, kind: ElementType) -> None:
    """Everything but the weights."""
    text = tokenizer(shape.vocab_size)
    text.save(str(directory / "tokenizer.json"))
    ids = {"bos_token_id": text.token_to_id(BOS), "eos_token_id": text.token_to_id(EOS)}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "torch_dtype": kind.name,
    }
    write_json(directory / "generation_config.json", ids)
    words = {"bos_token": BOS, "eos_token": EOS, "chat_template": CHAT_TEMPLATE}
    write_json(directory / "tokenizer_config.json", words | {"tokenizer_class": "PreTrainedTokenizerFast"})
    write_json(directory / "config.json", config | asdict(shape) | ids)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def synthetic_model(shape_name: str, dtype: str, models_directory: Path = MODELS) -> Path:
    """The directory of the model, written if it is not there yet. `dtype` is float32 or bfloat16.

    config.json comes last: a directory that has it is complete.
    """
    directory = models_directory / f"{shape_name}-{dtype}"
    shape, kind = SHAPES[shape_name], ELEMENT_TYPES[dtype]
    if not (directory / "config.json").exists():
        print(f"writing {directory}", flush=True)
        directory.mkdir(parents=True, exist_ok=True)
        write_weights(directory, shape, kind)
        write_settings(directory, shape, kind)
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a Llama model of a real shape with random weights.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("dtype", choices=ELEMENT_TYPES)
    options = parser.parse_args()
    print(synthetic_model(options.shape, options.dtype))


if __name__ == "__main__":
    main()
