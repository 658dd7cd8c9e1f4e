"""Tokenizers as GGUF metadata: read back they give the same ids; what cannot be said is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Core

from tests.tokenizer_files import LLAMA_3, byte_level, sentencepiece, write_tokenizer
from transom.errors import TokenizerError
from transom.tokenizer.gguf_export import ExportedTokenizer, export_tokenizer
from transom.tokenizer.gguf_vocabulary import TokenType
from transom.tokenizer.tokenizer import Tokenizer

NUM_TOKENS = 320


def exported(directory: Path, core: Core, *, num_tokens: int = NUM_TOKENS, **token_config: Any) -> ExportedTokenizer:
    write_tokenizer(directory, core, **token_config)
    return export_tokenizer(directory, num_tokens=num_tokens, bos_token_id=0, end_token_ids=(1,))


@pytest.mark.parametrize(
    ("core", "pre"),
    [
        (byte_level(), "gpt-2"),
        (byte_level(LLAMA_3, ignore_merges=True), "llama3"),
        (byte_level(LLAMA_3.replace("{1,3}", "")), "qwen2"),
    ],
)
def test_the_pre_tokenizer_is_found_by_its_patterns(tmp_path: Path, core: Core, pre: str) -> None:
    metadata = exported(tmp_path, core).metadata
    assert metadata["tokenizer.ggml.model"] == "gpt2"
    assert metadata["tokenizer.ggml.pre"] == pre


@pytest.fixture(scope="module", params=["byte level", "sentencepiece"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Tokenizer]:
    """A tokenizer, and what is read back of its metadata."""
    directory = tmp_path_factory.mktemp("tokenizer")
    metadata = exported(directory, byte_level() if request.param == "byte level" else sentencepiece()).metadata
    return Tokenizer.from_directory(directory), Tokenizer.from_gguf(metadata)


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(
        st.characters(exclude_categories=["Cs"]) | st.sampled_from("the cat in 123 <|bos|></s>'s\n"), max_size=60
    ),
    add=st.booleans(),
    parse=st.booleans(),
)
def test_read_back_it_gives_the_same_ids(both: tuple[Tokenizer, Tokenizer], text: str, add: bool, parse: bool) -> None:
    original, written = both
    options = {"add_special_tokens": add, "parse_special_tokens": parse}
    ids = original.encode(text, **options)
    assert written.encode(text, **options) == ids
    assert written.decode(ids) == original.decode(ids)


def test_tokens_have_types_and_fill_the_embeddings(tmp_path: Path) -> None:
    core = byte_level()
    core.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    count = core.get_vocab_size()
    metadata = exported(tmp_path, core).metadata
    types, tokens = metadata["tokenizer.ggml.token_type"], metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    assert isinstance(types, np.ndarray)
    assert len(tokens) == NUM_TOKENS
    kinds = [TokenType(kind) for kind in types.tolist()]
    assert kinds[:3] == [TokenType.CONTROL, TokenType.CONTROL, TokenType.NORMAL]
    assert (tokens[count - 1], kinds[count - 1]) == ("<tool>", TokenType.USER_DEFINED)
    assert set(kinds[count:]) == {TokenType.UNUSED}
    assert len(set(tokens)) == NUM_TOKENS


def test_special_tokens_and_templates_travel(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
    write_tokenizer(tmp_path, byte_level(), pad_token="<|eos|>", chat_template=templates)
    metadata = export_tokenizer(tmp_path, num_tokens=NUM_TOKENS, bos_token_id=None, end_token_ids=(1, 7, 5)).metadata
    found = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    assert found["bos_token_id"] == 0
    assert (found["eos_token_id"], found["eot_token_id"], found["eom_token_id"]) == (1, 7, 5)
    assert found["padding_token_id"] == 1
    assert (found["add_bos_token"], found["add_eos_token"]) == (True, False)
    assert found["tokenizer.chat_template"] == "A"
    assert found["tokenizer.chat_template.tool_use"] == "B"


def test_a_normalizer_that_gets_lost_is_said(tmp_path: Path) -> None:
    core = byte_level()
    core.normalizer = normalizers.NFC()
    [note] = exported(tmp_path, core).notes
    assert "NFC" in note


def lower_case(core: Core) -> None:
    core.normalizer = normalizers.Lowercase()


def metaspace(core: Core) -> None:
    core.pre_tokenizer = pre_tokenizers.Metaspace()


def prefix_space(core: Core) -> None:
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def stripping(core: Core) -> None:
    core.add_special_tokens([AddedToken("<x>", rstrip=True)])


def two_before(core: Core) -> None:
    core.post_processor = processors.TemplateProcessing(
        single="<|bos|> <|eos|> $A", special_tokens=[("<|bos|>", 0), ("<|eos|>", 1)]
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lower_case, "the normalizer Lowercase cannot be written"),
        (metaspace, "its pre-tokenizer does not end with ByteLevel"),
        (prefix_space, "the pre-tokenizer ByteLevel, as set here, cannot be written"),
        (stripping, "rstrip of token '<x>' cannot be written"),
        (two_before, r"puts \[0, 1\] before and \[\] behind a text"),
    ],
)
def test_what_the_format_cannot_say_is_refused_by_name(
    tmp_path: Path, change: Callable[[Core], None], problem: str
) -> None:
    core = byte_level()
    change(core)
    with pytest.raises(TokenizerError, match=f"tokenizer.json: {problem}"):
        exported(tmp_path, core)


def test_an_unknown_pre_tokenizer_is_shown(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"GGUF has no name for this pre-tokenizer.*\[a-f\]\+"):
        exported(tmp_path, byte_level(r"[a-f]+|[^a-f]+"))


def test_a_tokenizer_of_another_type_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, byte_level())
    path = tmp_path / "tokenizer.json"
    description = json.loads(path.read_text())
    description["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0]], "byte_fallback": False}
    path.write_text(json.dumps(description))
    with pytest.raises(TokenizerError, match="a tokenizer of type Unigram cannot be written"):
        export_tokenizer(tmp_path, num_tokens=NUM_TOKENS, bos_token_id=0, end_token_ids=(1,))


def test_merges_that_sentencepiece_would_not_make_are_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, sentencepiece())
    path = tmp_path / "tokenizer.json"
    description = json.loads(path.read_text())
    description["model"]["merges"].pop()
    path.write_text(json.dumps(description))
    with pytest.raises(TokenizerError, match=r"its merges are not those of SentencePiece \('a' \+ 'n' is none\)"):
        export_tokenizer(tmp_path, num_tokens=NUM_TOKENS, bos_token_id=1, end_token_ids=(2,))


def test_of_many_missing_merges_the_first_of_the_vocabulary_is_named(tmp_path: Path) -> None:
    """The same file gives the same error, whatever order a set of texts happens to have."""
    write_tokenizer(tmp_path, sentencepiece())
    path = tmp_path / "tokenizer.json"
    description = json.loads(path.read_text())
    description["model"]["merges"].clear()
    path.write_text(json.dumps(description))
    with pytest.raises(TokenizerError, match=r"\('▁' \+ 't' is none\)"):
        export_tokenizer(tmp_path, num_tokens=NUM_TOKENS, bos_token_id=0, end_token_ids=(1,))


def test_more_tokens_than_embeddings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="has the token id 296, but the model has 290 embeddings"):
        exported(tmp_path, byte_level(), num_tokens=290)


def test_more_ends_than_keys_are_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, byte_level())
    with pytest.raises(TokenizerError, match="keys for 3 tokens that end a text, not for 4"):
        export_tokenizer(tmp_path, num_tokens=NUM_TOKENS, bos_token_id=0, end_token_ids=(1, 2, 3, 4))
