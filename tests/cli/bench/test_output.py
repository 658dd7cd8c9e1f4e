"""Where reports go, and what is refused before anything is measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.bench.reports import point, report
from transom.cli.bench.output import check_outputs, show_interrupted, write_outputs
from transom.cli.bench.settings import BenchSettings
from transom.errors import ConfigError


def test_json_goes_to_standard_output_and_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = BenchSettings(as_json=True, json_path=tmp_path / "report.json")
    check_outputs(settings)
    write_outputs(report(point()), settings)
    printed = capsys.readouterr().out
    assert json.loads(printed) == json.loads((tmp_path / "report.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_depths_that_were_left_out_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    partial = report(point())
    partial.left_out_depths = (4096, 16384)
    write_outputs(partial, BenchSettings())
    assert "--depths 4096,16384 measures them" in capsys.readouterr().err


def test_an_interruption_shows_what_there_is_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = BenchSettings(json_path=tmp_path / "report.json")
    show_interrupted(report(point()), settings)
    out, err = capsys.readouterr()
    assert "command: transom bench tiny" in out
    assert "interrupted: these 1 points are whole" in err
    show_interrupted(report(), settings)
    assert "interrupted before anything was measured" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.pdf", r"a\.pdf: the name must end with \.svg or \.png"), ("no/a.svg", "no is no directory that can be")],
)
def test_a_plot_that_could_not_be_written_is_refused_at_once(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_outputs(BenchSettings(plot_path=tmp_path / name))


def test_a_report_in_place_of_a_directory_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        check_outputs(BenchSettings(json_path=tmp_path))


def test_a_plot_without_matplotlib_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'transom\[plot\]'"):
        check_outputs(BenchSettings(plot_path=tmp_path / "a.svg"))
