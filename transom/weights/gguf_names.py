"""Tensor names of GGUF files and those of Hugging Face checkpoints, by which models ask: one table for both ways.

Owns, too, which tensors lie in another order of rows: where ggml rotates neighbouring channels (`llama`), the rows of
each head of query and key are interleaved in the file, first half and second half in turn. Source: gguf's
`tensor_mapping` and llama.cpp's conversion of Llama models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["NAMINGS", "GgufNaming", "file_order", "hugging_face_order"]

_GLOBAL: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_OF_A_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORMED_HEADS: Final = {**_OF_A_LAYER, "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_IN_FILE = re.compile(r"(?:blk\.(?P<layer>\d{1,6})\.)?(?P<module>\w+)\.(?P<kind>weight|bias)")
_IN_MODEL = re.compile(r"(?:model\.layers\.(?P<layer>\d{1,6})\.)?(?P<module>[\w.]+)\.(?P<kind>weight|bias)")


@dataclass(frozen=True, slots=True)
class GgufNaming:
    """One architecture's names."""

    of_a_layer: Mapping[str, str] = field(default_factory=lambda: _OF_A_LAYER)
    """Module names within a layer, the file's to Hugging Face's."""
    has_interleaved_heads: bool = False
    """Rows of query and key are interleaved in the file."""

    def hugging_face(self, name: str) -> str | None:
        """`blk.0.attn_q.weight` -> `model.layers.0.self_attn.q_proj.weight`; None for a name the table lacks."""
        match = _IN_FILE.fullmatch(name)
        if match is None:
            return None
        if match["layer"] is None:
            module = _GLOBAL.get(match["module"])
            return module and f"{module}.{match['kind']}"
        module = self.of_a_layer.get(match["module"])
        return module and f"model.layers.{match['layer']}.{module}.{match['kind']}"

    def in_file(self, name: str) -> str | None:
        """The other way round."""
        match = _IN_MODEL.fullmatch(name)
        if match is None:
            return None
        if match["layer"] is None:
            module = _inverse(_GLOBAL).get(match["module"])
            return module and f"{module}.{match['kind']}"
        module = _inverse(self.of_a_layer).get(match["module"])
        return module and f"blk.{match['layer']}.{module}.{match['kind']}"

    def interleaved_heads(self, name: str) -> str | None:
        """Which heads' rows a tensor (Hugging Face's name) has interleaved in the file: query, key, or None."""
        if not self.has_interleaved_heads:
            return None
        if name.endswith((".q_proj.weight", ".q_proj.bias")):
            return "query"
        return "key" if name.endswith((".k_proj.weight", ".k_proj.bias")) else None


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    return {value: key for key, value in names.items()}


NAMINGS: Final = {
    "llama": GgufNaming(has_interleaved_heads=True),
    "qwen2": GgufNaming(),
    "qwen3": GgufNaming(_NORMED_HEADS),
}
"""By `general.architecture`."""


def hugging_face_order(num_rows: int, num_heads: int) -> NDArray[np.int64]:
    """For each row of the Hugging Face tensor, the row of the file that is the same; [num_rows].

    `num_rows` must be a multiple of `2 * num_heads`.
    """
    order = np.arange(num_rows).reshape(num_heads, num_rows // num_heads // 2, 2)
    return np.ascontiguousarray(order.swapaxes(1, 2)).reshape(num_rows)


def file_order(num_rows: int, num_heads: int) -> NDArray[np.int64]:
    """The other way round: for each row of the file, the row of the Hugging Face tensor."""
    order = np.arange(num_rows).reshape(num_heads, 2, num_rows // num_heads // 2)
    return np.ascontiguousarray(order.swapaxes(1, 2)).reshape(num_rows)
