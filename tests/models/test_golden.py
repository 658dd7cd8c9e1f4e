"""Every family against what transformers said once: `tests/golden`, written by `scripts.write_golden_logits`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.golden_models import families, read_golden, write_golden_model
from tests.harness import Harness
from tests.parity.test_models import CASES
from transom.config.model_families import FAMILIES
from transom.models import ALIASES, ARCHITECTURES

TOLERANCE = 2e-4
PAGE = Path(__file__).parents[2] / "docs" / "model_families.md"


@pytest.mark.parametrize("model_type", families())
def test_a_family_says_what_the_reference_said(model_type: str, tmp_path: Path) -> None:
    golden = read_golden(model_type)
    logits = Harness(write_golden_model(model_type, tmp_path)).logits(golden.tokens)[golden.positions]
    assert np.abs(logits - golden.expected).max() <= TOLERANCE
    assert (logits.argmax(axis=1) == golden.expected.argmax(axis=1)).all()


def test_every_family_has_an_architecture_a_golden_file_a_parity_case_and_a_row_in_the_docs() -> None:
    compared = {case.architecture for case in CASES}
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert {*ARCHITECTURES, *ALIASES} == {*FAMILIES}
    assert families() == sorted(FAMILIES)
    assert {family.architecture for family in FAMILIES.values()} == compared
    assert [name for name in FAMILIES if not any(row.startswith(f"| `{name}` ") for row in rows)] == []
