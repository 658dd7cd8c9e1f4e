"""How a line of the log looks, as text or as JSON, and what must never be in one: whatever a caller has written.

Callers' texts reach a log by exceptions, whose messages quote what was wrong with a value. So of an exception its type
and the places in the program are told, and its message only where that is the program's own. Fields beside the message
come from a fixed list. Control characters never get out as they are: nobody can forge a line.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from transom.errors import RequestError, TransomError

_MESSAGE_FIELDS = ("method", "route", "status")
"""Told by the message, too."""
FIELDS = (
    *_MESSAGE_FIELDS,
    "duration_seconds",
    "request_id",
    "answer_id",
    "sequence_id",
    "model",
    "tenant",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "queue_seconds",
    "ttft_seconds",
    "finish_reason",
    "error_code",
)
"""What a line may carry beside time, level, logger and message; given as `extra`."""

_MAX_CHAIN = 5
_MAX_FRAMES = 30
_MAX_LINE_CHARACTERS = 16_000
_LEVELS = frozenset({"debug", "info", "warning", "error", "critical"})
_ESCAPES = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
} | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}


class TextFormatter(logging.Formatter):
    """For people: time, level, logger, message, fields as name=value; an exception's places on their own lines."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and what belongs to it."""
        fields = "".join(f" {name}={_as_text(value)}" for name, value in _fields(record, but=_MESSAGE_FIELDS).items())
        line = f"{_time(record)} {record.levelname} {record.name}: {_message(record)}{fields}"
        exception = _exception(record)
        return line if exception is None else line + "".join(f"\n    {_escaped(part)}" for part in exception)


class JsonFormatter(logging.Formatter):
    """For programs: one object in one line of ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """The object as a line."""
        content: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_fields(record),
        }
        if (exception := _exception(record)) is not None:
            content["exception"] = exception
        return json.dumps(content)


def set_up_logging(level: str, *, as_json: bool, stream: TextIO | None = None) -> None:
    """Everything that is logged in this process, by whatever library, goes to `stream` (stderr) in one of the forms;
    exceptions that nobody caught as well."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught


def log_unhandled(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """For `loop.set_exception_handler`: asyncio's own would show the exception's text."""
    logging.getLogger("transom").error("%s", context.get("message"), exc_info=context.get("exception"))


def read_line(line: str) -> logging.LogRecord | None:
    """The record that another process has written with `JsonFormatter`; None for anything else."""
    try:
        content = json.loads(line)
    except ValueError:
        return None
    if not isinstance(content, dict) or not {"level", "logger", "message"} <= content.keys():
        return None
    if content["level"] not in _LEVELS:
        return None
    record = logging.makeLogRecord({name: content[name] for name in FIELDS if name in content})
    record.name, record.msg = str(content["logger"]), str(content["message"])
    record.levelname = content["level"].upper()
    record.levelno = logging.getLevelNamesMapping()[record.levelname]
    record.places = [str(part) for part in content.get("exception") or ()]
    return record


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("transom").critical("the program ends by an error", exc_info=(kind, error, trace))


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    return _escaped(record.getMessage().strip())


def _fields(record: logging.LogRecord, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """Those of the record that are known and have a value."""
    given = record.__dict__
    return {name: given[name] for name in FIELDS if given.get(name) is not None and name not in but}


def _exception(record: logging.LogRecord) -> list[str] | None:
    places: list[str] | None = getattr(record, "places", None)
    if places:
        return places
    error = record.exc_info[1] if record.exc_info else None
    return None if error is None else _described(error)


def _described(error: BaseException) -> list[str]:
    """Types and places, the first cause first."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and len(chain) < _MAX_CHAIN and following not in chain:
        chain.append(following)
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    lines: list[str] = []
    for each in reversed(chain):
        frames = traceback.extract_tb(each.__traceback__)[-_MAX_FRAMES:]
        lines += [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
        lines.append(_named(each))
    return lines


def _named(error: BaseException) -> str:
    """The type and, where nobody else has a word in it, the message."""
    name = type(error).__name__
    is_own = isinstance(error, TransomError) and not isinstance(error, RequestError)
    if isinstance(error, OSError):
        return f"{name}: {error.strerror or 'no reason given'}"
    return f"{name}: {error}" if is_own else name


def _as_text(value: object) -> str:
    text = _escaped(str(value))
    return json.dumps(text) if " " in text or '"' in text or not text else text


def _escaped(text: str) -> str:
    """Without control characters, and no longer than a line should be."""
    return text.translate(_ESCAPES)[:_MAX_LINE_CHARACTERS]
