"""schemathesis over our own /openapi.json: whatever it makes of the schemas, there is no 5xx."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.running_server import RunningServer


def test_there_is_no_5xx(tmp_path: Path) -> None:
    """Good and bad bodies of every route. Answers are kept short: what the model says is not what is tested."""
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert program is not None
    python = os.environ.get("TRANSOM_TEST_PYTHON", sys.executable)
    server = RunningServer.start("--max-output-tokens", "4", log=tmp_path / "log.txt", python=python)
    try:
        limits = ("--max-examples", "25", "--phases", "fuzzing", "--request-timeout", "60", "--seed", "1")
        command = [program, "run", f"{server.url}/openapi.json", "--checks", "not_a_server_error", *limits]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        assert " selected / " in done.stdout
        assert server.is_ready()
    finally:
        assert server.stop() == 0
