"""Renders a chat template in a helper process that may be killed, and is replaced when it was.

Knows nothing of messages. Limits: section "Limits" of the security rules (1 s, 256 MiB, 64 KiB).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transom.errors import TemplateError, TokenizerError
from transom.limited_process import LimitedProcess, Limits

MAX_TEMPLATE_BYTES = 64 * 1024
LIMITS = Limits(cpu_seconds=1.0, memory_bytes=256 * 2**20)
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
        self._process = LimitedProcess(_SCRIPT, LIMITS)
        answer = self._process.ask(json.dumps({"template": source}))
        if answer is None or "error" in answer:
            self.close()
            reason = "it took too much time or memory" if answer is None else answer["error"]
            raise TokenizerError(f"the chat template cannot be compiled: {reason}")

    def render(self, variables: Mapping[str, Any]) -> str:
        """The rendered text. Blocks up to about a second.

        TemplateError: the template refused the messages, failed, or was stopped.
        """
        body = json.dumps(variables)
        room = OUTPUT_FACTOR * (len(body) + len(self._source))
        question = f'{{"max_output_characters": {room}, "variables": {body}}}'
        answer = self._process.ask(question, setup={"template": self._source})
        if answer is None:
            raise TemplateError("The chat template took too much time or memory for these messages.")
        if "error" in answer:
            raise TemplateError(f"The chat template refused the messages: {answer['error']}")
        text: str = answer["text"]
        return text

    def close(self) -> None:
        """Ends the process. It also ends when this object is no longer used, and with this program."""
        self._process.close()
