"""Tokenizers from GGUF metadata: expected ids, oracles, special tokens, hostile metadata, time for long texts."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from tests.tokenizer import gguf_vocabularies as vocabularies
from tests.tokenizer import real_world_templates as real
from tests.tokenizer import small_tokenizers as small
from tests.tokenizer.sentencepiece_rule import merge_by_score
from transom.errors import TokenizerError
from transom.tokenizer import ChatTemplate, Detokenizer, Tokenizer
from transom.tokenizer.gguf_vocabulary import TokenType
from transom.weights.gguf import open_gguf

SENTENCEPIECE = Tokenizer.from_gguf(vocabularies.sentencepiece())
BYTE_LEVEL = Tokenizer.from_gguf(vocabularies.byte_level())

unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.mark.parametrize("name", ["llama-spm", "phi-3", "gpt-2", "deepseek-coder", "starcoder"])
def test_real_vocabularies_give_the_expected_ids(name: str) -> None:
    path = vocabularies.REAL / f"{name}.gguf"
    if not path.exists():
        pytest.skip("no real vocabularies here")
    tokenizer = Tokenizer.from_gguf(open_gguf(path).metadata)
    texts = (
        Path(f"{path}.inp")
        .read_text(encoding="utf-8")
        .removesuffix(vocabularies.SEPARATOR)
        .split(vocabularies.SEPARATOR)
    )
    expected = Path(f"{path}.out").read_text(encoding="utf-8").splitlines()
    assert len(texts) == len(expected) > 40
    for text, line in zip(texts, expected, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == [int(token_id) for token_id in line.split()], text
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("the hello", ["▁the", "▁", "hello"]),
        ("the", ["▁the"]),
        (" the", ["▁", "▁the"]),
        ("   the", ["▁▁▁", "▁the"]),
        ("aaaaa", ["▁a", "aaaa"]),
        ("é", ["▁", "<0xC3>", "<0xA9>"]),
        ("<tool>a", ["<tool>", "▁a"]),
        ("<0x41>", ["▁", "<", "0", "x", "4", "1", ">"]),
        ("", []),
    ],
)
def test_a_small_sentencepiece_vocabulary_gives_known_pieces(text: str, pieces: list[str]) -> None:
    ids = SENTENCEPIECE.encode(text, add_special_tokens=False)
    assert [SENTENCEPIECE.id_to_token(token_id) for token_id in ids] == pieces


@given(text=st.text(st.sampled_from("ab "), max_size=40), words=st.lists(st.text("ab▁", min_size=2, max_size=6)))
def test_merging_is_that_of_the_rule_itself(text: str, words: list[str]) -> None:
    plain = list(dict.fromkeys([*"ab▁", *(word[:end] for word in words for end in range(2, len(word) + 1))]))
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *plain]
    scores = [0.0] * 257 + [-float(index) for index in range(len(plain))]
    metadata = vocabularies.sentencepiece(
        tokens=tokens,
        scores=scores,
        token_type=[2] + [6] * 256 + [1] * len(plain),
        add_space_prefix=False,
        add_bos_token=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    ids = Tokenizer.from_gguf(metadata).encode(text)
    assert [tokens[token_id] for token_id in ids] == merge_by_score(
        text.replace(" ", "▁"), dict(zip(tokens, scores, strict=True))
    )


@pytest.mark.parametrize("text", [*small.SENTENCES, "a  b\n\n c", "<think>x</think>", "I've 12345 it's", ""])
def test_a_trained_byte_level_tokenizer_gives_the_same_ids_by_way_of_gguf(text: str) -> None:
    theirs = small.load(small.byte_level_core(), small.NAMED)
    assert BYTE_LEVEL.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)


@given(text=unicode_text | st.sampled_from([" two  spaces ", "<|im_end|>x", "<think>", "漢字🎉", "õé"]))
def test_every_text_comes_back_from_byte_level_tokens(text: str) -> None:
    ids = BYTE_LEVEL.encode(text, add_special_tokens=False)
    assert BYTE_LEVEL.decode(ids, skip_special_tokens=False) == text
    detokenizer = Detokenizer(BYTE_LEVEL)
    assert "".join([*map(detokenizer.feed, ids), detokenizer.flush()]) == text


@given(text=unicode_text | st.sampled_from([" two  spaces ", "<s>", "</s>x", "漢字🎉", "<0x41>"]))
def test_every_text_comes_back_from_sentencepiece_tokens(text: str) -> None:
    text = text.replace("▁", "_")  # U+2581 is their space
    assert SENTENCEPIECE.decode(SENTENCEPIECE.encode(text, add_special_tokens=False)) == text


def test_control_tokens_are_parsed_only_where_meant_and_user_defined_ones_always() -> None:
    text = "<|user|><tool>"
    tool, user = SENTENCEPIECE.token_to_id("<tool>"), SENTENCEPIECE.token_to_id("<|user|>")
    assert SENTENCEPIECE.encode(text, add_special_tokens=False, parse_special_tokens=True) == [user, tool]
    plain = SENTENCEPIECE.encode(text, add_special_tokens=False)
    assert user not in plain
    assert plain[-1] == tool
    assert user in SENTENCEPIECE.special_token_ids
    assert tool not in SENTENCEPIECE.special_token_ids


def test_a_token_that_is_unknown_and_end_at_once_is_not_made_of_text() -> None:
    metadata = vocabularies.byte_level()
    metadata["tokenizer.ggml.unknown_token_id"] = metadata["tokenizer.ggml.eos_token_id"]
    tokenizer = Tokenizer.from_gguf(metadata)
    assert tokenizer.token_to_id("<|im_end|>") not in tokenizer.encode("a<|im_end|>")


def test_user_defined_tokens_stand_for_themselves_even_in_letters_of_the_byte_alphabet() -> None:
    metadata = vocabularies.byte_level()
    tokens = metadata["tokenizer.ggml.tokens"]
    metadata["tokenizer.ggml.token_type"][tokens.index("õ")] = 4
    tokenizer = Tokenizer.from_gguf(metadata)
    assert tokenizer.decode(tokenizer.encode("aõb", add_special_tokens=False)) == "aõb"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gpt-2", "Hi  I've 1234", ["Hi", " ", " I", "'ve", " 1234"]),
        ("starcoder", "a 1234", ["a", " ", "1", "2", "3", "4"]),
        ("llama-bpe", "It'S 12345!\n\n x", ["It", "'S", " ", "123", "45", "!\n\n", " x"]),
        ("qwen2", "It'S 123 x", ["It", "'S", " ", "1", "2", "3", " x"]),
        ("deepseek-v3", "a12345漢字b", ["a", "123", "45", "漢字", "b"]),
        ("deepseek-coder", "ab 12\n(", ["ab", " ", "1", "2", "\n", "("]),
        ("deepseek-llm", "ab 123  ", ["ab", " ", "123", "  "]),
        ("falcon", "a+=12345", ["a", "+=", "123", "45"]),
        ("tekken", "HelloWorld's 12", ["Hello", "World", "'s", " ", "1", "2"]),
        ("gpt-4o", "HelloWorld's 1234", ["Hello", "World's", " ", "123", "4"]),
    ],
)
def test_each_pre_tokenizer_cuts_words_as_its_models_do(name: str, text: str, words: list[str]) -> None:
    """With words that are whole tokens wherever they are cut, and merges that would join anything."""
    assert _words(name, text) == words


def test_words_in_the_vocabulary_are_taken_whole_where_merges_are_ignored() -> None:
    tokens = [*pre_tokenizers.ByteLevel.alphabet(), "hello"]
    shape = {"tokens": sorted(tokens), "merges": [], "token_type": None, "bos_token_id": None, "eos_token_id": None}
    assert len(Tokenizer.from_gguf(vocabularies.byte_level(pre="llama-bpe", **shape)).encode("hello")) == 1
    assert len(Tokenizer.from_gguf(vocabularies.byte_level(pre="qwen2", **shape)).encode("hello")) == 5


def test_the_beginning_is_put_before_a_text_as_the_file_or_its_family_says() -> None:
    bos, eos = BYTE_LEVEL.token_to_id("<|bos|>"), BYTE_LEVEL.token_to_id("<|im_end|>")
    assert SENTENCEPIECE.encode("a")[0] == 1
    assert BYTE_LEVEL.encode("dog")[0] != bos
    assert Tokenizer.from_gguf(vocabularies.byte_level(pre="llama-bpe")).encode("dog")[0] == bos
    both = Tokenizer.from_gguf(vocabularies.byte_level(add_bos_token=True, add_eos_token=True)).encode("dog")
    assert (both[0], both[-1]) == (bos, eos)
    without = Tokenizer.from_gguf(vocabularies.sentencepiece(add_bos_token=False))
    assert without.encode("") == []


def test_tokens_that_end_a_turn_are_known_by_the_file_or_by_their_text() -> None:
    ids = BYTE_LEVEL.token_to_id
    assert BYTE_LEVEL.end_token_ids == {ids("<|im_end|>")}
    named = Tokenizer.from_gguf(vocabularies.byte_level(eot_token_id=ids("<|bos|>")))
    assert named.end_token_ids == {ids("<|bos|>"), ids("<|im_end|>")}
    assert named.named_tokens["eot_token"] == "<|bos|>"
    metadata = vocabularies.sentencepiece(eos_token_id=1)
    metadata["tokenizer.ggml.token_type"][2] = int(TokenType.USER_DEFINED)
    unmarked = Tokenizer.from_gguf(metadata)
    assert unmarked.end_token_ids == {1, 2}
    assert 2 in unmarked.special_token_ids


def test_tokens_of_phi_3_take_the_space_after_them() -> None:
    metadata = vocabularies.sentencepiece() | {"general.name": "Phi-3 mini"}
    tokenizer = Tokenizer.from_gguf(metadata)
    parse = {"add_special_tokens": False, "parse_special_tokens": True}
    assert tokenizer.encode("<|user|>\n a", **parse) == tokenizer.encode("<|user|>a", **parse)
    assert tokenizer.encode("<s>\na", **parse) != tokenizer.encode("<s>a", **parse)


def test_without_types_the_tokens_that_the_file_names_are_control_tokens() -> None:
    tokenizer = Tokenizer.from_gguf(vocabularies.sentencepiece(token_type=None))
    assert tokenizer.special_tokens == {"<unk>", "<s>", "</s>"}


def test_numbers_may_come_as_arrays() -> None:
    metadata = vocabularies.sentencepiece()
    for key, dtype in (("scores", np.float32), ("token_type", np.int32)):
        metadata[f"tokenizer.ggml.{key}"] = np.array(metadata[f"tokenizer.ggml.{key}"], dtype)
    assert Tokenizer.from_gguf(metadata).encode("the hello") == SENTENCEPIECE.encode("the hello")


@pytest.mark.parametrize("key", ["model", "tokens", "scores"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(TokenizerError, match=rf"tokenizer\.ggml\.{key}: is missing"):
        Tokenizer.from_gguf(vocabularies.sentencepiece(**{key: None}))


@pytest.mark.parametrize("key", ["pre", "merges"])
def test_a_missing_key_of_byte_level_models_is_named(key: str) -> None:
    with pytest.raises(TokenizerError, match=rf"tokenizer\.ggml\.{key}: is missing"):
        Tokenizer.from_gguf(vocabularies.byte_level(**{key: None}))


@pytest.mark.parametrize("name", ["nobody-knows", "", "GPT-2"])
def test_an_unknown_pre_tokenizer_is_an_error_that_lists_the_known(name: str) -> None:
    with pytest.raises(TokenizerError, match=rf"{name!r} is not known; known are .*gpt-2.*qwen2"):
        Tokenizer.from_gguf(vocabularies.byte_level(pre=name))


@pytest.mark.parametrize("model", ["t5", "bert", "rwkv", "gemma4", 7, ["llama"]])
def test_another_model_of_tokenizer_is_refused_by_name(model: Any) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.ggml\.model"):
        Tokenizer.from_gguf(vocabularies.sentencepiece(model=model))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokens", []),
        ("tokens", "text"),
        ("tokens", ["a", 3]),
        ("tokens", ["a", "a"]),
        ("tokens", ["", "[EMPTY_0]", "a"]),
        ("tokens", ["x" * 2000, "a"]),
        ("tokens", ["\ud800", *(chr(code) for code in range(0x4E00, 0x4E00 + 369))]),
        ("scores", [0.0]),
        ("scores", "text"),
        ("scores", [[0.0]]),
        ("scores", [0.0, [1.0]]),
        ("scores", [float("nan")] * 370),
        ("token_type", [1, 2]),
        ("token_type", ["a"]),
        ("bos_token_id", -1),
        ("eos_token_id", 2**32 - 1),
        ("bos_token_id", "1"),
        ("padding_token_id", True),
        ("eot_token_id", 1.0),
        ("add_bos_token", 1),
        ("add_space_prefix", "yes"),
        ("add_space_prefix", np.arange(1000)),
    ],
)
def test_s01_hostile_sentencepiece_metadata_is_one_error_that_names_the_key(key: str, value: Any) -> None:
    metadata = vocabularies.sentencepiece()
    if key == "scores" and len(value) == 370:
        value = [float("nan")] * len(metadata["tokenizer.ggml.tokens"])
    with pytest.raises(TokenizerError, match=r"^tokenizer\.ggml\.\w+: [^\n]+$"):
        Tokenizer.from_gguf(metadata | {f"tokenizer.ggml.{key}": value})


@pytest.mark.parametrize("merges", [["nobody knows"], ["a"], [""], ["a  b"], [" "], ["a b c"], [3], "a b", [None]])
def test_s01_merges_of_unknown_tokens_are_one_error_that_names_the_key(merges: Any) -> None:
    with pytest.raises(TokenizerError, match=r"^tokenizer\.ggml\.merges: [^\n]+$"):
        Tokenizer.from_gguf(vocabularies.byte_level(merges=merges))


def test_a_vocabulary_without_bytes_needs_a_token_for_the_unknown() -> None:
    tokens = {"tokens": ["▁", "a", "b"], "scores": [0.0] * 3, "token_type": [1, 1, 1], "add_bos_token": False}
    none = dict.fromkeys(["bos_token_id", "eos_token_id", "unknown_token_id"])
    tokenizer = Tokenizer.from_gguf(vocabularies.sentencepiece(**tokens, **none))  # id 0 by the family's default
    assert tokenizer.encode("ab漢字") == [0, 1, 2, 0]


def test_texts_in_place_of_numbers_are_refused_without_widening_all_of_them_to_the_longest() -> None:
    texts = ["1"] * 1000 + ["x" * 2**17]
    tracemalloc.start()
    try:
        with pytest.raises(TokenizerError, match=r"token_type: must be an array of numbers"):
            Tokenizer.from_gguf(vocabularies.sentencepiece(token_type=texts))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**26


def test_a_flag_for_a_token_that_the_file_does_not_name_is_an_error() -> None:
    with pytest.raises(TokenizerError, match="bos_token_id is missing"):
        Tokenizer.from_gguf(vocabularies.byte_level(add_bos_token=True, bos_token_id=None))


def test_empty_tokens_are_padding_and_never_in_the_way() -> None:
    metadata = vocabularies.byte_level()
    metadata["tokenizer.ggml.tokens"] += ["", ""]
    metadata["tokenizer.ggml.token_type"] += [5, 5]
    tokenizer = Tokenizer.from_gguf(metadata)
    assert tokenizer.vocab_size == BYTE_LEVEL.vocab_size + 2
    assert tokenizer.encode(small.SENTENCES[0]) == BYTE_LEVEL.encode(small.SENTENCES[0])


@pytest.mark.parametrize("tokenizer", [SENTENCEPIECE, BYTE_LEVEL], ids=["sentencepiece", "byte_level"])
@pytest.mark.parametrize("text", ["a", " ", "\n", "the ", "1", "!", "漢", " \n"])
def test_time_grows_with_the_length_of_a_text_and_not_with_its_square(tokenizer: Tokenizer, text: str) -> None:
    def seconds(num_characters: int) -> float:
        began = process_time()
        tokenizer.encode(text * (num_characters // len(text)) + "x")
        return process_time() - began

    assert seconds(160_000) < 16 * seconds(20_000) + 0.2


def test_the_template_of_a_file_renders_as_that_of_a_directory(tmp_path: Path) -> None:
    small.write(tmp_path, small.byte_level_core(), {**small.NAMED, "chat_template": real.CHATML})
    directory_tokenizer = Tokenizer.from_directory(tmp_path)
    from_directory = ChatTemplate.from_directory(tmp_path, directory_tokenizer)
    from_gguf = ChatTemplate.from_gguf({"tokenizer.chat_template": real.CHATML}, BYTE_LEVEL)
    for conversation in real.CONVERSATIONS.values():
        theirs, ours = from_directory.render(conversation), from_gguf.render(conversation)
        assert ours.text == theirs.text
        assert ours.encode(BYTE_LEVEL) == theirs.encode(directory_tokenizer)
    from_directory.close()
    from_gguf.close()


def test_a_file_may_have_a_template_of_its_own_for_tools_or_none_at_all() -> None:
    metadata = {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "tools"}
    template = ChatTemplate.from_gguf(metadata, BYTE_LEVEL)
    assert template.render([{"role": "user", "content": "x"}]).text == "plain"
    assert template.render([{"role": "user", "content": "x"}], tools=[real.WEATHER]).text == "tools"
    template.close()
    assert ChatTemplate.from_gguf({}, BYTE_LEVEL).is_default


def test_a_template_that_is_no_text_is_an_error_that_names_the_key() -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.chat_template\.tool_use"):
        ChatTemplate.from_gguf({"tokenizer.chat_template.tool_use": 3}, BYTE_LEVEL)


def _words(pre_tokenizer: str, text: str) -> list[str]:
    """The words that `text` is cut into: with every stretch of it a token, and tokens whole, a word is one token."""
    metadata = vocabularies.byte_level(pre=pre_tokenizer)
    encoded = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]
    stretches = {encoded[first:end] for first in range(len(encoded)) for end in range(first + 1, len(encoded) + 1)}
    by_length = sorted(stretches | set(pre_tokenizers.ByteLevel.alphabet()), key=lambda piece: (len(piece), piece))
    merges = [f"{piece[:cut]} {piece[cut:]}" for piece in by_length for cut in range(1, len(piece))]
    metadata |= {"tokenizer.ggml.tokens": by_length, "tokenizer.ggml.merges": merges}
    for key in ("token_type", "bos_token_id", "eos_token_id"):
        del metadata[f"tokenizer.ggml.{key}"]
    tokenizer = Tokenizer.from_gguf(metadata)
    return [tokenizer.decode([token_id]) for token_id in tokenizer.encode(text, add_special_tokens=False)]
