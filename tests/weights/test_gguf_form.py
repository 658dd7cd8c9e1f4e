"""A Hugging Face checkpoint in the form of a GGUF file, against the file that the `gguf` package's tables lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gguf_families import CASES, GgufCase, write_directory, write_file
from tests.weights.memory_source import MemorySource
from transom.config.gguf_metadata import ARCHITECTURES
from transom.config.model_config import ModelConfig
from transom.errors import WeightsError
from transom.weights.gguf import open_gguf
from transom.weights.gguf_form import GgufForm
from transom.weights.gguf_names import NAMINGS
from transom.weights.safetensors import open_checkpoint

MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tensors_are_those_of_a_converted_file(tmp_path: Path, case: GgufCase) -> None:
    directory = write_directory(case, tmp_path / "hf")
    config, file = ModelConfig.from_hf(directory), open_gguf(write_file(case, directory, tmp_path / "m.gguf"))
    naming = NAMINGS[ARCHITECTURES[case.model_type]]
    num_heads = {"query": config.num_attention_heads, "key": config.num_key_value_heads}
    form = GgufForm(open_checkpoint(directory), naming, num_heads, is_tied=config.tie_word_embeddings)
    in_file = {naming.in_file(name): name for name in form.names()}
    assert in_file.keys() == {name for name in file.names() if not name.startswith("rope_factors_")}
    for own_name, name in in_file.items():
        assert own_name is not None
        expected = file.tensor(own_name)
        assert form.info(name).shape == expected.shape
        np.testing.assert_array_equal(form.tensor(name), expected, err_msg=name)
        np.testing.assert_array_equal(form.rows(name, 1, 3), expected[1:3], err_msg=name)
        form.release(name)


def form_of(names: list[str], types: list[str], *, is_tied: bool = False) -> GgufForm:
    values: dict[str, NDArray[Any]] = {"F32": MATRIX, "F16": MATRIX.astype(np.float16)}
    source = MemorySource({name: (kind, values[kind]) for name, kind in zip(names, types, strict=True)})
    return GgufForm(source, NAMINGS["qwen3moe"], {"query": 1, "key": 1}, is_tied=is_tied)


def test_layers_are_in_the_order_of_their_numbers() -> None:
    names = ["lm_head.weight", "model.layers.10.x.weight", "model.embed_tokens.weight", "model.layers.9.x.weight"]
    assert form_of(names, ["F32"] * 4).names() == (names[2], names[3], names[1], names[0])


def test_a_tied_embedding_may_lie_under_the_heads_name() -> None:
    form = form_of(["lm_head.weight"], ["F32"], is_tied=True)
    assert form.names() == ("model.embed_tokens.weight",)
    np.testing.assert_array_equal(form.tensor("model.embed_tokens.weight"), MATRIX)


def test_experts_of_different_types_are_refused() -> None:
    names = [f"model.layers.0.mlp.experts.{expert}.up_proj.weight" for expert in range(2)]
    form = form_of(names, ["F32", "F16"])
    with pytest.raises(WeightsError, match=r"experts\.1\.up_proj\.weight' is of another type than the other experts'"):
        form.tensor("model.layers.0.mlp.experts.*.up_proj.weight")
