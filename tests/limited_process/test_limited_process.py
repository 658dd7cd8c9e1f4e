"""A helper process under limits: what breaks them ends it, and the next question is answered by another."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from transom.limited_process import LimitedProcess, Limits

SCRIPT = """
import sys

def make_answer():
    words = []

    def answer(question):
        match question:
            case {"setup": word}:
                if word == "bad":
                    raise ValueError("no such setup")
                words.append(word)
                return {}
            case {"burn": _}:
                while True:
                    pass
            case {"allocate": megabytes}:
                return {"size": len(bytes(megabytes * 2**20))}
            case {"descend": levels}:
                sys.setrecursionlimit(10**9)
                nest = lambda levels: [nest(levels - 1)] if levels else []
                return {"depth": len(sorted([nest(levels)], key=lambda _: 0))}
            case {"fail": text}:
                raise ValueError(text)
        return {"words": words, "echo": question}

    return answer
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[LimitedProcess]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = LimitedProcess(script, Limits(cpu_seconds=0.3, memory_bytes=256 * 2**20, stack_bytes=2 * 2**20))
    yield process
    process.close()


def ask(process: LimitedProcess, question: object, **setup: object) -> dict[str, object] | None:
    return process.ask(json.dumps(question), setup=setup or None)


def test_questions_are_answered_by_one_process_that_starts_with_the_first(process: LimitedProcess) -> None:
    assert not process.is_alive
    assert ask(process, {"q": "ü\n"}, setup="a") == {"words": ["a"], "echo": {"q": "ü\n"}}
    first = process.process_id
    assert ask(process, {"q": 2}, setup="b") == {"words": ["a"], "echo": {"q": 2}}  # set up once
    assert process.process_id == first


def test_what_an_answer_raises_is_an_error_and_nothing_more(process: LimitedProcess) -> None:
    assert ask(process, {"fail": "on purpose"}, setup="a") == {"error": "on purpose"}
    assert ask(process, {"q": 1}) == {"words": ["a"], "echo": {"q": 1}}


@pytest.mark.parametrize("question", [{"burn": True}, {"descend": 10**6}])
def test_what_breaks_a_limit_ends_the_process_and_the_next_one_is_set_up_again(
    process: LimitedProcess, question: dict[str, object]
) -> None:
    assert ask(process, {"q": 1}, setup="a") is not None
    assert ask(process, question, setup="a") is None
    assert not process.is_alive
    assert ask(process, {"q": 1}, setup="b") == {"words": ["b"], "echo": {"q": 1}}


def test_memory_is_limited(process: LimitedProcess) -> None:
    assert ask(process, {"allocate": 64}) == {"size": 64 * 2**20}
    assert ask(process, {"allocate": 512}) == {"error": "MemoryError"}


def test_a_process_that_was_killed_by_others_is_replaced_and_nobody_notices(process: LimitedProcess) -> None:
    assert ask(process, {"q": 1}) is not None
    process_id = process.process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGKILL)
    os.waitid(os.P_PID, process_id, os.WEXITED | os.WNOWAIT)
    assert ask(process, {"q": 2}) == {"words": [], "echo": {"q": 2}}


def test_a_setup_that_fails_is_the_programs_own_fault(process: LimitedProcess) -> None:
    with pytest.raises(RuntimeError, match="no such setup"):
        ask(process, {"q": 1}, setup="bad")
    assert not process.is_alive
    assert ask(process, {"q": 1}, setup="good") is not None


def test_closing_ends_the_process(process: LimitedProcess) -> None:
    ask(process, {"q": 1})
    process.close()
    process.close()
    assert process.process_id is None
