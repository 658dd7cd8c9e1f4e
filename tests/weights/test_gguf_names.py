"""Names of tensors, both ways, against the tables of the `gguf` package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from transom.weights.gguf_names import NAMINGS, file_order, hugging_face_order

MODULES = [
    "model.embed_tokens",
    "model.norm",
    "lm_head",
    *(f"model.layers.{layer}.{kind}_layernorm" for layer in (0, 31) for kind in ("input", "post_attention")),
    *(f"model.layers.{layer}.self_attn.{kind}_proj" for layer in (0, 31) for kind in "qkvo"),
    *(f"model.layers.{layer}.mlp.{kind}_proj" for layer in (0, 31) for kind in ("gate", "up", "down")),
]


@pytest.mark.parametrize("architecture", sorted(NAMINGS))
def test_names_are_those_of_the_gguf_package_both_ways(architecture: str) -> None:
    theirs = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], 32)
    for module in MODULES:
        for kind in (".weight", ".bias"):
            name = theirs.get_name(module + kind, try_suffixes=(kind,))
            assert name is not None
            assert NAMINGS[architecture].hugging_face(name) == module + kind
            assert NAMINGS[architecture].in_file(module + kind) == name


@pytest.mark.parametrize(
    "name", ["rope_freqs.weight", "blk.0.ffn_gate_inp.weight", "blk.x.attn_q.weight", "output", ""]
)
def test_other_names_have_no_meaning(name: str) -> None:
    assert NAMINGS["llama"].hugging_face(name) is None
    assert NAMINGS["llama"].in_file(name) is None


def test_queries_and_keys_of_qwen3_have_norms() -> None:
    theirs = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, 2)
    for kind in "qk":
        module = f"model.layers.1.self_attn.{kind}_norm"
        assert NAMINGS["qwen3"].in_file(f"{module}.weight") == f"{theirs.get_name(module)}.weight"
        assert NAMINGS["qwen2"].in_file(f"{module}.weight") is None


def test_the_order_of_a_file_alternates_the_halves_of_a_head() -> None:
    assert file_order(12, 2).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


@pytest.mark.parametrize(("num_rows", "num_heads"), [(2, 1), (8, 2), (96, 3), (128, 1), (4096, 32)])
def test_the_two_orders_undo_each_other(num_rows: int, num_heads: int) -> None:
    rows = np.arange(num_rows)
    assert (rows[file_order(num_rows, num_heads)][hugging_face_order(num_rows, num_heads)] == rows).all()


def test_only_queries_and_keys_of_llama_are_interleaved() -> None:
    llama, qwen2 = NAMINGS["llama"], NAMINGS["qwen2"]
    query, key, value = (f"model.layers.0.self_attn.{kind}_proj.weight" for kind in "qkv")
    assert [llama.interleaved_heads(name) for name in (query, key, value)] == ["query", "key", None]
    assert [qwen2.interleaved_heads(name) for name in (query, key, value)] == [None] * 3
