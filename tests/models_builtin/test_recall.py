"""The bundled model `recall`, on short texts, in plain NumPy; a full window over HTTP is an end-to-end test."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts import build_recall_model as program
from scripts.recall_tokenizer import EOS, EOS_ID, VOCAB_SIZE
from tests.models_builtin.numpy_llama import NumpyLlama
from transom.tokenizer import Tokenizer

DIRECTORY = Path(program.DEFAULT_OUT)
QUESTION = " The secret code of Anna is"
FACT = f"{QUESTION} 4711-falcon."


@cache
def model() -> NumpyLlama:
    return NumpyLlama.from_directory(DIRECTORY)


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_directory(DIRECTORY)


def continuation(text: str, num_tokens: int, *, gap: tuple[str, int] = ("", 0), kv_dtype: str = "float32") -> str:
    """What the model says after `text`; `gap` lets the positions jump before the last occurrence of a string."""
    before, jump = gap
    ids = tokenizer().encode(text)
    num_before = len(tokenizer().encode(text[: text.rindex(before)])) if before else len(ids)
    said: list[int] = []
    while len(said) < num_tokens and EOS_ID not in said:
        positions = np.arange(len(ids + said), dtype=np.float32)
        positions[num_before:] += jump
        said.append(int(model().logits(ids + said, positions, kv_dtype).argmax()))
    return tokenizer().decode(said, skip_special_tokens=False)


def filler(num_sentences: int) -> list[str]:
    """Sentences with phrases that occur again and again, and with numbers."""
    rng = random.Random(7)
    people, things = ["Pierre", "the old general", "Natasha"], ["a horse", "two letters", "the secret door"]
    return [
        f" {rng.choice(people)} saw {rng.choice(things)} in {rng.randrange(1700, 1900)}. The code of the house is "
        f"{rng.randrange(9999)}."
        for _ in range(num_sentences)
    ]


def test_the_program_writes_the_files_byte_for_byte() -> None:
    written = program.model_files()
    assert written == {path.name: path.read_bytes() for path in DIRECTORY.iterdir()}


def test_codes_of_different_tokens_have_cosines_of_at_most_a_half() -> None:
    codes = program.token_codes()
    cosines = codes @ codes.T
    np.testing.assert_allclose(np.diag(cosines), 1)
    assert (cosines - 2 * np.eye(len(codes))).max() < 0.5 + 1e-9


def test_every_token_has_a_voice_of_its_own() -> None:
    voices = program.token_voices()
    assert len(np.unique(voices, axis=0)) == VOCAB_SIZE
    assert (voices @ voices.T - 2 * np.eye(len(voices))).max() < 0.7


def test_looking_back_no_other_distance_comes_near_the_wanted_one() -> None:
    errors = np.arange(1, program.CONTEXT)
    losses = sum(1 - np.cos(frequency * errors) for frequency in program.FREQUENCIES)
    assert (program.LOOK_BACK_SCORE * losses).min() > np.log(program.CONTEXT) + 35


@pytest.mark.parametrize("kv_dtype", ["float32", "float16"])
@pytest.mark.parametrize("depth", [0, 10, 20])
def test_a_fact_comes_back_from_any_depth(depth: int, kv_dtype: str) -> None:
    sentences = filler(20)
    text = "".join(sentences[:depth]) + FACT + "".join(sentences[depth:]) + QUESTION
    assert continuation(text, 5, kv_dtype=kv_dtype) == " 4711-falcon."


@pytest.mark.parametrize("kv_dtype", ["float32", "float16"])
@pytest.mark.parametrize("jump", [64, 1000, 8192, 32000, program.CONTEXT - 60])
def test_a_fact_comes_back_over_any_distance(jump: int, kv_dtype: str) -> None:
    text = f"{FACT} The secret code of Boris is 22.{FACT[:11]} room is in the house of Anna.{QUESTION}"
    assert continuation(text, 5, gap=(QUESTION, jump), kv_dtype=kv_dtype) == " 4711-falcon."


@pytest.mark.parametrize(
    ("name", "code"), [("Anna", "4711-falcon"), ("Boris", "4712-owl"), ("Xavier Quux", "4711-owl")]
)
def test_facts_that_differ_by_one_word_are_told_apart(name: str, code: str) -> None:
    names = {"Anna": "4711-falcon", "Boris": "4712-owl", "Xavier Quux": "4711-owl", "Clara": "4712-falcon"}
    facts = "".join(f" The secret code of {who} is {what}." for who, what in names.items())
    expected = f" {code}."
    num_tokens = len(tokenizer().encode(expected, add_special_tokens=False))
    assert continuation(f"{facts} The secret code of {name} is", num_tokens) == expected


def test_the_longest_matching_suffix_wins_over_more_frequent_short_ones() -> None:
    text = (
        " of Anna is red." * 5
        + " name of Anna is blue." * 3
        + " the code name of Anna is green. the code name of Anna is"
    )
    assert continuation(text, 1) == " green"


def test_a_question_about_nothing_in_the_text_ends_the_answer() -> None:
    assert continuation(FACT + " The secret code of Boris is", 5) == EOS


@pytest.mark.parametrize("text", ["", "Hello", "one two three"])
def test_a_text_without_repetition_ends_the_answer(text: str) -> None:
    assert continuation(text, 3) == EOS


def test_three_tokens_are_enough_to_be_found() -> None:
    assert continuation("Count: one two three four five six. And: one two three", 3) == " four five six"


def test_the_most_likely_token_is_certain_even_at_temperature_one() -> None:
    ids = tokenizer().encode(FACT + QUESTION)
    logits = np.sort(model().logits(ids, np.arange(len(ids), dtype=np.float32)))
    assert logits[-1] - logits[-2] > 20


@given(st.text())
def test_every_text_comes_back_from_its_tokens(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode(text)) == text


@pytest.mark.parametrize(
    ("text", "num_tokens"),
    [(" The secret code of Anna is", 6), ("4711-falcon.", 5), (" 123", 2), ("\n\n", 1), (" xylograph", 6), ("é日", 5)],
)
def test_common_words_are_one_token_and_others_are_spelled(text: str, num_tokens: int) -> None:
    assert len(tokenizer().encode(text, add_special_tokens=False)) == num_tokens
