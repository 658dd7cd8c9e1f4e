"""One engine of a comparison in a process of its own: what it is asked, and how its memory is read from outside.

The engine's process runs `answer`, the comparison holds a `SideProcess`; questions and answers are lines of JSON. Only
the standard library is used, so that a process may live in an environment of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Setting:
    """How llama.cpp computes; Transom has nothing to choose."""

    flash_attention: bool = False
    micro_batch: int = 512  # tokens that one pass computes at most: n_ubatch
    is_unified: bool = True  # one KV buffer for all sequences, or one for each

    def __str__(self) -> str:
        words = ["flash" if self.flash_attention else "no flash"]
        words += [f"ubatch {self.micro_batch}"] if self.micro_batch != 512 else []
        words += [] if self.is_unified else ["KV per sequence"]
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Question:
    """`prefill`: seconds until `count` more tokens behind `context` tokens are computed, up to the last one's logits.
    `decode`: seconds per step, the median of `count` steps, of `num_sequences` sequences with `context` tokens each."""

    kind: str
    context: int
    count: int
    num_sequences: int = 1
    setting: Setting = field(default_factory=Setting)


class Side(Protocol):
    """What an engine's process offers."""

    @property
    def load_seconds(self) -> float:
        """From the file to an engine that can compute."""
        ...

    def describe(self) -> str:
        """Versions and instruction sets, in one line."""
        ...

    def prefill(self, question: Question) -> float:
        """Seconds; see `Question`."""
        ...

    def decode(self, question: Question) -> float:
        """Seconds per step; see `Question`."""
        ...

    def logits(self, token_ids: Sequence[int], path: str) -> None:
        """Writes the logits of every row of a fresh prompt to `path`, f32 [T, V] as numpy saves it."""
        ...


def answer(side: Side) -> None:
    """The loop of the engine's process, until its input ends. Whatever else prints must not use standard output."""
    _say({"describe": side.describe(), "load_seconds": side.load_seconds})
    for line in sys.stdin:
        message = json.loads(line)
        if "logits" in message:
            side.logits(message["logits"], message["path"])
            _say({})
            continue
        question = Question(**message | {"setting": Setting(**message["setting"])})
        _say({"seconds": getattr(side, question.kind)(question)})


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class SideProcess:
    """An engine's process, seen by the comparison. Raises SystemExit when it ends by itself."""

    def __init__(self, python: Path, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self._name = module
        ready = self._read()
        self.description: str = ready["describe"]
        self.load_seconds: float = ready["load_seconds"]

    def ask(self, question: Question) -> float:
        """The answer in seconds."""
        self._write(asdict(question))
        return float(self._read()["seconds"])

    def save_logits(self, token_ids: Sequence[int], path: Path) -> None:
        """The engine writes them to `path`, a .npy file."""
        self._write({"logits": list(token_ids), "path": str(path)})
        self._read()

    def peak_rss_mib(self) -> float:
        """The most physical memory the process ever had, pages of mapped files included."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _write(self, message: dict[str, Any]) -> None:
        pipe = _pipe(self._process.stdin)
        pipe.write(json.dumps(message) + "\n")
        pipe.flush()

    def _read(self) -> dict[str, Any]:
        line = _pipe(self._process.stdout).readline()
        if not line:
            self._process.communicate()
            raise SystemExit(f"{self._name} ended with status {self._process.returncode}")
        message: dict[str, Any] = json.loads(line)
        return message


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
