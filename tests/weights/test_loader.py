"""From tensors to kernel operands, strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.weights.files import bf16, f32, write_single
from tests.weights.gguf_files import write_gguf
from transom import kernels
from transom.errors import WeightsError
from transom.weights.gguf_checkpoint import open_gguf_checkpoint
from transom.weights.loader import WeightLoader
from transom.weights.safetensors import open_checkpoint


def loader(directory: Path, **tensors: NDArray[Any]) -> WeightLoader:
    return WeightLoader(open_checkpoint(write_single(directory, tensors)))


def rows(matrices: tuple[kernels.PackedMatrix, ...]) -> NDArray[np.float32]:
    """What packed matrices hold, as the kernels see it, stacked."""
    return np.concatenate([kernels.embed(each, np.arange(each.out_features, dtype=np.int32)) for each in matrices])


@pytest.mark.parametrize("convert", [np.float32, np.float16, bf16])
def test_a_vector_becomes_f32(tmp_path: Path, convert: Any) -> None:
    vector = loader(tmp_path, norm=convert(f32(7))).vector("norm", (7,))
    assert vector.dtype == np.float32
    assert vector.flags.owndata and vector.flags.writeable
    np.testing.assert_array_equal(vector, f32(7))


@pytest.mark.parametrize(("convert", "dtype"), [(np.float32, "f32"), (np.float16, "f16"), (bf16, "bf16")])
def test_a_matrix_keeps_its_width(tmp_path: Path, convert: Any, dtype: str) -> None:
    (matrix,) = loader(tmp_path, w=convert(f32(33, 20))).matrix({"w": 33}, 20)
    assert (matrix.out_features, matrix.in_features, matrix.dtype) == (33, 20, dtype)
    np.testing.assert_array_equal(rows((matrix,)), f32(33, 20))


def test_parts_are_stacked_in_the_order_asked_for(tmp_path: Path) -> None:
    values = f32(24, 8)
    matrix = loader(tmp_path, k=bf16(values[10:15]), q=bf16(values[:10]), v=bf16(values[15:])).matrix(
        {"q": 10, "k": 5, "v": 9}, 8
    )
    np.testing.assert_array_equal(rows(matrix), values)


def test_parts_of_different_types_become_a_matrix_each_and_neighbours_of_one_type_one(tmp_path: Path) -> None:
    values = f32(12, 8)
    matrices = loader(tmp_path, a=bf16(values[:4]), b=bf16(values[4:6]), c=values[6:8], d=bf16(values[8:])).matrix(
        {"a": 4, "b": 2, "c": 2, "d": 4}, 8
    )
    assert [(each.dtype, each.out_features) for each in matrices] == [("bf16", 6), ("f32", 2), ("bf16", 4)]
    np.testing.assert_array_equal(rows(matrices), values)


@pytest.mark.parametrize("num_rows", [1, 1023, 1024, 1025, 3000])
def test_long_matrices_are_packed_in_pieces_without_a_seam(tmp_path: Path, num_rows: int) -> None:
    values = f32(num_rows, 3)
    np.testing.assert_array_equal(rows(loader(tmp_path, w=values).matrix({"w": num_rows}, 3)), values)


@pytest.mark.parametrize("pad", range(4))
def test_unaligned_tensors_are_loaded(tmp_path: Path, pad: int) -> None:
    checkpoint = open_checkpoint(write_single(tmp_path, {"w": f32(5, 3), "b": f32(5)}, pad))
    weights = WeightLoader(checkpoint)
    np.testing.assert_array_equal(rows(weights.matrix({"w": 5}, 3)), f32(5, 3))
    np.testing.assert_array_equal(weights.vector("b", (5,)), f32(5))


def test_a_model_may_ask_which_of_two_names_is_there(tmp_path: Path) -> None:
    weights = loader(tmp_path, w=f32(2, 2))
    weights.matrix({"w": 2}, 2)
    assert weights.has("w")
    assert not weights.has("x")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    weights = loader(tmp_path, w=f32(2, 2))
    with pytest.raises(WeightsError, match=r"tensor 'model\.norm\.weight' is missing"):
        weights.vector("model.norm.weight", (2,))
    with pytest.raises(WeightsError, match="tensor 'x' is missing"):
        weights.matrix({"w": 2, "x": 2}, 2)


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (6,), (2, 3, 1)])
def test_a_wrong_shape_is_named_with_both_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    weights = loader(tmp_path, w=f32(*shape))
    with pytest.raises(WeightsError, match=r"tensor 'w' has shape \[.*\], the model needs \[2, 3\]"):
        weights.matrix({"w": 2}, 3)
    with pytest.raises(WeightsError, match=r"tensor 'w' has shape \[.*\], the model needs \[7\]"):
        weights.vector("w", (7,))


def test_a_type_no_kernel_computes_with_is_named(tmp_path: Path) -> None:
    weights = loader(tmp_path, w=f32(2, 2).astype(np.float64))
    with pytest.raises(WeightsError, match="tensor 'w' is of type F64; supported here: F32, F16, BF16, Q8_0"):
        weights.matrix({"w": 2}, 2)


def test_a_type_of_blocks_no_kernel_computes_with_is_named(tmp_path: Path) -> None:
    blocks = {"output.weight": np.zeros((4, 66), np.uint8), "output_norm.weight": np.zeros((34,), np.uint8)}
    types = {"output.weight": gguf.GGMLQuantizationType.IQ2_XXS, "output_norm.weight": gguf.GGMLQuantizationType.Q8_0}
    path = write_gguf(tmp_path / "m.gguf", {"llama.attention.head_count": 1}, blocks, quantized=types)
    weights = WeightLoader(open_gguf_checkpoint(path))
    with pytest.raises(WeightsError, match=r"'lm_head\.weight' is of type IQ2_XXS; supported here: F32, .*Q4_K"):
        weights.matrix({"lm_head.weight": 4}, 256)
    with pytest.raises(WeightsError, match=r"'model\.norm\.weight' is of type Q8_0; supported here: F32, F16, BF16$"):
        weights.vector("model.norm.weight", (32,))


def test_tensors_nobody_asked_for_are_named(tmp_path: Path) -> None:
    weights = loader(tmp_path, w=f32(2, 2), extra=f32(1), other=f32(1))
    weights.matrix({"w": 2}, 2)
    with pytest.raises(WeightsError, match="holds 2 tensors that the model does not have: extra, other"):
        weights.finish()
    with pytest.raises(WeightsError, match="holds 1 tensors that the model does not have: other"):
        weights.finish(ignored=["extra", "never there"])
    weights.finish(ignored=("extra", "other"))


def test_many_unexpected_tensors_are_not_all_listed(tmp_path: Path) -> None:
    weights = loader(tmp_path, **{f"t{i}": f32(1) for i in range(50)})
    with pytest.raises(WeightsError, match=r"holds 50 tensors .*, \.\.\.$"):
        weights.finish()


def test_progress_counts_bytes_up_to_all_of_them(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    checkpoint = open_checkpoint(write_single(tmp_path, {"w": f32(2, 3), "v": bf16(f32(2, 3)), "n": f32(5)}))
    weights = WeightLoader(checkpoint, lambda done, total: seen.append((done, total)))
    weights.matrix({"w": 2, "v": 2}, 3)
    weights.vector("n", (5,))
    assert seen == [(24, 56), (36, 56), (56, 56)]


def test_the_pages_of_a_loaded_tensor_are_given_back(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_single(tmp_path, {"w": f32(4096, 1024)}))
    WeightLoader(checkpoint).matrix({"w": 4096}, 1024)
    assert _resident_kib(tmp_path / "model.safetensors") <= 8 + 64  # edges of the tensor, pages read ahead


def _resident_kib(path: Path) -> int:
    """RSS of this process's mapping of a file."""
    lines = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
    start = next(index for index, line in enumerate(lines) if line.endswith(str(path)))
    return int(next(line for line in lines[start:] if line.startswith("Rss:")).split()[1])
