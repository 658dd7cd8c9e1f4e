"""Where a report goes: the terminal, or standard output, and files that are whole or not there."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from transom.cli.banner import wide_console
from transom.cli.bench.report import Report
from transom.cli.bench.settings import BenchSettings
from transom.cli.bench.table import show_report
from transom.cli.failure import say
from transom.errors import ConfigError

PLOT_SUFFIXES = (".svg", ".png")


def check_outputs(settings: BenchSettings) -> None:
    """Raises ConfigError now for what would otherwise fail behind minutes of measuring."""
    if settings.plot_path is not None:
        if settings.plot_path.suffix.lower() not in PLOT_SUFFIXES:
            raise ConfigError(f"--plot {settings.plot_path}: the name must end with {' or '.join(PLOT_SUFFIXES)}")
        if importlib.util.find_spec("matplotlib") is None:
            install = f"{sys.executable} -m pip install 'transom[plot]'"
            raise ConfigError(f"--plot needs matplotlib, which is not installed: {install}")
    for flag, path in (("--plot", settings.plot_path), ("--output", settings.json_path)):
        if path is None:
            continue
        if path.is_dir():
            raise ConfigError(f"{flag} {path}: is a directory")
        if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            raise ConfigError(f"{flag} {path}: {path.parent} is no directory that can be written to")


def write_outputs(report: Report, settings: BenchSettings) -> None:
    """Shows the report, then writes the files that were asked for. OSError when one cannot be written."""
    _show(report, settings)
    if settings.json_path is not None:
        text = json.dumps(report.as_json(), indent=2) + "\n"
        _write_whole(settings.json_path, lambda path: path.write_text(text, encoding="utf-8"))
    if settings.plot_path is not None:
        from transom.cli.bench.plot import draw  # a second's import, for those who want it

        suffix = settings.plot_path.suffix.lower().removeprefix(".")
        _write_whole(settings.plot_path, lambda path: draw(report, path, suffix))
    if report.left_out_depths:
        depths = ",".join(map(str, report.left_out_depths))
        say(f"deeper points would take minutes and are left out; --depths {depths} measures them")


def show_interrupted(report: Report, settings: BenchSettings) -> None:
    """What there is of a report that nobody waited for."""
    if not report.points:
        say("interrupted before anything was measured")
        return
    _show(report, settings)
    say(f"interrupted: these {len(report.points)} points are whole, the others are missing; no file was written")


def _show(report: Report, settings: BenchSettings) -> None:
    if settings.as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        show_report(wide_console(), report)


def _write_whole(target: Path, write: Callable[[Path], object]) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    os.close(handle)
    path = Path(name)
    try:
        write(path)
        path.chmod(0o666 & ~_umask())
        path.replace(target)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _umask() -> int:
    """It can only be read by being set."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
