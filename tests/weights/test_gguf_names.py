"""Names of tensors, both ways, against the tables of the `gguf` package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from tests.gguf_families import CASES, GgufCase
from tests.gguf_models import ARCHITECTURES, EXPERT, name_in_file
from transom.weights.gguf_names import ANY_EXPERT, NAMINGS, WHOLE_WEIGHT, file_order, hugging_face_order


@pytest.mark.parametrize("case", CASES, ids=str)
def test_names_are_those_of_the_gguf_package_both_ways(case: GgufCase) -> None:
    """Of every tensor that transformers saves of a family's model."""
    architecture = ARCHITECTURES[case.model_type]
    theirs = gguf.get_tensor_name_map(architecture, 32)
    naming = NAMINGS[gguf.MODEL_ARCH_NAMES[architecture]]
    for name in case.tensors:
        expert = EXPERT.fullmatch(name)
        own_name = name_in_file(theirs, name if expert is None else f"{expert[1]}.{expert[3]}")
        back = name if expert is None else f"{expert[1]}.{ANY_EXPERT}.{expert[3]}"
        if naming.has_whole_norms and name.endswith("norm.weight"):
            back = back.removesuffix("weight") + WHOLE_WEIGHT
            assert naming.in_file(back) == own_name
        assert naming.hugging_face(own_name) == back
        assert naming.in_file(name) == own_name


def test_an_expert_of_older_files_has_its_number() -> None:
    name = "model.layers.3.block_sparse_moe.experts.7.w2.weight"
    assert NAMINGS["llama"].hugging_face("blk.3.ffn_down.7.weight") == name
    assert NAMINGS["qwen3"].hugging_face("blk.3.ffn_down.7.weight") is None
    assert NAMINGS["llama"].hugging_face("blk.3.attn_q.7.weight") is None
    assert NAMINGS["llama"].hugging_face("output.7.weight") is None


@pytest.mark.parametrize(
    "name", ["rope_freqs.weight", "blk.0.ffn_gate_shexp.weight", "blk.x.attn_q.weight", "output", ""]
)
def test_other_names_have_no_meaning(name: str) -> None:
    assert NAMINGS["llama"].hugging_face(name) is None
    assert NAMINGS["llama"].in_file(name) is None


def test_the_order_of_a_file_alternates_the_halves_of_a_head() -> None:
    assert file_order(12, 2).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


@pytest.mark.parametrize(("num_rows", "num_heads"), [(2, 1), (8, 2), (96, 3), (128, 1), (4096, 32)])
def test_the_two_orders_undo_each_other(num_rows: int, num_heads: int) -> None:
    rows = np.arange(num_rows)
    assert (rows[file_order(num_rows, num_heads)][hugging_face_order(num_rows, num_heads)] == rows).all()


def test_the_rows_of_these_families_are_interleaved() -> None:
    assert {name for name, each in NAMINGS.items() if each.has_interleaved_heads} == {"llama", "granite", "smollm3"}


def test_only_queries_and_keys_are_interleaved() -> None:
    llama, qwen2 = NAMINGS["llama"], NAMINGS["qwen2"]
    query, key, value = (f"model.layers.0.self_attn.{kind}_proj.weight" for kind in "qkv")
    assert [llama.interleaved_heads(name) for name in (query, key, value)] == ["query", "key", None]
    assert [qwen2.interleaved_heads(name) for name in (query, key, value)] == [None] * 3
