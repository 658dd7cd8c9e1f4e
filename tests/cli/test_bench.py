"""`transom bench` as a process: both tiers of a bundled model, its mistakes, and an end before its time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.cli.test_app import one_line
from tests.command_line import ROOT, run
from transom.cli.app import app

SMALL = ("--prefill", "64", "--decode", "16", "--repeat", "1", "-t", "1")


def test_ram_and_ssd_by_strategy_leave_figures_and_no_files(tmp_path: Path) -> None:
    shown = run(
        *("bench", "tolstoy", "--depths", "512,0", "--strategies", "full,sliding_window", "--window-size", "256"),
        *("--ssd", "16MiB", "--ram", "1.5MiB", "--ssd-path", str(tmp_path), "--json", *SMALL),
    )
    assert shown.returncode == 0, shown.stderr
    report = json.loads(shown.stdout)
    points = [(point["tiers"], point["strategy"], point["depth"]) for point in report["points"]]
    series = [("ram", "full"), ("ram", "sliding_window"), ("ram+ssd", "full"), ("ram+ssd", "sliding_window")]
    assert points == [(*each, depth) for each in series for depth in (0, 512)]
    for point in report["points"]:
        assert point["prefill_tokens_per_second"]["median"] > 0
        assert point["decode_tokens_per_second"]["median"] > 0
        forgets = point["strategy"] == "sliding_window" and point["depth"] == 512
        assert (point["num_forgotten_tokens"] > 0) == forgets
    assert report["command"].startswith("transom bench tolstoy")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--depths", "8192"), "--depths 8192: must be 0 to 8111"),
        (("--ssd", "1MiB", "--ram", "1MiB", "--depths", "2048"), "the budgets --ram and --ssd are 1 MiB and 1 MiB"),
        (("--ssd", "1MiB", "--ssd-path", "/nowhere"), "--ssd-path /nowhere: is no directory that can be written to"),
        (("--strategies", "keep_first", "--keep-first", "9000"), "--keep-first 9000 must be less than"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    shown = run("bench", "tolstoy", *arguments, *SMALL)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert message in one_line(shown.stderr)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_shows_what_was_measured_and_leaves_no_files(tmp_path: Path, number: signal.Signals) -> None:
    """It comes when RAM is measured and the directory of the cold tier is there."""
    cold = tmp_path / "cold"
    cold.mkdir()
    command = ["bench", "tolstoy", "--depths", "0", "-o", str(tmp_path / "report.json"), *SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "transom", *command, "--ssd", "16MiB", "--ssd-path", str(cold)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(cold.iterdir()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: these 1 points are whole" in one_line(err)
    assert out.splitlines()[-1].split()[:3] == ["RAM", "full", "0"]
    assert [path.name for path in tmp_path.iterdir()] == ["cold"]
    assert not list(cold.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ram", "1KiB"), "'1KiB' is less than 1 MiB"),
        (("--ssd", "much"), "'much' is no size such as 64MiB or 2GiB"),
        (("--depths", "0,x"), "--depths 0,x: must be numbers of tokens"),
        (("--strategies", "best"), "--strategies best: must be some of full, sliding_window"),
    ],
)
def test_what_cannot_be_read_is_named(arguments: tuple[str, ...], message: str) -> None:
    shown = CliRunner().invoke(app, ["bench", "tolstoy", *arguments], env={"COLUMNS": "200"})
    assert shown.exit_code == 2
    assert message in shown.output
