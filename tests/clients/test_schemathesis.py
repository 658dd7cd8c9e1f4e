"""schemathesis over our own /openapi.json: whatever it makes of the schemas, there is no 5xx."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running_server import RunningServer


@pytest.mark.timeout(300)
def test_there_is_no_5xx(tmp_path: Path) -> None:
    """Every field of every route at, within and beyond its bounds, then random bodies, good and bad. One model is
    served, which bodies need not name; answers are kept short: what it says is not what is tested. Routes that exist
    twice are asked once; the stream of windows, which ends only when its reader goes, is not asked for."""
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert program is not None
    python = os.environ.get("TRANSOM_TEST_PYTHON", sys.executable)
    server = RunningServer.start("tolstoy", "--max-output-tokens", "4", log=tmp_path / "log.txt", python=python)
    try:
        limits = ("--max-examples", "25", "--phases", "coverage,fuzzing", "--request-timeout", "60", "--seed", "1")
        routes = ("--include-path-regex", "^/(v1|health|ready|metrics)", "--exclude-path-regex", "/windows$")
        command = [program, "run", f"{server.url}/openapi.json", "--checks", "not_a_server_error", *limits, *routes]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        assert " selected / " in done.stdout
        assert server.is_ready()
    finally:
        assert server.stop() == 0
