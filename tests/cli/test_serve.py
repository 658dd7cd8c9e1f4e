"""What `transom serve` says between its start and its end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx2 as httpx
import pytest

from tests.command_line import clean_environment
from tests.running_server import free_port
from transom.cli.options import ServeOptions
from transom.cli.serve import server_settings
from transom.config.registry_config import ServerConfig

ROOT = Path(__file__).parents[2]


@contextmanager
def serving(port: int, stdout: IO[str] | int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """A server that has begun, in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "transom", "serve", "tolstoy", "--port", str(port), "-t", "1"],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=clean_environment(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Lines of standard output up to the one that holds `text`."""
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while text not in lines[-1]:
        assert lines[-1], lines
        lines.append(process.stdout.readline())
    return lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_models_load_ends_the_server_with_one_line(number: signal.Signals) -> None:
    with serving(free_port()) as process:
        lines_until(process, "Loading")
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "transom: stopped\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_standard_output_does_not_end_the_server() -> None:
    port = free_port()
    with Path("/dev/full").open("w") as full, serving(port, stdout=full) as process:
        deadline = time.monotonic() + 30
        while not is_ready(port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert (
        errors.splitlines()[0] == "transom: standard output cannot be written and stays silent: No space left on device"
    )
    assert errors.splitlines()[1:] == ["transom: stopped"]


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5, verify=False).status_code == 200
    except httpx.TransportError:
        return False


def test_the_end_says_what_it_waits_for() -> None:
    port = free_port()
    body = {"prompt": "Prince Andrew", "max_tokens": 8000, "stream": True, "ignore_eos": True}
    with serving(port) as process:
        shown = lines_until(process, "is ready")
        assert "Try:\n" in shown
        with httpx.stream("POST", f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=30) as response:
            lines = response.iter_lines()  # as long as somebody holds them, the connection is open
            next(line for line in lines if line.startswith("data:"))
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            told = process.stderr.readline()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
    assert told == "transom: finishing 1 request, up to 30 s; Ctrl-C again ends now\n"
    assert (process.returncode, errors) == (0, "transom: stopped\n")


@pytest.mark.parametrize("page", [True, False])
def test_the_page_is_served_unless_a_flag_says_otherwise(page: bool) -> None:
    assert server_settings(ServeOptions(page=page), ServerConfig()).has_page is page
    assert server_settings(ServeOptions(), ServerConfig()).has_page
