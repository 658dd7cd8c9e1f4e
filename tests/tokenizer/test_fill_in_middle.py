"""Which tokens a model has for filling in the middle, in the spellings of the families, and how they are arranged."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken

from tests.tokenizer.small_tokenizers import byte_fallback_core, byte_level_core
from transom.tokenizer import FillInMiddle, Tokenizer, encode_inner
from transom.tokenizer.tokenizer_files import TokenizerSettings

SETTINGS = TokenizerSettings({}, (), None, None)


def tokenizer_with(*special: str, settings: TokenizerSettings = SETTINGS) -> Tokenizer:
    core = byte_level_core()
    core.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return Tokenizer(core, settings)


@pytest.mark.parametrize(
    "texts",
    [
        ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
        ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ],
)
def test_each_family_spells_the_three_tokens_in_its_own_way(texts: tuple[str, str, str]) -> None:
    tokenizer = tokenizer_with(*reversed(texts), "<|file_sep|>")
    fill = FillInMiddle.of(tokenizer)
    assert fill is not None
    assert (fill.prefix_id, fill.suffix_id, fill.middle_id) == tuple(map(tokenizer.token_to_id, texts))
    assert fill.end_ids == (tokenizer.token_to_id("<|file_sep|>"),)
    assert fill.arrange([1, 2], [3]) == [fill.prefix_id, 1, 2, fill.suffix_id, 3, fill.middle_id]


def test_two_of_three_are_none() -> None:
    assert FillInMiddle.of(tokenizer_with()) is None
    assert FillInMiddle.of(tokenizer_with("<fim_prefix>", "<fim_suffix>", "<|fim_middle|>")) is None


def test_what_a_file_names_comes_first() -> None:
    named = {"fim_prefix_token": "<a>", "fim_suffix_token": "<b>", "fim_middle_token": "<c>"}
    tokenizer = tokenizer_with("<a>", "<b>", "<c>", settings=TokenizerSettings(named, (), None, None))
    fill = FillInMiddle.of(tokenizer)
    assert fill is not None
    assert fill.prefix_id == tokenizer.token_to_id("<a>")


def test_a_text_in_the_middle_of_a_file_has_no_space_before_it() -> None:
    tokenizer = Tokenizer(byte_fallback_core(), SETTINGS)
    hello = tokenizer.token_to_id("hello")
    assert tokenizer.encode("hello", add_special_tokens=False) != [hello]
    assert encode_inner(tokenizer, "hello") == [hello]
    assert encode_inner(tokenizer, "") == []


@pytest.mark.parametrize("text", ["def f(x):\n    ", "\n\n  return", " x", ""])
def test_byte_level_texts_are_what_they_are_anywhere(text: str) -> None:
    tokenizer = tokenizer_with()
    assert encode_inner(tokenizer, text) == tokenizer.encode(text, add_special_tokens=False)
