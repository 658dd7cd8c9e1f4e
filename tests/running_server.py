"""`transom serve` as a process of its own, as a user runs it; the tests talk to it over HTTP only."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai

from tests.command_line import clean_environment

START_SECONDS = 60


@dataclass
class RunningServer:
    """A server process that says it is ready."""

    process: subprocess.Popen[bytes]
    port: int
    arguments: tuple[str, ...] = ()

    @classmethod
    def start(cls, *arguments: str, log: Path, python: str = sys.executable) -> RunningServer:
        """Starts `transom serve ARGUMENTS` on a free port and waits until /health/ready answers 200."""
        port = free_port()
        command = [python, "-m", "transom", "serve", *arguments, "--port", str(port)]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=clean_environment())
        server = cls(process, port, arguments)
        deadline = time.monotonic() + START_SECONDS
        while not server.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise AssertionError(f"the server did not become ready:\n{log.read_text()}")
            time.sleep(0.05)
        return server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        try:
            return self.get("/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def client(self) -> openai.OpenAI:
        """The official client; without retries, which would hide errors."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=120)

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=120)

    def get(self, path: str, timeout: float = 10) -> httpx.Response:
        """Without the certificates of the authorities, which nobody shows here and which take 25 ms to read."""
        return httpx.get(f"{self.url}{path}", timeout=timeout, verify=False)

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=120, verify=False)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples that carry these labels."""
        total = 0.0
        for line in self.get("/metrics").text.splitlines():
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if match and match[1] == name and all(f'{k}="{v}"' in (match[2] or "") for k, v in labels.items()):
                total += float(match[3])
        return total

    def worker_pids(self) -> list[int]:
        """Process ids of the model workers, the server's children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = [int(pid) for pid in children.read_text().split()]
        return [pid for pid in pids if b"transom.engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def stop(self) -> int:
        """SIGTERM, then waits; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def resident_mib(pid: int) -> float:
    """Resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
