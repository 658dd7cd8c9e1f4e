"""The helper process's side: run by path, with a script that it serves. Imports nothing of this project.

    child.py MEMORY_BYTES STACK_BYTES SCRIPT

The script defines `make_answer()`, called once, which returns the function from a question to its answer, both
dictionaries of JSON values. Whatever it raises becomes the answer `{"error": text}`, unless the script catches it.

Frames on standard input: 4 bytes of length, big-endian, the CPU seconds that the answer may take as a float of 8 bytes,
then JSON. Frames on standard output: the length, then JSON.
"""

from __future__ import annotations

import json
import resource
import runpy
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

REQUEST_HEADER = struct.Struct(">Id")
ANSWER_HEADER = struct.Struct(">I")

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def serve(questions: BinaryIO, answers: BinaryIO, answer: Answer) -> None:
    """Answers frames until the questions end."""
    while frame := _read_frame(questions):
        question, cpu_seconds = frame
        try:
            with _limited_cpu_time(cpu_seconds):
                result = answer(question)
        except Exception as error:  # noqa: BLE001 - whatever happens over a question is the question's fault
            result = {"error": str(error)[:500] or type(error).__name__}
        _write_frame(answers, result)


@contextmanager
def _limited_cpu_time(seconds: float) -> Iterator[None]:
    """SIGPROF, not caught, ends the process."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _read_frame(stream: BinaryIO) -> tuple[dict[str, Any], float] | None:
    header = stream.read(REQUEST_HEADER.size)
    if len(header) < REQUEST_HEADER.size:
        return None
    length, cpu_seconds = REQUEST_HEADER.unpack(header)
    return json.loads(stream.read(length)), cpu_seconds


def _write_frame(stream: BinaryIO, answer: dict[str, Any]) -> None:
    body = json.dumps(answer).encode()
    stream.write(ANSWER_HEADER.pack(len(body)) + body)
    stream.flush()


def _limit(kind: int, num_bytes: int) -> None:
    resource.setrlimit(kind, (num_bytes, num_bytes))


if __name__ == "__main__":
    _limit(resource.RLIMIT_AS, int(sys.argv[1]))
    _limit(resource.RLIMIT_STACK, int(sys.argv[2]))
    _limit(resource.RLIMIT_CORE, 0)
    serve(sys.stdin.buffer, sys.stdout.buffer, runpy.run_path(sys.argv[3])["make_answer"]())
