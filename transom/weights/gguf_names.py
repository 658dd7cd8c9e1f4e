"""Tensor names of GGUF files and those of Hugging Face checkpoints, by which models ask: one table for both ways.

Owns, too, in what else the files differ from those checkpoints: where ggml rotates neighbouring channels (`llama` and
its kin), the rows of each head of query and key are interleaved in the file, first half and second half in turn; the
experts of a layer are one tensor; Gemma's norm weights are whole, where Hugging Face stores what they exceed 1 by, and
so have a name of their own. Source: gguf's `tensor_mapping` and llama.cpp's conversion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["ANY_EXPERT", "NAMINGS", "WHOLE_WEIGHT", "GgufNaming", "file_order", "hugging_face_order"]

ANY_EXPERT: Final = "*"
"""In a name of Hugging Face's: where the number of an expert stands, of a tensor that holds all of them."""
WHOLE_WEIGHT: Final = "whole_weight"
"""In place of `weight`: of a norm whose weight is 1 + what Hugging Face stores under that name."""

_IN_FILE = re.compile(
    r"(?:blk\.(?P<layer>\d{1,6})\.)?(?P<module>\w+(?:\.[a-z]\w*)*)(?:\.(?P<expert>\d{1,5}))?\.(?P<kind>weight|bias)"
)
_IN_MODEL = re.compile(
    r"(?:model\.layers\.(?P<layer>\d{1,6})\.)?(?P<module>[\w.*]+)\.(?P<kind>weight|bias|" + WHOLE_WEIGHT + ")"
)
_EXPERT = re.compile(r"\.experts\.(\d{1,5})\.")

_Names = Mapping[str, str]

_GLOBAL: _Names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LLAMA: _Names = {
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
_MIXTRAL: _Names = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": f"block_sparse_moe.experts.{ANY_EXPERT}.w1",
    "ffn_down_exps": f"block_sparse_moe.experts.{ANY_EXPERT}.w2",
    "ffn_up_exps": f"block_sparse_moe.experts.{ANY_EXPERT}.w3",
}
_HEADS_NORMS: _Names = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_QWEN3_MOE: _Names = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": f"mlp.experts.{ANY_EXPERT}.gate_proj",
    "ffn_up_exps": f"mlp.experts.{ANY_EXPERT}.up_proj",
    "ffn_down_exps": f"mlp.experts.{ANY_EXPERT}.down_proj",
}
_GEMMA: _Names = {
    **_LLAMA,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_OLMO2: _Names = {
    **{name: module for name, module in _LLAMA.items() if not name.endswith("_norm")},
    **_HEADS_NORMS,
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_PHI3: _Names = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}
_LFM2: _Names = {
    "attn_norm": "operator_norm",
    "shortconv.conv": "conv.conv",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
}
# Files from before a layer's experts were one tensor name each expert's own by a number.
_OF_ONE_EXPERT = {"ffn_gate": "ffn_gate_exps", "ffn_up": "ffn_up_exps", "ffn_down": "ffn_down_exps"}


@dataclass(frozen=True, slots=True)
class GgufNaming:
    """One architecture's names."""

    of_a_layer: _Names = field(default_factory=lambda: _LLAMA)
    """Module in the file -> module of Hugging Face's, both within a layer."""
    of_the_ends: _Names = field(default_factory=lambda: _GLOBAL)
    """The same outside of layers."""
    has_interleaved_heads: bool = False
    """Rows of query and key are interleaved in the file."""
    has_whole_norms: bool = False
    """Norm weights are 1 + what Hugging Face stores."""

    def hugging_face(self, name: str) -> str | None:
        """`blk.0.attn_q.weight` -> `model.layers.0.self_attn.q_proj.weight`; None for a name the table lacks.

        A tensor that holds all experts of a layer has ANY_EXPERT for their number.
        """
        match = _IN_FILE.fullmatch(name)
        if match is None:
            return None
        own = match["module"]
        module = self._module(match["layer"], own, match["expert"])
        if module is None:
            return None
        kind = WHOLE_WEIGHT if self.has_whole_norms and own.endswith("_norm") else match["kind"]
        return f"{module}.{kind}" if match["layer"] is None else f"model.layers.{match['layer']}.{module}.{kind}"

    def in_file(self, name: str) -> str | None:
        """The other way round; of an expert's tensor the one that holds all experts."""
        match = _IN_MODEL.fullmatch(name)
        if match is None:
            return None
        names = self.of_the_ends if match["layer"] is None else self.of_a_layer
        module = _EXPERT.sub(f".experts.{ANY_EXPERT}.", match["module"])
        own = next((each for each, theirs in names.items() if theirs == module), None)
        if own is None:
            return None
        kind = "weight" if match["kind"] == WHOLE_WEIGHT else match["kind"]
        return f"{own}.{kind}" if match["layer"] is None else f"blk.{match['layer']}.{own}.{kind}"

    def interleaved_heads(self, name: str) -> str | None:
        """Which heads' rows a tensor (Hugging Face's name) has interleaved in the file: query, key, or None."""
        if not self.has_interleaved_heads:
            return None
        if name.endswith((".q_proj.weight", ".q_proj.bias")):
            return "query"
        return "key" if name.endswith((".k_proj.weight", ".k_proj.bias")) else None

    def is_depthwise(self, name: str) -> bool:
        """Whether a tensor (Hugging Face's name) is a convolution [channels, 1, taps], [channels, taps] in the file."""
        return name.endswith(".conv.conv.weight")

    def _module(self, layer: str | None, own: str, expert: str | None) -> str | None:
        if layer is None:
            return None if expert else self.of_the_ends.get(own)
        if expert is None:
            return self.of_a_layer.get(own)
        module = self.of_a_layer.get(_OF_ONE_EXPERT.get(own, ""))
        return module and module.replace(ANY_EXPERT, expert)


NAMINGS: Final = {
    "llama": GgufNaming({**_LLAMA, **_MIXTRAL}, has_interleaved_heads=True),
    "qwen2": GgufNaming(),
    "qwen3": GgufNaming({**_LLAMA, **_HEADS_NORMS}),
    "qwen3moe": GgufNaming({**_LLAMA, **_HEADS_NORMS, **_QWEN3_MOE}),
    "hunyuan-dense": GgufNaming(
        {**_LLAMA, "attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"}
    ),
    "lfm2": GgufNaming(
        _LFM2, {"token_embd": "model.embed_tokens", "token_embd_norm": "model.embedding_norm", "output": "lm_head"}
    ),
    "gemma2": GgufNaming(_GEMMA, has_whole_norms=True),
    "gemma3": GgufNaming({**_GEMMA, **_HEADS_NORMS}, has_whole_norms=True),
    "phi3": GgufNaming(_PHI3),
    "smollm3": GgufNaming(has_interleaved_heads=True),
    "granite": GgufNaming(has_interleaved_heads=True),
    "olmo2": GgufNaming(_OLMO2),
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
