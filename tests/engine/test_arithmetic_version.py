"""Nobody changes a bit of what is computed without saying so: what is left on SSD would be taken for what it is not.

`python -m tests.engine.test_arithmetic_version` writes down what is computed now, with the versions that go with it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden_models import families, random_tensors, write_golden_model
from tests.harness import Harness
from transom import kernels
from transom.engine.model_identity import numpy_digest
from transom.kernels import PackedMatrix
from transom.models import ALIASES, ARCHITECTURES, arithmetic_version

WRITTEN = Path(__file__).with_name("arithmetic.json")
NUM_TOKENS, CHUNK = 150, 64
KV_DTYPES = ("f32", "f16", "q8_0")
QUANTIZED = ("q8_0", "q4_0", "q4_k", "q5_k", "q6_k")

TO_DO = "the bits have changed: raise {version}, then run python -m tests.engine.test_arithmetic_version"


def _digest(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def family_digest(model_type: str, directory: Path, kv_dtype: str = "f16") -> str:
    """Of the logits of a small model of the family, whose weights and tokens are always the same."""
    harness = Harness(write_golden_model(model_type, directory), kv_dtype=kv_dtype)
    tokens = [3 + 7 * number % (harness.model_config.vocab_size - 3) for number in range(NUM_TOKENS)]
    return _digest(harness.logits(tokens, chunk=CHUNK))


def product_digest(dtype: str) -> str:
    """Of a product with a matrix of quantised rows."""
    values = random_tensors({"weight": (48, 512), "rows": (5, 512)}, seed=1)
    matrix = PackedMatrix(48, 512, dtype)  # type: ignore[arg-type]
    matrix.fill(0, kernels.quantize(dtype, values["weight"]))  # type: ignore[arg-type]
    return _digest(kernels.matmul(values["rows"], matrix))


def kernels_digests(directory: Path) -> dict[str, str]:
    """What does not depend on a family."""
    digests = {f"KV in {dtype}": family_digest("llama", directory / dtype, dtype) for dtype in KV_DTYPES}
    return digests | {f"weights in {dtype}": product_digest(dtype) for dtype in QUANTIZED}


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(WRITTEN.read_text())
    if content["numpy"] != numpy_digest():
        pytest.skip("NumPy rounds otherwise on this machine than where the digests were written")
    return content


@pytest.mark.parametrize("model_type", families())
def test_a_family_computes_the_bits_of_its_version(model_type: str, written: dict[str, Any], tmp_path: Path) -> None:
    version, digest = written["families"][model_type]
    assert version == arithmetic_version(model_type), TO_DO.format(version="nothing more")
    builder = ARCHITECTURES[ALIASES.get(model_type, model_type)].__name__
    assert digest == family_digest(model_type, tmp_path), TO_DO.format(version=f"{builder}.arithmetic_version")


def test_kernels_compute_the_bits_of_their_version(written: dict[str, Any], tmp_path: Path) -> None:
    version, digests = written["kernels"]
    assert version == kernels.ARITHMETIC_VERSION, TO_DO.format(version="nothing more")
    assert digests == kernels_digests(tmp_path), TO_DO.format(version="transom.kernels.ARITHMETIC_VERSION")


def write() -> None:
    """What is computed now is what the versions stand for."""
    with tempfile.TemporaryDirectory() as scratch:
        digests_of_families = {
            model_type: [arithmetic_version(model_type), family_digest(model_type, Path(scratch) / model_type)]
            for model_type in families()
        }
        digests = kernels_digests(Path(scratch))
    content = {
        "numpy": numpy_digest(),
        "kernels": [kernels.ARITHMETIC_VERSION, digests],
        "families": digests_of_families,
    }
    WRITTEN.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    write()
