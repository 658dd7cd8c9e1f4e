"""A helper process that may die over what it is asked: limits of CPU time, memory, stack, and a fresh one afterwards.

For input that cannot be judged before it is worked on: templates, grammars. The kernel enforces the limits, so that no
cleverness inside the process gets around them. Owns the process and the pipes; what is asked and answered is JSON, its
meaning is the script's business (`child.py` says what a script is). Knows nothing else of this project.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transom.limited_process.child import ANSWER_HEADER, REQUEST_HEADER

_CHILD = Path(__file__).with_name("child.py")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one question may cost."""

    cpu_seconds: float
    """CPU time, so that a busy machine ends no innocent."""
    memory_bytes: int
    """Of address space, of the whole process."""
    stack_bytes: int = 8 * 2**20


class LimitedProcess:
    """One script in a process of its own. Thread-safe: questions queue up; each blocks its caller only.

    The process starts with the first question. It ends by `close`, when this object is no longer used, and with this
    program.
    """

    def __init__(self, script: Path, limits: Limits) -> None:
        self._script = script
        self._limits = limits
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._end_process: weakref.finalize[Any, Any] | None = None

    def ask(self, question: str, *, setup: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """The answer to `question`, an object in JSON; None when the process died over it.

        `setup` is asked first of every fresh process, with ten times the CPU time, for it is the program's own. Raises
        RuntimeError when that fails.
        """
        with self._lock:
            if not self.is_alive:
                self._start(setup)
            answer = self._exchange(question, self._limits.cpu_seconds)
            if answer is None:
                self._end()
        return answer

    @property
    def is_alive(self) -> bool:
        """There is a process to be asked."""
        return self._process is not None and self._process.poll() is None

    @property
    def process_id(self) -> int | None:
        """None while there is no process."""
        return self._process.pid if self._process is not None and self.is_alive else None

    def close(self) -> None:
        """Ends the process."""
        self._end()

    def _start(self, setup: Mapping[str, Any] | None) -> None:
        self._end()
        limits = self._limits
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_CHILD), str(limits.memory_bytes), str(limits.stack_bytes), str(self._script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for the server, not for its helpers
        )
        self._end_process = weakref.finalize(self, _kill, self._process)
        answer = {} if setup is None else self._exchange(json.dumps(setup), 10 * limits.cpu_seconds)
        if answer is None or "error" in answer:
            self._end()
            raise RuntimeError(f"the helper process {self._script.name} cannot be set up: {answer or 'it ended'}")

    def _exchange(self, question: str, cpu_seconds: float) -> dict[str, Any] | None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        body = question.encode()
        try:
            process.stdin.write(REQUEST_HEADER.pack(len(body), cpu_seconds) + body)
            process.stdin.flush()
            header = process.stdout.read(ANSWER_HEADER.size)
            if len(header) < ANSWER_HEADER.size:
                return None
            answer: dict[str, Any] = json.loads(process.stdout.read(ANSWER_HEADER.unpack(header)[0]))
        except (OSError, ValueError):
            return None
        return answer

    def _end(self) -> None:
        if self._end_process is not None:
            self._end_process()


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(BrokenPipeError):  # what the process no longer read
            assert stream is not None
            stream.close()
