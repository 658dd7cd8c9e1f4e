"""A grammar over one text: what may come, when it is complete, and that its state is a function of the tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest
from llguidance import LLMatcher

from tests.grammar.small_vocabulary import TOKENIZER, TOKENS, matcher_of, write
from transom.grammar.matcher import GrammarStuckError, Matcher
from transom.grammar.vocabulary import Vocabulary, make_matcher, make_tokenizer, reason_of

REGEX = LLMatcher.grammar_from_regex


def ids(text: bytes) -> list[int]:
    return list(text)


def allowed_bytes(matcher: Matcher) -> set[bytes]:
    return {TOKENS[token_id] for token_id in np.flatnonzero(matcher.allowed().tokens)}


def test_tokens_of_one_and_of_many_bytes_are_allowed_by_their_bytes() -> None:
    matcher = matcher_of(REGEX("ab?c?[d-f]"))
    assert allowed_bytes(matcher) == {b"a", b"abc"}
    assert not matcher.take(ids(b"a")[0])
    assert allowed_bytes(matcher) == {b"b", b"c", b"d", b"e", b"f"}


def test_a_text_that_may_end_or_go_on_is_not_complete() -> None:
    matcher = matcher_of(REGEX("1+"))
    assert not matcher.allowed().end
    for _ in range(3):
        assert not matcher.take(ord("1"))
        assert matcher.allowed().end
        assert not matcher.allowed().only_end


def test_a_text_that_nothing_may_follow_is_complete_with_its_last_token() -> None:
    matcher = matcher_of(REGEX("ab"))
    assert [matcher.take(token_id) for token_id in ids(b"ab")] == [False, True]
    assert matcher.allowed().only_end


def test_special_tokens_are_no_text_but_have_a_name_in_a_grammar() -> None:
    anything = matcher_of(REGEX("(?s:.)*"))
    assert b"<|call|>" not in allowed_bytes(anything)
    assert b"" not in allowed_bytes(anything)
    named = matcher_of('start: <|call|> "x"')
    assert allowed_bytes(named) == {b"<|call|>"}
    assert not named.take(TOKENS.index(b"<|call|>"))
    assert named.take(ord("x"))


def test_the_state_is_a_function_of_the_tokens() -> None:
    grammar = LLMatcher.grammar_from_json_schema('{"type": "object"}')
    compiled = make_matcher(TOKENIZER, grammar)
    first = Matcher(compiled, len(TOKENS))
    generated = np.array(ids(b'{"abc": [1, tru'), np.int32)
    for token_id in generated:
        first.take(int(token_id))
    second = Matcher(compiled, len(TOKENS))
    second.catch_up(generated[:4])
    second.catch_up(generated)
    second.catch_up(generated)
    assert (first.allowed().tokens == second.allowed().tokens).all()
    assert allowed_bytes(Matcher(compiled, len(TOKENS))) == {b"{", b'{"'}


def test_random_texts_of_a_grammar_are_of_its_form() -> None:
    grammar = LLMatcher.grammar_from_json_schema(
        {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 4}
    )
    for seed in range(30):
        text, is_complete = write(matcher_of(grammar), seed, max_tokens=5000)
        assert is_complete
        value = json.loads(text)
        assert isinstance(value, list)
        assert all(len(item) <= 5 for item in value)


def test_a_token_that_is_not_allowed_is_an_error() -> None:
    matcher = matcher_of(REGEX("ab"))
    with pytest.raises(GrammarStuckError):
        matcher.take(ord("x"))
    with pytest.raises(GrammarStuckError):
        matcher.allowed()


def test_a_text_that_no_token_continues_is_an_error_not_an_end() -> None:
    tokenizer = make_tokenizer(Vocabulary((b"a", b"b"), ()))
    matcher = Matcher(make_matcher(tokenizer, REGEX("abc")), 2)
    assert not matcher.take(0)
    with pytest.raises(GrammarStuckError, match="no token of this model"):
        matcher.take(1)
        matcher.allowed()


def test_forced_text_is_cut_as_the_tokenizer_cuts_it() -> None:
    vocabulary = Vocabulary((b"a", b"b", b"ab", b"aba"), ())
    greedy = Matcher(make_matcher(make_tokenizer(vocabulary), REGEX("abab")), 4)
    assert np.flatnonzero(greedy.allowed().tokens).tolist() == [3]
    own = Matcher(make_matcher(make_tokenizer(vocabulary, lambda text: [2] * (len(text) // 2)), REGEX("abab")), 4)
    assert np.flatnonzero(own.allowed().tokens).tolist() == [2]


def test_a_tokenizer_that_puts_a_space_before_a_text_does_not_put_it_into_a_grammar() -> None:
    tokens = (b" ", b"a", b"b", b"ab", b"\x02")

    def encode(text: str) -> list[int]:
        return [0, *([4, 3] if text == "\x02ab" else [3])]

    matcher = Matcher(make_matcher(make_tokenizer(Vocabulary(tokens, ()), encode), REGEX("ab")), 5)
    assert np.flatnonzero(matcher.allowed().tokens).tolist() == [3]


def test_messages_become_one_line() -> None:
    message = "at 1(8): invalid regex:\n  (a\n  ^\nerror: unclosed group\n 1 | start: /(a/\n"
    assert reason_of(message) == "at 1(8): invalid regex: unclosed group"
    assert reason_of("") == "it cannot be compiled"
    assert len(reason_of("x" * 1000)) == 300
