"""Lines of the log: what is in them, what can never be, and that nobody can forge one."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.errors import ConfigError, RequestError
from transom.log_lines import FIELDS, JsonFormatter, TextFormatter, log_unhandled, read_line, set_up_logging

CANARY = "canary-5e11"
FORMATTERS = (TextFormatter(), JsonFormatter())


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where everything is logged, as JSON; afterwards all is as it was."""
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    for handler in handlers:
        root.removeHandler(handler)
    set_up_logging("debug", as_json=True, stream=stream)
    yield stream
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook = hook


def a_record(message: str, error: BaseException | None = None, **fields: object) -> logging.LogRecord:
    record = logging.makeLogRecord({"name": "transom.x", "levelno": logging.INFO, "levelname": "INFO", **fields})
    record.msg = message
    if error is not None:
        record.exc_info = (type(error), error, error.__traceback__)
    return record


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:  # noqa: BLE001 - whatever it is
        return caught


def test_a_line_for_programs_is_one_object_with_known_fields_alone() -> None:
    line = JsonFormatter().format(a_record("hello", model="tiny", status=200, prompt=CANARY, tenant=None))
    content = json.loads(line)
    assert content.pop("time").endswith("Z")
    assert content == {"level": "info", "logger": "transom.x", "message": "hello", "model": "tiny", "status": 200}


def test_a_line_for_people_names_the_fields() -> None:
    line = TextFormatter().format(a_record("POST /x 200", model="my model", status=200, ttft_seconds=0.5))
    assert line.endswith(' INFO transom.x: POST /x 200 model="my model" ttft_seconds=0.5')


@given(st.text(max_size=50), st.text(max_size=50))
def test_nobody_can_forge_a_line(message: str, value: str) -> None:
    for formatter in FORMATTERS:
        line = formatter.format(a_record(message, model=value))
        assert len(line.splitlines()) == 1
        assert line.isprintable() or not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in line)


@pytest.mark.parametrize("formatter", FORMATTERS, ids=("text", "json"))
@pytest.mark.parametrize(
    "error",
    [
        ValueError(f"bad text: {CANARY}"),
        KeyError(CANARY),
        RequestError(f"The value {CANARY} is wrong."),
        UnicodeEncodeError("utf-8", CANARY, 0, 3, "reason"),
        ExceptionGroup(CANARY, [ValueError(CANARY)]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_an_exception_quotes_is_withheld_and_its_place_is_told(
    formatter: logging.Formatter, error: Exception
) -> None:
    outer = raised(RuntimeError(CANARY), cause=raised(error))
    line = formatter.format(a_record("failed", outer))
    assert CANARY not in line
    assert type(error).__name__ in line
    assert "RuntimeError" in line
    assert "test_log_lines.py" in line
    assert "in raised" in line


def test_messages_that_are_the_programs_own_are_shown() -> None:
    for error in (raised(ConfigError("the weights are missing")), raised(OSError(28, "the disk is full"))):
        assert str(error.args[-1]) in TextFormatter().format(a_record("failed", error))


def test_a_line_of_another_process_comes_back_as_it_was() -> None:
    record = a_record("failed", raised(ValueError(CANARY)), sequence_id="cmpl-1-0-0")
    again = read_line(JsonFormatter().format(record))
    assert again is not None
    assert (again.name, again.levelno, again.getMessage()) == ("transom.x", logging.INFO, "failed")
    line = json.loads(JsonFormatter().format(again))
    assert line["sequence_id"] == "cmpl-1-0-0"
    assert line["exception"][-1] == "ValueError"


@given(
    st.text()
    | st.builds(json.dumps, st.dictionaries(st.sampled_from(["level", "logger", "message", *FIELDS]), st.text()))
)
def test_whatever_another_process_writes_is_a_record_or_nothing(line: str) -> None:
    record = read_line(line)
    if record is not None:
        JsonFormatter().format(record)


def test_a_percent_sign_in_a_line_of_another_process_is_text() -> None:
    record = read_line(json.dumps({"level": "info", "logger": "x", "message": "100%s done %d"}))
    assert record is not None
    assert json.loads(JsonFormatter().format(record))["message"] == "100%s done %d"


async def test_what_no_task_catches_is_logged_without_its_text(stream: io.StringIO) -> None:
    async def fail() -> None:
        raise ValueError(CANARY)

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_unhandled)
    task: asyncio.Task[None] | None = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines if "exception" in line] == ["Task exception was never retrieved"]
    assert CANARY not in stream.getvalue()


def test_foreign_libraries_log_in_the_same_form(stream: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=raised(ValueError(CANARY)))
    [line] = [json.loads(each) for each in stream.getvalue().splitlines()]
    assert (line["logger"], line["level"], line["message"]) == (
        "uvicorn.error", "error", "Exception in ASGI application"
    )  # fmt: skip
    assert CANARY not in stream.getvalue()


def test_an_error_that_ends_the_program_is_a_line_too() -> None:
    script = f"""
from transom.log_lines import set_up_logging
set_up_logging("warning", as_json=True)
raise ValueError("{CANARY}")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    [line] = [json.loads(each) for each in done.stderr.splitlines()]
    assert line["level"] == "critical"
    assert line["exception"][-1] == "ValueError"
