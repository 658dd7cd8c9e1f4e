"""Text from tokens, one at a time."""

from __future__ import annotations

from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizer import small_tokenizers as small
from transom.tokenizer import Detokenizer, Tokenizer

TOKENIZERS = [small.byte_level(), small.byte_fallback(), small.unigram()]
NAMES = ["level", "fallback", "unigram"]


def _stream(tokenizer: Tokenizer, ids: list[int], prompt: list[int], *, skip: bool) -> list[str]:
    detokenizer = Detokenizer(tokenizer, prompt, skip_special_tokens=skip)
    return [*map(detokenizer.feed, ids), detokenizer.flush()]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=NAMES)
@given(data=st.data(), skip=st.booleans())
def test_deltas_of_any_tokens_join_to_the_decoded_text(tokenizer: Tokenizer, data: st.DataObject, skip: bool) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=60))
    deltas = _stream(tokenizer, ids, [], skip=skip)
    assert "".join(deltas) == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=NAMES)
@given(data=st.data())
def test_after_a_prompt_the_deltas_are_what_its_text_grows_by(tokenizer: Tokenizer, data: st.DataObject) -> None:
    prompt = tokenizer.encode(data.draw(st.text(max_size=20)), add_special_tokens=False)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    deltas = _stream(tokenizer, ids, prompt, skip=True)
    assert tokenizer.decode(prompt) + "".join(deltas) == tokenizer.decode(prompt + ids)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=NAMES)
@given(text=st.text(st.sampled_from("aé漢🎉 👩‍👧"), max_size=20))
def test_no_delta_holds_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    text = text.lstrip()  # of a leading space, Metaspace cannot tell its own
    ids = tokenizer.encode(text, add_special_tokens=False)
    deltas = _stream(tokenizer, ids, [], skip=True)
    assert "\ufffd" not in "".join(deltas)
    assert "".join(deltas) == text


def test_a_character_begun_by_the_prompt_is_finished() -> None:
    tokenizer = TOKENIZERS[0]
    ids = tokenizer.encode("🎉é", add_special_tokens=False)
    prompt, rest = ids[:2], ids[2:]
    assert "\ufffd" not in "".join(_stream(tokenizer, rest, prompt, skip=True))


def test_the_leading_space_stays_after_a_prompt_and_goes_at_the_start() -> None:
    tokenizer = TOKENIZERS[1]
    ids = [token_id for token_id in [tokenizer.token_to_id("▁the")] if token_id is not None]
    assert _stream(tokenizer, ids, [], skip=True)[0] == "the"
    assert _stream(tokenizer, ids, [1], skip=True)[0] == "the"  # a beginning-of-sequence token alone is no text
    assert _stream(tokenizer, ids, ids, skip=True)[0] == " the"


def test_an_unfinished_character_comes_out_as_one_replacement_at_the_end() -> None:
    tokenizer = TOKENIZERS[1]
    ids = tokenizer.encode("🎉", add_special_tokens=False)[1:-2]
    assert _stream(tokenizer, ids, [], skip=True) == ["", "", "\ufffd"]


def test_a_token_costs_the_same_after_many_others() -> None:
    tokenizer = TOKENIZERS[1]
    endless = [3 + 0x80] * 40_000  # continuation bytes that never make a character
    detokenizer = Detokenizer(tokenizer, endless)
    start = perf_counter()
    for token_id in endless:
        detokenizer.feed(token_id)
    assert perf_counter() - start < 5


def test_of_the_special_tokens_some_may_be_shown() -> None:
    tokenizer = small.byte_level()
    ids = [*tokenizer.special_token_ids]
    detokenizer = Detokenizer(tokenizer, [], shown_tokens=("<|im_end|>", "no such token"))
    assert "".join([*map(detokenizer.feed, ids), detokenizer.flush()]) == "<|im_end|>"
