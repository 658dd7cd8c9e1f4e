"""Renders chat templates in a helper process (`transom.limited_process`): its script; imports nothing of this project.

Jinja's sandbox keeps a template away from Python's internals but limits neither time nor memory; the process does.
The first question compiles the template (`template`), all others render it (`variables`, `max_output_characters`).
Answers: `text`, or `error`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


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


def make_answer() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What `transom.limited_process` serves."""
    template = jinja2.Template("")

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        nonlocal template
        try:
            if "template" in question:
                template = compile_template(question["template"])
                return {}
            return {"text": render(template, question["variables"], question["max_output_characters"])}
        except Exception as error:  # noqa: BLE001 - whatever a template does is the template's fault
            return {"error": _describe(error)}

    return answer


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
