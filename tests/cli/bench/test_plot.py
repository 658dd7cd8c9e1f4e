"""The report as a picture."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cli.bench.reports import point, report
from transom.cli.bench.report import Tiers

pytest.importorskip("matplotlib")
from transom.cli.bench.plot import draw


def test_an_svg_names_every_series_the_limit_and_the_machine(tmp_path: Path) -> None:
    points = [point(depth=depth, decode_limit=50.0) for depth in (0, 4096)]
    points += [point(Tiers.RAM_AND_SSD, "adaptive", depth=depth) for depth in (0, 4096)]
    draw(report(*points), tmp_path / "a.svg", "svg")
    text = (tmp_path / "a.svg").read_text()
    ElementTree.fromstring(text)
    for words in ("RAM, full", "RAM + SSD, adaptive", "memory's limit", "Abacus", "transom bench tiny", "4096"):
        assert words in text, words
    draw(report(*points), tmp_path / "b.svg", "svg")
    assert (tmp_path / "b.svg").read_text() == text, "the same report gives the same file"
    assert len(text) < 60_000


def test_a_png_of_one_point_is_written(tmp_path: Path) -> None:
    draw(report(point()), tmp_path / "a.png", "png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
