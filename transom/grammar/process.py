"""Compiles grammars in a helper process (`transom.limited_process`): its script.

What a caller prescribes may take all the time and memory there is, and may even end the process that compiles it. Here
it is tried, with the model's own tokens; what comes through will come through in the worker, which has more room.

Setup: the `tokens` of the model, each byte a character, and `special_token_ids`. Questions: `kind`, `source` and
`preamble` of a `Structure`. Answers: `grammar`, in the language of `llguidance`, and `num_bytes`, what it takes when it
is compiled; or `error`.
"""

from __future__ import annotations

import ctypes
import json
import re
import time
from collections.abc import Callable
from typing import Any

from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from transom.grammar.structure import JSON_OPTIONS
from transom.grammar.vocabulary import Vocabulary, is_dead_end, is_only_end, make_matcher, make_tokenizer, reason_of

MAX_COMPILED_BYTES = 32 * 2**20
MAX_STEP_SECONDS = 0.01
"""CPU time for the allowed tokens of one step, in the mean of the tried ones."""

_NUM_TRIED_STEPS = 32


def make_answer() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What `transom.limited_process` serves."""
    tokenizer: LLTokenizer | None = None
    end_id = 0

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        nonlocal tokenizer, end_id
        if "tokens" in question:
            tokens = tuple(token.encode("latin-1") for token in question["tokens"])
            vocabulary = Vocabulary(tokens, tuple(question["special_token_ids"]))
            tokenizer, end_id = make_tokenizer(vocabulary), vocabulary.end_id
            return {}
        assert tokenizer is not None
        grammar = translate(question["kind"], question["source"])
        if question["preamble"]:
            grammar = behind(question["preamble"], grammar)
        before = _num_allocated_bytes()
        matcher = make_matcher(tokenizer, grammar)
        _try_first_step(matcher, end_id)
        num_bytes = max(0, _num_allocated_bytes() - before)
        if num_bytes > MAX_COMPILED_BYTES:
            raise ValueError("it takes too much memory when it is compiled")
        _try_some_steps(matcher, end_id)
        return {"grammar": grammar, "num_bytes": num_bytes}

    return answer


def translate(kind: str, source: str) -> str:
    """A structure in the language of `llguidance`; raises what its converters raise."""
    match kind:
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(source, overrides=JSON_OPTIONS)  # type: ignore[arg-type]
        case "regex":
            return LLMatcher.grammar_from_regex(source)
        case "choice":
            # One terminal, which is one item of the parser however many texts there are.
            return LLMatcher.grammar_from_lark(
                f"start: CHOICE\nCHOICE: {' | '.join(map(_literal, json.loads(source)))}"
            )
        case _:
            return LLMatcher.grammar_from_lark(_to_lark(source))


def behind(preamble: str, grammar: str) -> str:
    """`grammar` in the language of `llguidance`, with what comes before it."""
    answer = json.loads(grammar)["grammars"][0] if grammar.startswith("{") else {"lark_grammar": grammar}
    whole = {"lark_grammar": f"start: preamble @answer\n{preamble}"}
    return json.dumps({"grammars": [whole, {**answer, "name": "answer"}]})


def _to_lark(source: str) -> str:
    try:
        return any_to_lark(source)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        raise ValueError(f"it is neither Lark nor GBNF: {error}") from None


def _literal(text: str) -> str:
    """A text in Lark's quotes, which hold no control characters as they are."""
    return re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def _try_first_step(matcher: LLMatcher, end_id: int) -> None:
    """Raises ValueError when there is none to be made."""
    mask = matcher.compute_bitmask()
    if matcher.is_error():
        raise ValueError("no text that this model can write satisfies it")
    if is_only_end(mask, end_id):
        raise ValueError("it describes nothing but the empty text")


def _try_some_steps(matcher: LLMatcher, end_id: int) -> None:
    """Writes some text; raises ValueError when that takes so long that everybody would have to wait, or more than the
    limits of one step allow. That no token continues it is chance."""
    seconds = 0.0
    for step in range(_NUM_TRIED_STEPS):
        started = time.process_time()
        mask = matcher.compute_bitmask()
        seconds += time.process_time() - started
        if seconds > _NUM_TRIED_STEPS * MAX_STEP_SECONDS:
            raise ValueError("every token takes it too much time")
        allowed = [] if matcher.is_error() else _token_ids(mask, end_id)
        if not allowed or not matcher.consume_token(allowed[step * 7919 % len(allowed)]):
            break
    if matcher.is_error() and not is_dead_end(matcher.get_error()):
        raise ValueError(reason_of(matcher.get_error()))


def _token_ids(mask: bytes, end_id: int) -> list[int]:
    bits = bin(int.from_bytes(mask, "little"))[:1:-1]
    return [token_id for token_id, bit in enumerate(bits) if bit == "1" and token_id != end_id]


class _MallocInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def _num_allocated_bytes() -> int:
    """Of this process, by C's allocator, which `llguidance` uses; 0 where it does not tell."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return 0
    mallinfo2.restype = _MallocInfo
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)
