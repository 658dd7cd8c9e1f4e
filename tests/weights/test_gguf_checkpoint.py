"""A GGUF file as a checkpoint, against the Hugging Face directory it was made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.fakes import write_tiny_llama
from tests.gguf_models import as_f32, q8_0_where_rows_are_whole_blocks, write_gguf_of
from tests.weights.gguf_files import write_gguf
from transom.config.gguf_config import gguf_model_config
from transom.config.model_config import ModelConfig
from transom.errors import UnsupportedModelError, WeightsError
from transom.weights.gguf import open_gguf
from transom.weights.gguf_checkpoint import describe_gguf, open_gguf_checkpoint
from transom.weights.gguf_values import GgufValue
from transom.weights.gguf_writer import write_gguf as write_any_gguf
from transom.weights.safetensors import open_checkpoint
from transom.weights.sources import num_parameters, open_weights

BUNDLED = Path(__file__).parents[2] / "transom" / "models_builtin"


@pytest.mark.parametrize("name", ["tolstoy", "recall"])
def test_the_config_of_a_file_equals_that_of_its_directory(tmp_path: Path, name: str) -> None:
    path = write_gguf_of(BUNDLED / name, tmp_path / "m.gguf")
    expected = replace(ModelConfig.from_hf(BUNDLED / name), dtype="F32", model_type="llama")
    assert gguf_model_config(describe_gguf(open_gguf(path))) == expected


def test_tensors_are_those_of_the_directory_in_the_order_of_their_rows(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    theirs, ours = open_checkpoint(tmp_path), open_gguf_checkpoint(write_gguf_of(tmp_path, tmp_path / "m.gguf"))
    assert ours.names() == theirs.names()
    assert num_parameters(ours) == num_parameters(theirs)
    for name in ours.names():
        values = theirs.tensor(name)
        assert ours.info(name).shape == values.shape
        np.testing.assert_array_equal(ours.tensor(name), values)
        np.testing.assert_array_equal(ours.rows(name, 1, len(values) - 1), values[1:-1])


def test_rows_of_blocks_are_moved_whole(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    path = write_gguf_of(BUNDLED / "tolstoy", tmp_path / "m.gguf", q8_0_where_rows_are_whole_blocks)
    ours = open_gguf_checkpoint(path)
    name = "model.layers.0.self_attn.q_proj.weight"
    expected = gguf.quants.quantize(as_f32(open_checkpoint(BUNDLED / "tolstoy").tensor(name)), kind)
    assert ours.info(name).dtype == "Q8_0"
    np.testing.assert_array_equal(ours.tensor(name), expected)
    np.testing.assert_array_equal(ours.rows(name, 3, 9), expected[3:9])


def test_a_tensor_of_all_experts_is_one_for_each(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((3, 5, 64), np.float32)
    name, kind = "blk.1.ffn_down_exps.weight", gguf.GGMLQuantizationType.Q8_0
    keys = {"qwen3moe.attention.head_count": 1}
    path = write_gguf(tmp_path / "m.gguf", keys, {name: values}, architecture="qwen3moe", quantized={name: kind})
    checkpoint = open_gguf_checkpoint(path)
    names = [f"model.layers.1.mlp.experts.{expert}.down_proj.weight" for expert in range(3)]
    assert list(checkpoint.names()) == names
    assert num_parameters(checkpoint) == values.size and checkpoint.nbytes == open_gguf(path).nbytes
    for expert, own_name in enumerate(names):
        expected = gguf.quants.quantize(values[expert], kind)
        assert (checkpoint.info(own_name).dtype, checkpoint.info(own_name).shape) == ("Q8_0", (5, 64))
        assert checkpoint.info(own_name).nbytes == expected.nbytes
        np.testing.assert_array_equal(checkpoint.tensor(own_name), expected)
        np.testing.assert_array_equal(checkpoint.rows(own_name, 1, 4), expected[1:4])
        checkpoint.release(own_name)
    with pytest.raises(WeightsError, match=r"tensor 'blk\.1\.ffn_down_exps\.weight' is missing"):
        checkpoint.info("model.layers.1.mlp.experts.3.down_proj.weight")


def test_experts_that_are_no_row_of_matrices_are_refused(tmp_path: Path) -> None:
    values = {"blk.0.ffn_up_exps.weight": np.zeros((5, 64), np.float32)}
    path = write_gguf(tmp_path / "m.gguf", {"llama.attention.head_count": 1}, values)
    with pytest.raises(
        WeightsError, match=r"'blk\.0\.ffn_up_exps\.weight' has shape \[5, 64\], must be one matrix for"
    ):
        open_gguf_checkpoint(path)


def test_experts_that_no_model_could_have_are_counted_before_they_are_named(tmp_path: Path) -> None:
    values = {f"blk.{layer}.ffn_up_exps.weight": np.zeros((2**16, 1, 1), np.float32) for layer in range(3)}
    path = write_gguf(tmp_path / "m.gguf", {"qwen3moe.attention.head_count": 1}, values, architecture="qwen3moe")
    with pytest.raises(WeightsError, match="holds 196608 matrices of experts, more than 131072"):
        open_gguf_checkpoint(path)


def test_whole_norms_have_a_name_of_their_own_and_convolutions_their_axis(tmp_path: Path) -> None:
    norm, taps = np.arange(4, dtype=np.float32), np.arange(12, dtype=np.float32).reshape(4, 3)
    gemma = write_gguf(
        tmp_path / "g.gguf", {"gemma2.attention.head_count": 1}, {"output_norm.weight": norm}, architecture="gemma2"
    )
    lfm2 = write_gguf(
        tmp_path / "l.gguf",
        {"lfm2.attention.head_count": 1, "lfm2.attention.head_count_kv": [0, 1]},
        {"blk.0.shortconv.conv.weight": taps},
        architecture="lfm2",
    )
    assert open_gguf_checkpoint(gemma).names() == ("model.norm.whole_weight",)
    checkpoint, name = open_gguf_checkpoint(lfm2), "model.layers.0.conv.conv.weight"
    assert checkpoint.info(name).shape == (4, 1, 3)
    np.testing.assert_array_equal(checkpoint.tensor(name), taps[:, np.newaxis])


def minimal(path: Path, **changes: object) -> Path:
    keys = {"llama.attention.head_count": 2, **changes}
    tensors = {"blk.0.attn_q.weight": np.zeros((6, 4), np.float32)}
    return write_gguf(path, {key: value for key, value in keys.items() if value is not None}, tensors)


def test_rows_that_heads_cannot_share_are_refused_by_the_name_in_the_file(tmp_path: Path) -> None:
    checkpoint = open_gguf_checkpoint(minimal(tmp_path / "m.gguf"))
    with pytest.raises(WeightsError, match=r"'blk\.0\.attn_q\.weight' has 6 rows, which 2 heads cannot share"):
        checkpoint.rows("model.layers.0.self_attn.q_proj.weight", 0, 1)


def test_a_missing_tensor_is_named_as_in_files(tmp_path: Path) -> None:
    checkpoint = open_gguf_checkpoint(minimal(tmp_path / "m.gguf"))
    with pytest.raises(WeightsError, match=r"m\.gguf: tensor 'output_norm\.weight' is missing"):
        checkpoint.info("model.norm.weight")


def test_unknown_architectures_and_numbers_of_heads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="'mamba' is not supported"):
        open_gguf_checkpoint(write_gguf(tmp_path / "m.gguf", {}, {}, architecture="mamba"))
    with pytest.raises(WeightsError, match=r"'llama\.attention\.head_count' is None"):
        open_gguf_checkpoint(minimal(tmp_path / "m.gguf", **{"llama.attention.head_count": None}))


def test_messages_about_metadata_are_short_however_long_the_values_are(tmp_path: Path) -> None:
    texts = ["x" * 100] * 1000
    for key in ("split.count", "general.architecture", "llama.attention.head_count"):
        path = tmp_path / f"{key}.gguf"
        keys: dict[str, GgufValue] = {"general.architecture": "llama", key: texts}
        write_any_gguf(path, keys, [])
        with pytest.raises((WeightsError, UnsupportedModelError), match=key) as caught:
            open_gguf_checkpoint(path)
        assert len(str(caught.value)) < 400 + len(str(path))


def test_the_file_type_is_the_recipes_name_or_the_commonest_type(tmp_path: Path) -> None:
    named = minimal(tmp_path / "a.gguf", **{"general.file_type": 15})
    assert describe_gguf(open_gguf(named)).file_type == "Q4_K_M"
    for number in (None, 999):
        path = minimal(tmp_path / "b.gguf", **{"general.file_type": number})
        assert describe_gguf(open_gguf(path)).file_type == "F32"


def test_factors_of_frequencies_belong_to_the_config_and_not_to_the_weights(tmp_path: Path) -> None:
    factors = np.array([1.0, 2.0, 8.0], np.float32)
    path = write_gguf(tmp_path / "m.gguf", {"llama.attention.head_count": 1}, {"rope_freqs.weight": factors})
    assert describe_gguf(open_gguf(path)).rope_factors == (1.0, 2.0, 8.0)
    assert open_gguf_checkpoint(path).names() == ()
    wrong = write_gguf(tmp_path / "w.gguf", {}, {"rope_freqs.weight": factors.astype(np.float16)})
    with pytest.raises(WeightsError, match=r"rope_freqs\.weight"):
        describe_gguf(open_gguf(wrong))


def test_a_directory_may_hold_one_model_as_a_gguf_file(tmp_path: Path) -> None:
    minimal(tmp_path / "m.gguf")
    assert open_weights(tmp_path).names() == ("model.layers.0.self_attn.q_proj.weight",)
    minimal(tmp_path / "other.gguf")
    with pytest.raises(WeightsError, match=r"several GGUF models \(m\.gguf, other\.gguf"):
        open_weights(tmp_path)
