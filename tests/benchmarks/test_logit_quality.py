"""Distances of logits, and the f32 file they are measured from."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from benchmarks.dequantised_gguf import dequantised
from benchmarks.logit_quality import Distance
from benchmarks.synthetic_gguf import synthetic_gguf


def test_the_dequantised_file_has_the_same_weights_and_metadata(tmp_path: Path) -> None:
    source = synthetic_gguf("tiny", "Q4_K_M", models_directory=tmp_path)
    before, after = gguf.GGUFReader(source), gguf.GGUFReader(dequantised(source))
    for one, other in zip(before.tensors, after.tensors, strict=True):
        values = gguf.quants.dequantize(one.data, one.tensor_type)
        assert one.name == other.name
        assert np.array_equal(values.reshape(other.data.shape), other.data)
    copied = [name for name in before.fields if not name.startswith(("GGUF.", "general.file_type"))]
    assert "tokenizer.ggml.merges" in copied
    for name in copied:
        assert before.fields[name].contents() == after.fields[name].contents()


def test_equal_logits_have_no_distance_and_a_constant_changes_nothing() -> None:
    logits = np.random.default_rng(0).standard_normal((5, 30)).astype(np.float32)
    distance = Distance.between(logits, logits + np.float32(3.0))
    assert distance.mean_kl == pytest.approx(0.0, abs=1e-6)
    assert distance.max_difference == pytest.approx(0.0, abs=1e-5)
    assert distance.same_top == 1.0


def test_the_distance_of_two_known_rows() -> None:
    reference, other = np.log(np.array([[0.5, 0.5]], np.float32)), np.log(np.array([[0.25, 0.75]], np.float32))
    distance = Distance.between(reference, other)
    assert distance.mean_kl == pytest.approx(0.5 * np.log(2.0) + 0.5 * np.log(2.0 / 3.0), rel=1e-6)
    assert distance.max_difference == pytest.approx(np.log(3.0) / 2, rel=1e-6)
