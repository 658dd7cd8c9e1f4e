"""schemathesis over our own /openapi.json: whatever it makes of the schemas, there is no 5xx."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.running_server import RunningServer


def test_there_is_no_5xx(server: RunningServer) -> None:
    """Examples, edges of the schemas, and values that they forbid; each answer may take a minute."""
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert program is not None
    limits = ("--max-examples", "15", "--phases", "examples,coverage,fuzzing", "--request-timeout", "60", "--seed", "1")
    command = [program, "run", f"{server.url}/openapi.json", "--checks", "not_a_server_error", *limits]
    done = subprocess.run([*command, "--workers", "2"], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert server.is_ready()
