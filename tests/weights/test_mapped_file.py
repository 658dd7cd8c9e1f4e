"""Weight files that change under the reader."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import write_tiny_llama
from tests.gguf_models import write_gguf_of
from transom.errors import WeightsError
from transom.models import build
from transom.registry.model_files import read_model_config
from transom.weights.loader import WeightLoader
from transom.weights.mapped_file import MappedFile
from transom.weights.sources import open_weights

BYTE = np.dtype("u1")


def written_over(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4000)
        file.write(b"new")
    os.utime(path, ns=(0, 1))  # clocks of files are coarse


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("change", [written_over, truncated])
def test_a_file_that_changes_while_it_is_read_is_an_error_that_names_it(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(8192))
    file = MappedFile.open(path, "GGUF", 1)
    file.release(0, 4096)
    change(path)
    with pytest.raises(WeightsError, match="weights: was changed while it was read"):
        file.release(0, 4096)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_lost_its_name_is_read_as_it_was(tmp_path: Path, replaced: bool) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"old" * 4096)
    file = MappedFile.open(path, "GGUF", 1)
    path.unlink()
    if replaced:
        path.write_bytes(b"new")
    file.release(0, 4096)
    assert file.view(BYTE, 0, 3).tobytes() == b"old"


def test_a_model_is_never_made_of_two_files(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "tiny")
    path = write_gguf_of(tmp_path / "tiny", tmp_path / "tiny.gguf")
    weights = open_weights(path)
    written_over(path)
    with pytest.raises(WeightsError, match=r"tiny\.gguf: was changed while it was read"):
        build(read_model_config(path), WeightLoader(weights))
