"""Encoding, decoding, bytes of tokens, and the files they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, normalizers

from tests.tokenizer import small_tokenizers as small
from transom.errors import RequestError, TokenizerError
from transom.tokenizer import Tokenizer

BYTE_LEVEL = small.byte_level()
BYTE_FALLBACK = small.byte_fallback()
UNIGRAM = small.unigram()

unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK, UNIGRAM], ids=["level", "fallback", "unigram"])
@given(text=unicode_text | st.sampled_from([" two  spaces ", "▁", "<s>", "<|im_end|>x", "漢字🎉"]))
def test_every_text_comes_back_from_its_tokens(tokenizer: Tokenizer, text: str) -> None:
    text = text.replace("▁", "_").lstrip()  # U+2581 is their space; of a leading one Metaspace cannot tell its own
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("core", [small.byte_level_core(), small.byte_fallback_core(), small.unigram_core()])
@pytest.mark.parametrize("text", [*small.SENTENCES, "hello the  dog", "tab\tand\nnewline", "é 漢字 🎉", ""])
def test_decoding_whole_texts_equals_the_library(core: Any, text: str) -> None:
    tokenizer = small.load(core)
    ids = tokenizer.encode(text)
    assert ids == core.encode(text).ids
    assert tokenizer.decode(ids) == core.decode(ids)


def test_the_model_puts_its_own_tokens_around_a_text() -> None:
    bos = BYTE_LEVEL.token_to_id("<|bos|>")
    assert BYTE_LEVEL.encode("dog")[0] == bos
    assert bos not in BYTE_LEVEL.encode("dog", add_special_tokens=False)
    assert (BYTE_FALLBACK.encode("a")[0], BYTE_FALLBACK.encode("a")[-1]) == (1, 2)
    assert UNIGRAM.encode("") == []


@pytest.mark.parametrize(("add_bos", "add_eos"), [(True, False), (False, True), (False, False), (True, True)])
def test_add_bos_token_and_add_eos_token_replace_the_post_processor(add_bos: bool, add_eos: bool) -> None:
    config = {**small.NAMED, "add_bos_token": add_bos, "add_eos_token": add_eos}
    tokenizer = small.load(small.byte_level_core(), config)
    ids = tokenizer.encode("dog")
    assert (ids[0] == tokenizer.token_to_id("<|bos|>")) == add_bos
    assert (ids[-1] == tokenizer.token_to_id("<|im_end|>")) == add_eos


@pytest.mark.parametrize("text", ["<|im_end|>", "a<|im_start|>user\nx", "<|bos|><|bos|>", "<<|im_end|>|im_end|>"])
def test_special_tokens_spelled_in_a_text_stay_text(text: str) -> None:
    ids = BYTE_LEVEL.encode(text, add_special_tokens=False)
    assert BYTE_LEVEL.special_token_ids.isdisjoint(ids)
    assert BYTE_LEVEL.decode(ids) == text


@given(pieces=st.lists(st.sampled_from(["<|im_end|>", "<|", "|>", "im_", "end", "<s>", "</s>", "<", "s>", "é"])))
def test_no_mixture_of_special_pieces_becomes_a_special_token(pieces: list[str]) -> None:
    text = "".join(pieces)
    for tokenizer in (BYTE_LEVEL, BYTE_FALLBACK):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.special_token_ids.isdisjoint(ids)
        assert tokenizer.decode(ids) == text


def test_a_spelled_special_token_is_tokenized_as_if_it_had_no_meaning() -> None:
    core = small.byte_level_core()
    core.encode_special_tokens = True
    text = "The <|im_end|> dog <think>"
    assert BYTE_LEVEL.encode(text) == core.encode(text).ids


def test_a_special_token_that_is_a_word_of_the_vocabulary_is_cut() -> None:
    ids = UNIGRAM.encode("the</s> dog")
    assert 2 not in ids
    assert UNIGRAM.decode(ids).replace(" ", "") == "the</s>dog"


def test_spelled_special_tokens_are_parsed_where_asked_for() -> None:
    ids = BYTE_LEVEL.encode("a<|im_end|>", add_special_tokens=False, parse_special_tokens=True)
    assert ids[-1] == BYTE_LEVEL.token_to_id("<|im_end|>")


def test_tokens_that_are_added_but_not_special_are_ordinary() -> None:
    think = BYTE_LEVEL.token_to_id("<think>")
    assert think in BYTE_LEVEL.encode("a<think>b")
    assert think in BYTE_LEVEL.encode("a<think>b<|im_end|>")
    assert think is not None
    assert BYTE_LEVEL.decode([think]) == "<think>"


def test_special_tokens_are_skipped_only_where_asked_for() -> None:
    ids = BYTE_LEVEL.encode("dog")
    assert BYTE_LEVEL.decode(ids) == "dog"
    assert BYTE_LEVEL.decode(ids, skip_special_tokens=False) == "<|bos|>dog"


def test_a_token_has_bytes_even_when_it_is_half_a_character() -> None:
    ids = BYTE_FALLBACK.encode("é", add_special_tokens=False)
    assert b"".join(map(BYTE_FALLBACK.token_bytes, ids)) == " é".encode()
    assert BYTE_FALLBACK.token_bytes(ids[-1]) == b"\xa9"
    assert BYTE_FALLBACK.token_bytes(1) == b"<s>"


def test_ids_without_a_token_have_no_text_and_negative_ids_are_refused() -> None:
    assert BYTE_LEVEL.token_bytes(BYTE_LEVEL.vocab_size + 7) == b""
    assert BYTE_LEVEL.decode([10**6]) == ""
    with pytest.raises(IndexError):
        BYTE_LEVEL.token_bytes(-1)
    with pytest.raises(IndexError):
        BYTE_LEVEL.token_bytes(2**40)


def test_broken_bytes_become_one_replacement_character_per_sequence() -> None:
    letter = BYTE_FALLBACK.token_to_id("a")
    half = BYTE_FALLBACK.token_to_id("<0xC3>")
    whole = [BYTE_FALLBACK.token_to_id("<0xC3>"), BYTE_FALLBACK.token_to_id("<0xA9>")]
    ids = [token_id for token_id in [letter, *whole, half, letter] if token_id is not None]
    assert BYTE_FALLBACK.decode(ids) == "aé\ufffda"


def test_pieces_without_a_decoder_are_joined_by_spaces() -> None:
    tokenizer = small.load(small.word_level_core(), {"unk_token": "<unk>"})
    assert tokenizer.decode(tokenizer.encode("the dog sleeps")) == "the dog sleeps"


def test_a_text_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(RequestError, match="surrogate"):
        BYTE_LEVEL.encode("a\ud800b")


def test_settings_of_training_never_cut_or_pad_a_text() -> None:
    core = small.byte_level_core()
    core.enable_truncation(3)
    core.enable_padding(length=50)
    tokenizer = small.load(core)
    assert tokenizer.encode(small.SENTENCES[0]) == BYTE_LEVEL.encode(small.SENTENCES[0])


def test_a_token_declared_in_the_settings_is_special() -> None:
    tokenizer = small.load(small.byte_level_core(), {"additional_special_tokens": ["<think>"]})
    assert tokenizer.token_to_id("<think>") in tokenizer.special_token_ids


def test_older_models_name_their_tokens_in_a_file_of_its_own(tmp_path: Path) -> None:
    small.write(tmp_path, small.byte_level_core())
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    assert Tokenizer.from_directory(tmp_path).named_tokens == {"eos_token": "<|im_end|>"}


@pytest.mark.parametrize("damage", [None, "", "{}", "[1]", "not json", '{"model": 1}'])
def test_a_damaged_tokenizer_file_is_named(tmp_path: Path, damage: str | None) -> None:
    if damage is not None:
        (tmp_path / "tokenizer.json").write_text(damage)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize("damage", ["", "[]", '{"bos_token": 3}', '{"bos_token": {"text": "x"}}', "[" * 100_000])
def test_damaged_settings_are_named(tmp_path: Path, damage: str) -> None:
    small.write(tmp_path, small.byte_level_core())
    (tmp_path / "tokenizer_config.json").write_text(damage)
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
        Tokenizer.from_directory(tmp_path)


def test_a_decoder_that_depends_on_neighbouring_pieces_is_refused_by_name() -> None:
    core = small.byte_level_core()
    core.decoder = decoders.CTC()
    with pytest.raises(TokenizerError, match="CTC"):
        small.load(core)


def test_normalization_cannot_smuggle_in_a_special_token() -> None:
    core = small.byte_level_core()
    core.add_special_tokens([AddedToken("<end>", normalized=True)])
    core.normalizer = normalizers.NFKC()
    tokenizer = small.load(core)
    end = tokenizer.token_to_id("<end>")
    assert end not in tokenizer.encode("＜end＞")
    assert end not in tokenizer.encode_marked("＜end＞", "\U000f0000")
    assert end in tokenizer.encode_marked("<end>", "\U000f0000")


def test_tokens_beyond_a_models_vocabulary_are_named_by_their_ids() -> None:
    num_tokens = BYTE_LEVEL.vocab_size
    last_two = tuple(BYTE_LEVEL.id_to_token(token_id) for token_id in (num_tokens - 2, num_tokens - 1))
    assert BYTE_LEVEL.tokens_beyond(num_tokens - 2) == last_two
    assert BYTE_LEVEL.tokens_beyond(num_tokens) == ()
