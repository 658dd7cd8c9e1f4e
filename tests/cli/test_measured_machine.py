"""What was measured is remembered, for this machine alone, and a damaged memory costs nothing but time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from transom.cli import measured_machine
from transom.cli.measured_machine import MeasuredMachine, cache_file
from transom.engine.machine_speed import MatrixSpeed


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was measured."""
    made: list[str] = []

    def measure(dtype: str) -> MatrixSpeed:
        made.append(dtype)
        return MatrixSpeed(1e9 + len(made), 2e9, 0.0, 1e11)

    monkeypatch.setattr(measured_machine, "measure_matrix", measure)
    return made


def test_a_figure_is_measured_once(calls: list[str], tmp_path: Path) -> None:
    path = tmp_path / "sub" / "speed.json"
    first = MeasuredMachine(1, remembered_in=path).matrix("f16")
    second = MeasuredMachine(1, remembered_in=path)
    assert second.matrix("f16") == first
    assert second.matrix("q8_0") != first
    assert calls == ["f16", "q8_0"]


def test_it_is_measured_again_when_somebody_asks_for_that(calls: list[str], tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    MeasuredMachine(1, remembered_in=path).matrix("f16")
    again = MeasuredMachine(1, remembered_in=path, measures_again=True)
    assert again.matrix("f16") == again.matrix("f16")
    assert calls == ["f16", "f16"]


def test_other_threads_are_another_machine(calls: list[str], tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    MeasuredMachine(1, remembered_in=path).matrix("f16")
    MeasuredMachine(2, remembered_in=path).matrix("f16")
    assert calls == ["f16", "f16"]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"machine": 1, "figures": []}', "[" * 100_000, '{"figures": {"matrix f16": {"bytes": -1}}}'],
)
def test_a_damaged_file_is_measured_anew(calls: list[str], content: str, tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    path.write_text(content)
    MeasuredMachine(1, remembered_in=path).matrix("f16")
    assert calls == ["f16"]
    assert json.loads(path.read_text())["figures"].keys() == {"matrix f16"}


@pytest.mark.parametrize("figure", [{"bytes_per_second": 1.0}, {"wrong": 1.0}, {}, 7.0, "fast", None])
def test_a_figure_of_another_shape_is_measured_anew(calls: list[str], figure: Any, tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    MeasuredMachine(1, remembered_in=path).matrix("f16")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "figures": {"matrix f16": figure}}))
    assert MeasuredMachine(1, remembered_in=path).matrix("f16").bytes_per_second > 1e9
    assert calls == ["f16", "f16"]


def test_a_place_that_cannot_be_written_is_no_error(calls: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert MeasuredMachine(1, remembered_in=tmp_path / "file" / "speed.json").matrix("f16").bytes_per_second > 0
    assert calls == ["f16"]


def test_the_users_cache_directory_is_where_the_system_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file() == tmp_path / "transom" / "machine-speed.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_file().is_absolute()
