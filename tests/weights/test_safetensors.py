"""Checkpoints against the reference package, and against everything that can be wrong with their files."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.weights.files import bf16, encode, f32, write_index, write_single
from transom.errors import WeightsError
from transom.weights.safetensors import open_checkpoint

SHARED_MODELS = Path(__file__).parents[3] / "shared" / "models"


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.sampled_from([np.float32, np.float16, np.int64, np.uint8, np.float64, np.bool_]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=50)
def test_files_of_the_reference_package_are_read_equal(
    tmp_path: Path, layout: dict[str, tuple[Any, list[int]]]
) -> None:
    tensors = {name: np.asarray(f32(*shape)).astype(dtype) for name, (dtype, shape) in layout.items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.names() == tuple(sorted(tensors))
    for name, expected in tensors.items():
        assert checkpoint.info(name).shape == expected.shape
        assert checkpoint.tensor(name).dtype == expected.dtype
        np.testing.assert_array_equal(checkpoint.tensor(name), expected)


def test_bf16_comes_as_its_bits(tmp_path: Path) -> None:
    bits = bf16(f32(3, 5))
    checkpoint = open_checkpoint(write_single(tmp_path, {"w": bits}))
    assert checkpoint.info("w").dtype == "BF16"
    assert checkpoint.tensor("w").dtype == np.uint16
    np.testing.assert_array_equal(checkpoint.tensor("w"), bits)


@pytest.mark.parametrize("pad", range(4))
def test_a_tensor_may_lie_at_any_byte(tmp_path: Path, pad: int) -> None:
    checkpoint = open_checkpoint(write_single(tmp_path, {"w": f32(3, 5)}, pad))
    np.testing.assert_array_equal(checkpoint.tensor("w"), f32(3, 5))


def test_a_tensor_cannot_be_written_to_and_outlives_its_checkpoint(tmp_path: Path) -> None:
    tensor = open_checkpoint(write_single(tmp_path, {"w": f32(2, 3)})).tensor("w")
    with pytest.raises(ValueError, match="read-only"):
        tensor[0] = 1.0
    np.testing.assert_array_equal(tensor, f32(2, 3))


def test_a_released_tensor_is_read_again(tmp_path: Path) -> None:
    values = f32(300, 100)  # several pages
    checkpoint = open_checkpoint(write_single(tmp_path, {"a": f32(7), "w": values, "z": f32(1)}))
    tensor = checkpoint.tensor("w")
    for name in checkpoint.names():
        checkpoint.release(name)
    np.testing.assert_array_equal(tensor, values)


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_single(tmp_path, {"w": f32(1)}))
    for access in (checkpoint.info, checkpoint.tensor, checkpoint.release):
        with pytest.raises(WeightsError, match="tensor 'nope' is missing in the checkpoint"):
            access("nope")


def write_shards(directory: Path) -> Path:
    (directory / "a.safetensors").write_bytes(encode({"x": f32(2, 2), "y": f32(3)}))
    (directory / "b.safetensors").write_bytes(encode({"z": bf16(f32(4))}))
    return write_index(directory, {"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"})


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_shards(tmp_path))
    assert checkpoint.names() == ("x", "y", "z")
    np.testing.assert_array_equal(checkpoint.tensor("y"), f32(3))
    assert checkpoint.nbytes == 16 + 12 + 8


def test_a_single_file_goes_before_an_index(tmp_path: Path) -> None:
    write_single(write_shards(tmp_path), {"w": f32(1)})
    assert open_checkpoint(tmp_path).names() == ("w",)


def test_an_absent_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"b\.safetensors: cannot be opened: No such file"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_is_not_in_its_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_index(tmp_path, {"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"})
    with pytest.raises(WeightsError, match=r"b\.safetensors: tensor 'y' is missing, the index says it is here"):
        open_checkpoint(tmp_path)


def test_a_tensor_the_index_does_not_know_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_index(tmp_path, {"x": "a.safetensors", "z": "b.safetensors"})
    with pytest.raises(WeightsError, match=r"a\.safetensors: tensor 'y' is not listed"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "a\0b", "x/"])
def test_a_shard_is_a_plain_name_within_the_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(encode({"x": f32(1)}))
    model = tmp_path / "model"
    model.mkdir()
    with pytest.raises(WeightsError, match="is not a plain file name"):
        open_checkpoint(write_index(model, {"x": name}))


@pytest.mark.parametrize("weight_map", [None, [], "x", {"x": 3}, {"x": None}])
def test_an_index_without_a_weight_map_is_refused(tmp_path: Path, weight_map: object) -> None:
    with pytest.raises(WeightsError, match="weight_map must map tensor names to file names"):
        open_checkpoint(write_index(tmp_path, weight_map))


def test_an_index_that_is_no_json_is_a_weights_error(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(WeightsError, match="nested too deeply"):
        open_checkpoint(tmp_path)


def test_a_symbolic_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(encode({"x": f32(1)}))
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").symlink_to(outside)
    with pytest.raises(WeightsError, match="symbolic link out of the model's directory"):
        open_checkpoint(model)
    (model / "model.safetensors").unlink()
    (model / "a.safetensors").symlink_to(outside)
    with pytest.raises(WeightsError, match="symbolic link out of the model's directory"):
        open_checkpoint(write_index(model, {"x": "a.safetensors"}))


def test_links_within_the_directory_and_a_linked_directory_are_fine(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "real.safetensors").write_bytes(encode({"x": f32(1)}))
    (model / "model.safetensors").symlink_to("real.safetensors")
    (tmp_path / "link").symlink_to(model)
    assert open_checkpoint(tmp_path / "link").names() == ("x",)


def test_the_hugging_face_cache_may_link_to_its_blobs_and_nowhere_else(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "abc", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "0123").write_bytes(encode({"x": f32(1)}))
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    assert open_checkpoint(snapshot).names() == ("x",)
    (blobs / "0123").rename(tmp_path / "0123")
    (blobs / "0123").symlink_to(tmp_path / "0123")
    with pytest.raises(WeightsError, match="symbolic link out"):
        open_checkpoint(snapshot)


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").symlink_to("a.safetensors")
    with pytest.raises(WeightsError, match=r"a\.safetensors: cannot be opened"):
        open_checkpoint(write_index(tmp_path, {"x": "a.safetensors"}))


def test_s03_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(WeightsError, match=r"has neither .* pytorch_model\.bin is a pickle, which is never loaded"):
        open_checkpoint(tmp_path)


def test_an_empty_directory_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has neither model\.safetensors nor model\.safetensors\.index\.json$"):
        open_checkpoint(tmp_path)


def test_a_fifo_does_not_block_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="is not a regular file"):
        open_checkpoint(tmp_path)


def test_a_small_file_cut_at_every_byte_is_refused(tmp_path: Path) -> None:
    whole = encode({"a": f32(2), "b": bf16(f32(3))})
    for length in range(len(whole)):
        (tmp_path / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            open_checkpoint(tmp_path)


@given(st.integers(0, 2**32))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150)
def test_flipped_header_bits_give_readable_tensors_or_an_error(tmp_path: Path, seed: int) -> None:
    whole = bytearray(encode({"a": f32(2, 3), "b": bf16(f32(3)), "c": f32(4)}))
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 3)):
        whole[chance.randrange(len(whole) - 46)] ^= 1 << chance.randrange(8)
    (tmp_path / "model.safetensors").write_bytes(whole)
    with contextlib.suppress(WeightsError):
        checkpoint = open_checkpoint(tmp_path)
        total = sum(_read(checkpoint.tensor(name)) for name in checkpoint.names())
        assert total == checkpoint.nbytes


def _read(values: NDArray[Any]) -> int:
    return len(values.tobytes())


@pytest.mark.skipif(not SHARED_MODELS.is_dir(), reason="needs the shared models")
@pytest.mark.parametrize("name", ["story", "tolstoy"])
def test_real_checkpoints_are_read(name: str) -> None:
    checkpoint = open_checkpoint(SHARED_MODELS / name)
    assert "model.norm.weight" in checkpoint.names()
    file_bytes = (SHARED_MODELS / name / "model.safetensors").stat().st_size
    assert 0 < file_bytes - checkpoint.nbytes < 20_000
