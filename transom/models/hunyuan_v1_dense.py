"""HunYuan dense v1 (Tencent, 2025; HY-MT among them): Llama with norms of the heads after their rotation."""

from __future__ import annotations

from transom.models.qwen3 import Qwen3Builder


class HunYuanV1DenseBuilder(Qwen3Builder):
    """Heads are normalised as in Qwen3, but after they are rotated."""

    head_norms = ("query_layernorm", "key_layernorm")
    norms_after_rotation = True
