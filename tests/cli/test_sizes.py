"""Sizes as people write them."""

from __future__ import annotations

import pytest
import typer

from transom.cli.sizes import mebibytes


@pytest.mark.parametrize(
    ("text", "mib"),
    [("8GiB", 8192), ("8G", 8192), ("8gb", 8192), ("8192MiB", 8192), ("8192", 8192), ("1.5 GiB", 1536), ("1T", 2**20)],
)
def test_every_usual_spelling_is_understood(text: str, mib: int) -> None:
    assert mebibytes(text) == mib


@pytest.mark.parametrize("text", ["", "G", "8 apples", "0", "-1", "0.3", "1e3", "9999999T", "8KiB", "٨G", "1" * 400])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        mebibytes(text)
