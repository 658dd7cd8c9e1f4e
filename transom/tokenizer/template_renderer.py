"""Renders a chat template in a helper process that may be killed, and starts another when it was.

Owns the process; knows nothing of messages. Limits: section "Limits" of the security rules (1 s, 256 MiB, 64 KiB).
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from transom.errors import TemplateError, TokenizerError
from transom.tokenizer.template_process import HEADER

MAX_TEMPLATE_BYTES = 64 * 1024
CPU_SECONDS = 1.0
MEMORY_BYTES = 256 * 2**20
OUTPUT_FACTOR = 4
"""A rendering may be so many times as long as what went in, template included."""

_SCRIPT = Path(__file__).with_name("template_process.py")


class TemplateRenderer:
    """One template and the process that renders it. Thread-safe: renderings queue up; each blocks its caller only."""

    def __init__(self, source: str) -> None:
        """Starts the process and compiles. Raises TokenizerError, with the line, for a template that cannot be used."""
        if len(source.encode()) > MAX_TEMPLATE_BYTES:
            raise TokenizerError(f"the chat template is larger than {MAX_TEMPLATE_BYTES // 1024} KiB")
        self._source = source
        self._lock = threading.Lock()
        self._process = self._start()

    def render(self, variables: Mapping[str, Any]) -> str:
        """The rendered text. Blocks up to about a second.

        TemplateError: the template refused the messages, failed, or was stopped.
        """
        body = json.dumps(variables)
        room = OUTPUT_FACTOR * (len(body) + len(self._source))
        with self._lock:
            if not self._end_process.alive:
                self._process = self._start()
            answer = _ask(self._process, f'{{"max_output_characters": {room}, "variables": {body}}}')
            if answer is None:
                self._end_process()
        if answer is None:
            raise TemplateError("The chat template took too much time or memory for these messages.")
        if "error" in answer:
            raise TemplateError(f"The chat template refused the messages: {answer['error']}")
        return answer["text"]

    def close(self) -> None:
        """Ends the process. It also ends when this object is no longer used, and with this program."""
        self._end_process()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-I", str(_SCRIPT), str(CPU_SECONDS), str(MEMORY_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for the server, not for its helpers
        )
        self._end_process = weakref.finalize(self, _end, process)
        answer = _ask(process, json.dumps({"template": self._source}))
        if answer is None or "error" in answer:
            self._end_process()
            reason = "it took too much time or memory" if answer is None else answer["error"]
            raise TokenizerError(f"the chat template cannot be compiled: {reason}")
        return process


def _ask(process: subprocess.Popen[bytes], request: str) -> dict[str, str] | None:
    """The answer to one frame; None when the process died over it."""
    assert process.stdin is not None
    assert process.stdout is not None
    body = request.encode()
    try:
        process.stdin.write(HEADER.pack(len(body)) + body)
        process.stdin.flush()
        header = process.stdout.read(HEADER.size)
        answer: dict[str, str] = json.loads(process.stdout.read(HEADER.unpack(header)[0]))
    except (OSError, ValueError, struct.error):
        return None
    return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(BrokenPipeError):  # what the process no longer read
            assert stream is not None
            stream.close()
