"""Recipes give each tensor its type; quantised sources give rows of that type, or name the tensor that has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.weights.memory_source import MemorySource
from transom import kernels
from transom.errors import WeightsError
from transom.weights.quantization import RECIPES, QuantizedSource, TensorTypes, converted

LAYERS = 16


def names(*, is_tied: bool) -> list[str]:
    """Of a model, with one tensor of each kind that recipes tell apart."""
    of_a_layer = ("input_layernorm", "self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
    layers = [f"model.layers.{layer}.{name}.weight" for layer in range(LAYERS) for name in of_a_layer]
    return ["model.embed_tokens.weight", *layers, *([] if is_tied else ["lm_head.weight"])]


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("recipe", RECIPES)
def test_vectors_stay_f32(recipe: str) -> None:
    types = TensorTypes.of(recipe, names(is_tied=True))
    assert types.of_tensor("model.layers.0.input_layernorm.weight", (256,)) == "F32"


@pytest.mark.parametrize("recipe", ["F32", "F16", "BF16", "Q8_0", "Q6_K"])
def test_a_plain_recipe_is_the_type_of_every_matrix(recipe: str) -> None:
    types = TensorTypes.of(recipe, names(is_tied=False))
    assert {types.of_tensor(name, (8, 256)) for name in names(is_tied=False)} == {recipe}


@pytest.mark.parametrize("recipe", ["Q4_K", "Q4_K_M"])
@pytest.mark.parametrize("is_tied", [True, False])
def test_the_output_matrix_is_more_precise(recipe: str, is_tied: bool) -> None:
    types = TensorTypes.of(recipe, names(is_tied=is_tied))
    assert types.of_tensor("model.embed_tokens.weight", (8, 256)) == ("Q6_K" if is_tied else "Q4_K")
    assert types.of_tensor("lm_head.weight", (8, 256)) == ("Q4_K" if is_tied else "Q6_K")


def test_the_usual_mix_spares_values_and_down_projections_of_some_layers() -> None:
    types = TensorTypes.of("Q4_K_M", names(is_tied=True))
    for name in ("self_attn.v_proj", "mlp.down_proj"):
        found = [types.of_tensor(f"model.layers.{layer}.{name}.weight", (8, 256)) for layer in range(LAYERS)]
        assert [layer for layer in range(LAYERS) if found[layer] == "Q6_K"] == [0, 1, 4, 7, 10, 13, 14, 15]
    assert types.of_tensor("model.layers.0.self_attn.q_proj.weight", (8, 256)) == "Q4_K"


@pytest.mark.parametrize(
    ("recipe", "columns", "expected"),
    [("Q4_K", 256, "Q4_K"), ("Q4_K", 288, "Q8_0"), ("Q4_K", 100, "F16"), ("Q6_K", 64, "Q8_0"), ("Q8_0", 48, "F16")],
)
def test_rows_that_are_no_whole_blocks_get_a_type_that_fits(recipe: str, columns: int, expected: str) -> None:
    types = TensorTypes.of(recipe, names(is_tied=True))
    name = "model.layers.0.mlp.up_proj.weight"
    assert types.of_tensor(name, (8, columns)) == expected
    assert types.gave_way(name, (8, columns)) == (expected != recipe)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(("recipe", "kind"), [("Q8_0", "q8_0"), ("Q4_K", "q4_k")])
def test_a_quantised_source_gives_the_rows_that_the_kernel_makes(dtype: str, recipe: str, kind: Any) -> None:
    name, wide = "model.layers.0.mlp.up_proj.weight", normal(2500, 256)
    forms: dict[str, NDArray[Any]] = {"F32": wide, "F16": wide.astype(np.float16), "BF16": bfloat16(wide)}
    exact = {
        "F32": wide,
        "F16": wide.astype(np.float16).astype(np.float32),
        "BF16": (bfloat16(wide).astype(np.uint32) << 16).view(np.float32),
    }[dtype]
    source = QuantizedSource(MemorySource({name: (dtype, forms[dtype])}), recipe)
    expected = kernels.quantize(kind, exact)
    np.testing.assert_array_equal(source.rows(name, 100, 2000), expected[100:2000])
    np.testing.assert_array_equal(source.tensor(name), expected)
    assert source.info(name).dtype == recipe
    assert source.info(name).nbytes == source.nbytes == expected.nbytes


def test_a_quantised_source_keeps_vectors_as_f32_and_tells_what_gave_way() -> None:
    norm, odd = normal(100), normal(4, 100)
    source = QuantizedSource(
        MemorySource({"model.norm.weight": ("F16", norm.astype(np.float16)), "odd.weight": ("F32", odd)}), "Q4_K"
    )
    assert source.info("model.norm.weight").dtype == "F32"
    np.testing.assert_array_equal(source.tensor("model.norm.weight"), norm.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(source.rows("odd.weight", 1, 3), odd[1:3].astype(np.float16))
    assert source.fallbacks == {"odd.weight": "F16"}
    assert source.nbytes == 400 + 800


@pytest.mark.parametrize("wanted", ["F16", "BF16", "Q8_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_tensor_that_holds_no_number_is_named(wanted: str, bad: float) -> None:
    values = normal(1500, 256)
    values[1234, 5] = bad
    source = MemorySource({"broken.weight": ("F32", values)})
    with pytest.raises(WeightsError, match=r"tensor 'broken\.weight': row 1234 holds NaN, infinity or a number too"):
        list(converted(source, "broken.weight", wanted))


@pytest.mark.parametrize(("wanted", "large"), [("F16", 65520.0), ("Q8_0", 300000.0), ("Q4_K", 300000.0)])
def test_a_tensor_whose_numbers_are_too_large_is_named(wanted: str, large: float) -> None:
    values = normal(3, 256)
    values[2, 0] = large
    with pytest.raises(WeightsError, match=f"row 2 holds NaN, infinity or a number too large for {wanted}"):
        list(converted(MemorySource({"large.weight": ("F32", values)}), "large.weight", wanted))


def test_bfloat16_is_rounded_to_the_nearest_and_halves_to_even() -> None:
    bits = np.array([[0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0xBF807FFF]], np.uint32)
    source = MemorySource({"x.weight": ("F32", bits.view(np.float32))})
    [rounded] = converted(source, "x.weight", "BF16")
    assert rounded.tolist() == [[0x3F80, 0x3F80, 0x3F82, 0x3F81, 0xBF80]]


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q6_k"])
def test_what_is_quantised_may_become_another_type(kind: Any) -> None:
    blocks = kernels.quantize(kind, normal(1100, 256))
    exact = kernels.dequantize(kind, blocks)
    source = MemorySource({"x.weight": (kind.upper(), blocks)})
    np.testing.assert_array_equal(np.concatenate(list(converted(source, "x.weight", "F32"))), exact)
    expected = kernels.quantize("q4_k", exact)
    np.testing.assert_array_equal(np.concatenate(list(converted(source, "x.weight", "Q4_K"))), expected)


def test_a_type_without_arithmetic_is_named() -> None:
    source = MemorySource({"x.weight": ("IQ3_S", np.zeros((2, 110), np.uint8))})
    with pytest.raises(WeightsError, match=r"tensor 'x\.weight' is of type IQ3_S, which is not converted"):
        list(converted(source, "x.weight", "F32"))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "Q4_K"])
def test_the_same_type_passes_bit_by_bit(dtype: str) -> None:
    examples: dict[str, NDArray[Any]] = {
        "F32": np.array([[np.nan, 1.0]], np.float32),
        "F16": np.array([[np.inf, 1.0]], np.float16),
        "BF16": np.array([[0x7FC1, 2]], np.uint16),
        "Q4_K": np.arange(144, dtype=np.uint8)[None],
    }
    stored = examples[dtype]
    [same] = converted(MemorySource({"x.weight": (dtype, stored)}), "x.weight", dtype)
    assert same.tobytes() == stored.tobytes()
