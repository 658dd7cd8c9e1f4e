"""What the machine allows: bytes that a decode step must read, and operations that a prompt takes, of a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf

KV_ELEMENT_BYTES = 2  # f16 on both sides
EMBEDDING, HEAD = "token_embd.weight", "output.weight"


@dataclass(frozen=True, slots=True)
class GgufLimits:
    """Sizes of one model; see the methods for what counts."""

    weight_bytes: int  # of all matrices that a token is multiplied with
    layer_weights: int  # numbers in those of the layers
    head_weights: int  # numbers in the output head
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int

    @classmethod
    def of(cls, path: Path) -> GgufLimits:
        """Read from the file's header."""
        reader = gguf.GGUFReader(path)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        head = HEAD if HEAD in tensors else EMBEDDING
        used = [tensor for name, tensor in tensors.items() if name == head or name not in (EMBEDDING, HEAD)]
        in_layers = [tensor for tensor in used if tensor.name != head and len(tensor.shape) > 1]

        def number(key: str) -> int:
            return int(reader.fields[f"llama.{key}"].contents())

        return cls(
            weight_bytes=sum(int(tensor.n_bytes) for tensor in used),
            layer_weights=sum(int(tensor.n_elements) for tensor in in_layers),
            head_weights=int(tensors[head].n_elements),
            num_layers=number("block_count"),
            num_heads=number("attention.head_count"),
            num_key_value_heads=number("attention.head_count_kv"),
            head_dim=number("attention.key_length"),
        )

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * self.num_layers * self.num_key_value_heads * self.head_dim * KV_ELEMENT_BYTES

    def decode_bytes(self, context: int, num_sequences: int = 1) -> int:
        """All weights once and the KV of every sequence once."""
        return self.weight_bytes + num_sequences * context * self.kv_bytes_per_token

    def prefill_operations(self, context: int, num_tokens: int) -> int:
        """Multiplications and additions of the matrix products and of causal attention; the head serves one token."""
        matrices = 2 * (num_tokens * self.layer_weights + self.head_weights)
        scored_pairs = num_tokens * context + num_tokens * (num_tokens + 1) // 2
        return matrices + 4 * self.num_layers * self.num_heads * self.head_dim * scored_pairs
