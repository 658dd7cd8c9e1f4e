"""The helper process that renders chat templates: a script of its own, run by path; imports nothing of this project.

Jinja's sandbox keeps a template away from Python's internals but limits neither time nor memory. Here both are limits
of a process that may die: the kernel ends it when a rendering's CPU time is over, and memory runs out at the limit.

Frames on standard input and output: 4 bytes of length, big-endian, then JSON. The first request compiles the template
(`template`), all others render it (`variables`, `max_output_characters`). Answers: `text`, or `error`.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, BinaryIO

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

HEADER = struct.Struct(">I")


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}`: marks the assistant's text for training; renders its body."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The body stands for the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compile_template(source: str) -> jinja2.Template:
    """A template under the rules that Hugging Face's `apply_chat_template` has made the custom."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def render(template: jinja2.Template, variables: dict[str, Any], max_output_characters: int) -> str:
    """The rendered text; jinja2.TemplateError when it grows beyond the limit."""
    parts: list[str] = []
    room = max_output_characters
    for part in template.generate(variables):
        room -= len(part)
        if room < 0:
            raise jinja2.TemplateRuntimeError(f"the output exceeds {max_output_characters} characters")
        parts.append(part)
    return "".join(parts)


def serve(requests: BinaryIO, answers: BinaryIO, cpu_seconds: float) -> None:
    """Answers frames until the requests end."""
    template = jinja2.Template("")
    while request := _read_frame(requests):
        answer: dict[str, str] = {}
        try:
            with _limited_cpu_time(cpu_seconds):
                if "template" in request:
                    template = compile_template(request["template"])
                else:
                    answer["text"] = render(template, request["variables"], request["max_output_characters"])
        except Exception as error:  # noqa: BLE001 - whatever a template does is the template's fault
            answer["error"] = _describe(error)
        _write_frame(answers, answer)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _describe(error: Exception) -> str:
    line = getattr(error, "lineno", None) or _template_line(error)
    where = f" (line {line} of the template)" if line else ""
    return f"{str(error)[:500] or type(error).__name__}{where}"


def _template_line(error: Exception) -> int | None:
    """Jinja rewrites tracebacks: frames of the template carry its own line numbers."""
    line, traceback = None, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


@contextmanager
def _limited_cpu_time(seconds: float) -> Iterator[None]:
    """SIGPROF, not caught, ends the process; CPU time, so that a busy machine ends no innocent."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _read_frame(stream: BinaryIO) -> dict[str, Any] | None:
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    request: dict[str, Any] = json.loads(stream.read(HEADER.unpack(header)[0]))
    return request


def _write_frame(stream: BinaryIO, answer: dict[str, str]) -> None:
    body = json.dumps(answer).encode()
    stream.write(HEADER.pack(len(body)) + body)
    stream.flush()


if __name__ == "__main__":
    memory_bytes = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[1]))
