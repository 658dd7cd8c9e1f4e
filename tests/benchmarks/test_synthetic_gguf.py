"""The GGUF files the benchmarks run on: files that others can read, with sane weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as GgmlType
from numpy.typing import NDArray

from benchmarks import synthetic_gguf as program
from benchmarks.gguf_limits import GgufLimits
from benchmarks.synthetic_model import SHAPES, STANDARD_DEVIATION
from transom.weights.gguf import open_gguf


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def values_of(path: Path, name: str) -> NDArray[np.float32]:
    tensor = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
    values: NDArray[np.float32] = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return values


@pytest.mark.parametrize("file_type", program.FILE_TYPES)
def test_the_file_holds_every_tensor_of_the_shape(directory: Path, file_type: str) -> None:
    path = program.synthetic_gguf("tiny", file_type, models_directory=directory)
    expected = {tensor.name: tensor.shape for tensor in program.tensors_of(SHAPES["tiny"])}
    assert {tensor.name: tuple(tensor.shape[::-1]) for tensor in gguf.GGUFReader(path).tensors} == expected
    assert set(open_gguf(path).names()) == set(expected)


@pytest.mark.parametrize("kind", [GgmlType.F16, GgmlType.Q8_0, GgmlType.Q5_0, GgmlType.Q4_K, GgmlType.Q6_K])
def test_weights_of_every_type_have_mean_zero_and_the_deviation_asked_for(kind: GgmlType) -> None:
    blocks = program.DRAWS[kind](np.random.default_rng(0), 4096, 0.02)
    values = gguf.quants.dequantize(blocks, kind)
    assert np.isfinite(values).all()
    assert abs(values.mean()) < 0.02 / 16
    assert values.std() == pytest.approx(0.02, rel=0.15)


def test_the_mix_of_q4_k_m_is_that_of_llama_cpp() -> None:
    shape = SHAPES["1b"]
    kinds = {tensor.name: program.type_of(tensor, shape, "Q4_K_M") for tensor in program.tensors_of(shape)}
    assert kinds["token_embd.weight"] is GgmlType.Q6_K
    precise = [layer for layer in range(16) if kinds[f"blk.{layer}.ffn_down.weight"] is GgmlType.Q6_K]
    assert precise == [0, 1, 4, 7, 10, 13, 14, 15]
    assert Counter(kinds.values()) == {GgmlType.F32: 33, GgmlType.Q6_K: 17, GgmlType.Q4_K: 96}


def test_rows_that_no_super_block_divides_get_smaller_blocks() -> None:
    shape = SHAPES["135m"]
    kinds = {tensor.name: program.type_of(tensor, shape, "Q4_K_M") for tensor in program.tensors_of(shape)}
    assert kinds["blk.0.attn_q.weight"] is GgmlType.Q5_0
    assert kinds["blk.0.attn_v.weight"] is GgmlType.Q8_0
    assert kinds["blk.0.ffn_down.weight"] is GgmlType.Q6_K


def test_the_gain_makes_query_and_key_matrices_larger_and_no_others(directory: Path) -> None:
    path = program.synthetic_gguf("tiny", "Q4_K_M", 4.0, directory)
    deviations = [values_of(path, f"blk.0.{name}.weight").std() for name in ("attn_q", "attn_k", "attn_output")]
    assert deviations == pytest.approx([4 * STANDARD_DEVIATION, 4 * STANDARD_DEVIATION, STANDARD_DEVIATION], rel=0.2)


def test_a_file_that_is_there_is_not_written_again(directory: Path) -> None:
    path = program.synthetic_gguf("tiny", "Q8_0", models_directory=directory)
    before = path.stat().st_mtime_ns
    assert program.synthetic_gguf("tiny", "Q8_0", models_directory=directory).stat().st_mtime_ns == before


def test_a_decode_step_reads_every_matrix_once_and_all_keys_and_values(directory: Path) -> None:
    limits = GgufLimits.of(program.synthetic_gguf("tiny", "F16", models_directory=directory))
    matrices = 512 * 256 + 2 * (256 * (2 * 256 + 2 * 128) + 3 * 256 * 512)
    assert limits.weight_bytes == 2 * matrices + 4 * 5 * 256  # the norms are f32
    assert limits.decode_bytes(100, 3) - limits.decode_bytes(0) == 3 * 100 * 2 * (2 * 4 * 32 * 2)


def test_a_prompt_takes_two_operations_per_weight_and_four_per_scored_pair_and_channel(directory: Path) -> None:
    limits = GgufLimits.of(program.synthetic_gguf("tiny", "F16", models_directory=directory))
    in_layers = 2 * (256 * (2 * 256 + 2 * 128) + 3 * 256 * 512)
    pairs = 11 + 12  # the first new token sees 10 old ones and itself
    assert limits.prefill_operations(10, 2) == 2 * (2 * in_layers + 512 * 256) + 4 * 2 * 8 * 32 * pairs
